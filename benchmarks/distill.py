"""How a student learns what a teacher knows, in several ways from one starting checkpoint, over several seeds.

The student is the demo's base model (0.38M parameters). The teacher is three times as wide (3.1M), and was trained on
answers without a mistake. The ways: supervised fine-tuning on the teacher's verified answers, logit distillation on
the same answers, on-policy distillation by the reverse and by the forward KL, that with the verifier's reward beside
it, and reinforcement learning alone; one thread. A step is of 128 answers, of 32 where a teacher speaks of each token
of the student's own answers: fewer then say as much. So that this is not what makes the difference, reinforcement
learning is also run with 32. Accuracy is on 256 held-out problems, greedy. Seconds are of processor time, without the
start of a run and its evaluations: on a core of its own a run takes as long, and other work on the machine lengthens
them less than those of the clock. What the teacher, its answers and their capture took is told beside.

    python benchmarks/distill.py                                  # every piece that is not there yet, then the table
    python benchmarks/distill.py --piece rl-0                     # one of: teacher, answers, store, WAY-SEED
    python benchmarks/distill.py --plot docs/distill_curves.png   # the curves as well

Pieces are kept in FOLDER/results.json (--folder, runs/distill), so the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from rlvr.demo.problems import Split, write_jsonl
from rlvr.files import replacing
from rlvr.metrics import read_metrics

MARKS = (0.9, 0.95)  # accuracies that are waited for
TEACHER_CPU_SECONDS = 660
ANSWERS = 2048  # asked of the teacher; the right ones are kept
HELD_OUT = 256
MADE_FIRST = ("teacher", "answers", "store")
RL = "rl"


@dataclass(frozen=True)
class Point:
    """An evaluation: steps, tokens trained, and seconds until then."""

    step: int
    tokens: float
    seconds: float
    accuracy: float


@dataclass(frozen=True)
class Way:
    """A way to learn. `made_first` are the pieces, besides the teacher, whose time its own does not hold."""

    label: str
    words: tuple[str, ...]
    made_first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """Seconds of what is made first, and the curves of the ways, by piece."""

    seconds: dict[str, float]
    curves: dict[str, list[Point]]

    @classmethod
    def read(cls, file: Path) -> Results:
        if not file.is_file():
            return cls({}, {})
        read = json.loads(file.read_text(encoding="utf-8"))
        return cls(read["seconds"], {piece: [Point(**p) for p in points] for piece, points in read["curves"].items()})

    def write(self, file: Path) -> None:
        with replacing(file) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def of_way(self, way: str) -> list[list[Point]]:
        """By seed."""
        return [points for piece, points in sorted(self.curves.items()) if piece.rpartition("-")[0] == way]


def common(folder: Path) -> list[str]:
    """The settings of every run."""
    return [
        *("model=tiny", f"data.path={folder / 'train.jsonl'}", "data.prompt=question", "data.max_prompt_tokens=128"),
        *(f"evaluation.data.path={folder / 'held_out.jsonl'}", "evaluation.data.prompt=question"),
        *("evaluation.data.max_prompt_tokens=128", "sampling.max_new_tokens=44", "reward=math_answer"),
        *("learner.token_budget=4096", "learner.warmup_steps=1", "tensorboard=false", "rollout.max_staleness=0"),
        *("cluster.backend=local", "generator.engine=transformers", "checkpoint.every_steps=0"),
    ]


def ways(folder: Path) -> dict[str, Way]:
    rows, store = f"{folder / 'rows.parquet'}", f"{folder / 'store'}"
    examples = ("sft.rows_per_step=128", "learner.learning_rate=1.5e-3", "steps=24", "evaluation.every_steps=4")
    alone = ("rollout.group_size=1", "rollout.groups_per_step=32")
    groups = ("rollout.group_size=4", "rollout.groups_per_step=8")
    opd = ("distill", "opd", "--teacher", f"{folder / 'teacher'}", "learner.learning_rate=1.5e-3", "steps=48")
    opd = (*opd, "evaluation.every_steps=4")
    forward = ("--signal", "teacher_topk", "--divergence", "forward")
    rl = ("train", "rollout.group_size=8", "learner.learning_rate=6e-4")
    large = ("rollout.groups_per_step=16", "steps=72", "evaluation.every_steps=6")
    small = ("rollout.groups_per_step=4", "steps=240", "evaluation.every_steps=20")
    return {
        "sft": Way("SFT on verified answers", ("distill", "sft", "--rows", rows, *examples), ("answers",)),
        "logits": Way("logit distillation", ("distill", "logits", "--store", store, *examples), ("answers", "store")),
        "opd": Way("on-policy distillation", (*opd, *alone)),
        "opd_reward": Way("on-policy distillation with reward", (*opd, "--reward-weight", "0.2", *groups)),
        "opd_forward": Way("on-policy distillation, forward KL", (*opd, *forward, *alone)),
        "rl_small": Way("RL alone, 32 answers a step", (*rl, *small)),
        RL: Way("RL alone", (*rl, *large)),
    }


# Runs a module whose clock is the processor's: its metrics then tell of seconds that it worked.
_ON_PROCESSOR_TIME = """
import runpy, sys, time
time.perf_counter = time.process_time
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def timed(*words: str) -> float:
    """Processor seconds of a Python module with arguments, with one thread, its workers included."""
    before = os.times()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _ON_PROCESSOR_TIME, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"python -m {' '.join(words)}\n{done.stderr}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def make(piece: str, folder: Path, results: Results) -> None:
    """One piece anew, into the results."""
    if piece in MADE_FIRST:
        results.seconds[piece] = make_first(piece, folder)
        return
    way, _, seed = piece.rpartition("-")
    run = folder / piece
    shutil.rmtree(run, ignore_errors=True)
    words = ways(folder)[way].words
    verb = 1 if words[0] == "train" else 2
    timed("rlvr.cli", *words[:verb], *common(folder), *words[verb:], f"seed={seed}", f"run_dir={run}")
    results.curves[piece] = curve(run)


def make_first(piece: str, folder: Path) -> float:
    """Seconds that it took."""
    teacher, rows, store = folder / "teacher", folder / "rows.parquet", folder / "store"
    distill = ("rlvr.cli", "distill")
    if piece == "teacher":
        words = ("--author", "oracle", "--width", "3", "--prompts", "32", "--seconds", str(TEACHER_CPU_SECONDS))
        seconds = timed("rlvr.demo.build_base", *words, "--out", str(teacher))
        # Without a card that names a licence no student may learn from it.
        (teacher / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
        return seconds
    if piece == "answers":
        rows.unlink(missing_ok=True)
        words = ("--teacher", str(teacher), "-o", str(rows), "-n", "1", f"data.limit={ANSWERS}")
        return timed(*distill, "sample", *common(folder), *words)
    shutil.rmtree(store, ignore_errors=True)
    words = ("--teacher", str(teacher), "--rows", str(rows), "-o", str(store))
    return timed(*distill, "capture", *common(folder), *words)


def curve(run: Path) -> list[Point]:
    """From a run's metrics. An evaluation begins when its step has been logged, so its seconds can be left out."""
    points: list[Point] = []
    tokens = last_s = left_out_s = 0.0
    for record in read_metrics(run / "metrics.jsonl"):
        if "evaluation/pass@1" in record.values:
            left_out_s += record.wall_s - last_s
            points.append(Point(record.step, tokens, record.wall_s - left_out_s, record.values["evaluation/pass@1"]))
        tokens += record.values.get("learner/trained_tokens", 0.0)
        last_s = record.wall_s
    return points


def first_at(points: Sequence[Point], accuracy: float) -> Point | None:
    return next((point for point in points if point.accuracy >= accuracy), None)


def show(results: Results, folder: Path) -> None:
    """What was made first, and a row for each way: means over seeds, and seconds as a share of those of RL."""
    for piece, seconds in results.seconds.items():
        print(f"{piece}: {seconds:.0f} s")
    columns = [f"to {mark}: steps | tokens | seconds | of RL's" for mark in MARKS]
    print(f"| | seeds | accuracy at the end | {' | '.join(columns)} |")
    print(f"| {' | '.join(['---'] * (3 + 4 * len(MARKS)))} |")
    for name, way in ways(folder).items():
        if of_seeds := results.of_way(name):
            last = [points[-1].accuracy for points in of_seeds]
            cells = [f"{fmean(last):.3f} ({min(last):.3f} to {max(last):.3f})"]
            cells += [reached(of_seeds, results.of_way(RL), mark) for mark in MARKS]
            print(f"| {way.label} | {len(of_seeds)} | {' | '.join(cells)} |")


def reached(of_seeds: list[list[Point]], of_rl: list[list[Point]], mark: float) -> str:
    found = [point for points in of_seeds if (point := first_at(points, mark))]
    if len(found) < len(of_seeds):
        return f"{len(found)} of {len(of_seeds)} seeds | | |"
    steps, tokens, seconds = (fmean(getattr(p, name) for p in found) for name in ("step", "tokens", "seconds"))
    of_baseline = [point.seconds for points in of_rl if (point := first_at(points, mark))]
    share = f"{seconds / fmean(of_baseline):.2f}" if of_baseline else ""
    return f"{steps:.0f} | {tokens / 1000:.0f}k | {seconds:.1f} | {share}"


def plot(results: Results, folder: Path, file: Path) -> None:
    """Accuracy by tokens and by seconds: seeds as thin lines, their mean at each step as a thick one."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (by_tokens, by_seconds) = pyplot.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    colours = ("#b8860b", "#7a4fa3", "#12705b", "#2a6fb0", "#888888", "#e5a69d", "#c0392b")
    for (name, way), colour in zip(ways(folder).items(), colours, strict=True):
        of_seeds = results.of_way(name)
        if not of_seeds:
            continue
        for points in of_seeds:
            heights = [p.accuracy for p in points]
            by_tokens.plot([p.tokens / 1000 for p in points], heights, color=colour, alpha=0.3, linewidth=1)
            by_seconds.plot([p.seconds for p in points], heights, color=colour, alpha=0.3, linewidth=1)
        by_step = list(zip(*of_seeds, strict=False))  # as far as all seeds go
        means = [fmean(p.accuracy for p in at) for at in by_step]
        tokens = [fmean(p.tokens for p in at) / 1000 for at in by_step]
        by_tokens.plot(tokens, means, color=colour, linewidth=2.2, label=way.label)
        by_seconds.plot([fmean(p.seconds for p in at) for at in by_step], means, color=colour, linewidth=2.2)
    by_tokens.set(xlabel="tokens trained, thousands", ylabel="held-out accuracy, greedy", ylim=(0, 1.02))
    by_seconds.set(xlabel="seconds of processor time, start and evaluations left out")
    for axes in (by_tokens, by_seconds):
        axes.set_xlim(left=0)
        axes.grid(axis="y", color="#e4e4e0")
        axes.spines[["top", "right"]].set_visible(False)
    by_tokens.legend(fontsize=8, loc="lower right", frameon=False)
    figure.savefig(file, dpi=150, facecolor="white", metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/distill"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--piece", help="make this one anew, and nothing else")
    parser.add_argument("--plot", type=Path, help="a file for the curves")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", Split.TRAIN, 4096, 0)
    write_jsonl(folder / "held_out.jsonl", Split.HELD_OUT, HELD_OUT, 12345)
    results = Results.read(folder / "results.json")
    pieces = [*MADE_FIRST, *(f"{way}-{seed}" for seed in range(arguments.seeds) for way in ways(folder))]
    missing = [piece for piece in pieces if piece not in results.seconds and piece not in results.curves]
    for piece in [arguments.piece] if arguments.piece else missing:
        make(piece, folder, results)
        results.write(folder / "results.json")
    show(results, folder)
    if arguments.plot:
        plot(results, folder, arguments.plot)


if __name__ == "__main__":
    main()
