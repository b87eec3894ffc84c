"""Two specialists that teach each other, beside one model that is trained on both of their subjects.

The specialists are the demo's base of both subjects after reinforcement learning on word problems alone, and on small
functions alone; one pair for all seeds. They co-distill on both subjects. Against them one model is trained by GRPO on
both: from each specialist, with no fewer sampled tokens, and from the base. Greedy accuracy on held-out problems of
each subject, a mean over seeds.

    python benchmarks/codistill.py FOLDER --seed 0 --stage specialists    # then the signals, alone, whole
    python benchmarks/codistill.py FOLDER --plot docs/codistill.png       # the table of all seeds that are there

Runs that are there are left out, and one that was killed goes on: a long benchmark can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import fmean

import yaml

from rlvr.config_loading import merge
from rlvr.data import write_rows
from rlvr.demo import BASE_OF_BOTH
from rlvr.demo.problems import Split
from rlvr.demo.subjects import CODE, MATH
from rlvr.distill.codistill.plan import PeerSignal

SUBJECTS = {"math": MATH, "code": CODE}
VERIFIERS = {"math": "math_answer", "code": "code"}
RLVR = [sys.executable, "-m", "rlvr.cli"]
TRAIN, HELD_OUT = 2048, 128  # problems of each subject

# Steps are of 32 answers, which suit all of them better than 64 or 128 do.
RL = {
    "rollout": {"group_size": 8, "groups_per_step": 4, "max_staleness": 2},
    "learner": {"learning_rate": 1e-3, "warmup_steps": 5, "token_budget": 4096},
}
TAUGHT = {
    "rollout": {"group_size": 8, "groups_per_step": 4, "max_staleness": 1},
    "learner": {"learning_rate": 1e-3, "warmup_steps": 1, "token_budget": 4096},
}
# They know something from the first step on, and each is sure of wrong things in the other's subject.
PEERS = {"kappa": 3.0, "alpha_max": 0.7, "burn_in": 0.0, "ramp": 0.05, "fade": 0.1}
LARGE_STEPS = {"rollout": {"groups_per_step": 16}}  # 128 answers: a specialist near 1 in its own subject
SPECIALIST_STEPS = {"math": 100, "code": 60}
STEPS = 192  # of each peer; those of one model take no fewer tokens than those of both peers
ALONE_STEPS, WHOLE_STEPS = 180, 240
SIGNALS = tuple(map(str, PeerSignal))


@dataclass(frozen=True)
class Point:
    """An evaluation: tokens sampled until then, and accuracy by subject."""

    tokens: float
    accuracy: dict[str, float]


def settings(folder: Path, subjects: str, how: dict[str, dict[str, object]], steps: int) -> dict[str, object]:
    """Of a run on problems of `math`, `code` or `both`; on both it is evaluated."""
    prompts = {"prompt": "question", "max_prompt_tokens": 128}
    rewards = [{"use": VERIFIERS[name], "where": {"subject": name}} for name in SUBJECTS]
    held_out = {"data": {"path": str(folder / "held_out.jsonl"), **prompts}, "every_steps": 24}
    return {
        "data": {"path": str(folder / f"{subjects}.jsonl"), **prompts},
        "reward": {
            "functions": rewards if subjects == "both" else [VERIFIERS[subjects]],
            "deadline_s": 120,
        },
        "evaluation": held_out if subjects == "both" else {},
        "sampling": {"max_new_tokens": 44},
        "rollout": how["rollout"],
        "learner": how["learner"],
        "cluster": {"backend": "local"},
        "generator": {"engine": "transformers"},
        "checkpoint": {"every_steps": 10},
        "tensorboard": False,
        "steps": steps,
    }


def write_problems(folder: Path, seed: int) -> None:
    def rows(split: Split, of_seed: int, count: int, name: str) -> list[dict[str, object]]:
        subject = SUBJECTS[name]
        return [subject.row(one) | {"subject": name} for one in islice(subject.problems(split, of_seed), count)]

    for name in SUBJECTS:
        write_rows(rows(Split.TRAIN, seed, TRAIN, name), folder / f"{name}.jsonl")
    for file, split, of_seed, count in (
        ("both", Split.TRAIN, seed, TRAIN),
        ("held_out", Split.HELD_OUT, 12345, HELD_OUT),
    ):
        pairs = zip(*(rows(split, of_seed, count, name) for name in SUBJECTS), strict=True)
        write_rows([row for pair in pairs for row in pair], folder / f"{file}.jsonl")


def run(*words: str | Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*RLVR, *map(str, words)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"rlvr {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")


def run_or_resume(verb: str, folder: Path, name: str, tree: dict[str, object], checkpoints: Path) -> None:
    """A run that was killed goes on from its newest checkpoint."""
    if any(checkpoints.glob("step-*[0-9]")):
        run(verb, "--resume", f"run_dir={folder / name}")
        return
    shutil.rmtree(folder / name, ignore_errors=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree))
    run(verb, file, f"run_dir={folder / name}")


def train(folder: Path, name: str, model: Path, seed: int, tree: dict[str, object]) -> None:
    if is_done(folder / name):
        return
    tree = tree | {"model": str(model), "seed": seed}
    run_or_resume("train", folder, name, tree, folder / name / "checkpoints")
    print(f"{folder.name} {name}: {curve(folder / name)[-1:]}", flush=True)


def specialist(folder: Path, name: str) -> Path:
    """One for all seeds."""
    return folder.parent / f"specialist-{name}"


def specialists(folder: Path, seed: int) -> None:
    write_problems(folder.parent, 0)
    for name, steps in SPECIALIST_STEPS.items():
        tree = merge(settings(folder.parent, name, RL, steps), LARGE_STEPS)
        train(folder.parent, f"specialist-{name}", BASE_OF_BOTH, 0, tree)


def codistill(folder: Path, seed: int, how: str) -> None:
    if is_taught(folder, how):
        return
    tree = settings(folder, "both", TAUGHT, STEPS) | {
        "codistill": {"tag_column": "subject", "signal": how} | PEERS,
        "peers": {name: {"model": str(specialist(folder, name) / "policy")} for name in SUBJECTS},
        "seed": seed,
    }
    run_or_resume("codistill", folder, f"codistill-{how}", tree, peer(folder, how, "math") / "checkpoints")
    for name in SUBJECTS:
        print(f"{folder.name} {how}, {name}: {curve(peer(folder, how, name))[-1]}", flush=True)


def alone(folder: Path, seed: int) -> None:
    for name in SUBJECTS:
        tree = settings(folder, "both", RL, ALONE_STEPS)
        train(folder, f"alone-{name}", specialist(folder, name) / "policy", seed, tree)


def whole(folder: Path, seed: int) -> None:
    """One model that learns both subjects from the base on."""
    train(folder, "alone-base", BASE_OF_BOTH, seed, settings(folder, "both", RL, WHOLE_STEPS))


STAGES: dict[str, Callable[[Path, int], None]] = {
    "specialists": specialists,
    **{how: partial(codistill, how=how) for how in SIGNALS},
    "alone": alone,
    "whole": whole,
}


def is_done(of_run: Path) -> bool:
    return (of_run / "policy").exists()


def is_taught(folder: Path, how: str) -> bool:
    return all(is_done(peer(folder, how, name)) for name in SUBJECTS)


def peer(folder: Path, how: str, name: str) -> Path:
    return folder / f"codistill-{how}" / "peers" / name


def curve(of_run: Path) -> list[Point]:
    points, tokens = [], 0.0
    for line in map(json.loads, (of_run / "metrics.jsonl").read_text().splitlines()):
        tokens += line.get("answer/sampled_tokens", 0.0)
        if "evaluation/pass@1" in line:
            of = {name: line[f"evaluation/accuracy/{VERIFIERS[name]}"] for name in SUBJECTS}
            points.append(Point(tokens, of))
    return points


def tokens_of(of_run: Path) -> float:
    lines = map(json.loads, (of_run / "metrics.jsonl").read_text().splitlines())
    return sum(line.get("answer/sampled_tokens", 0.0) for line in lines)


def at(points: list[Point], tokens: float) -> Point:
    """On the straight line between two evaluations; the last one where there are not so many tokens."""
    after = next((place for place, point in enumerate(points) if point.tokens >= tokens), None)
    if not after:
        return points[-1 if after is None else 0]
    left, right = points[after - 1], points[after]
    share = (tokens - left.tokens) / (right.tokens - left.tokens)
    of = {name: (1 - share) * left.accuracy[name] + share * right.accuracy[name] for name in SUBJECTS}
    return Point(tokens, of)


def both(point: Point) -> float:
    return fmean(point.accuracy.values())


def show(folders: list[Path]) -> None:
    """Of the runs that are there. Tokens are those that the model itself sampled on both subjects."""
    made = {name: tokens_of(specialist(folders[0], name)) / 1000 for name in SUBJECTS}
    print(f"each specialist's own training, thousands of tokens: {made}")
    rows: dict[str, list[Point]] = defaultdict(list)
    for folder in folders:
        taught = [how for how in SIGNALS if is_taught(folder, how)]
        tokens = 0.0  # those of the last signal: they hardly differ
        for how, name in product(taught, SUBJECTS):
            tokens = sum(tokens_of(peer(folder, how, each)) for each in SUBJECTS)
            last = curve(peer(folder, how, name))[-1]
            rows[f"{name} specialist, co-distilled, {how}"].append(last)
        for run_name, row in (
            *((f"alone-{name}", f"{name} specialist, alone on both") for name in SUBJECTS),
            ("alone-base", "one model, from the base"),
        ):
            if is_done(folder / run_name):
                points = curve(folder / run_name)
                rows[f"{row}, before"].append(points[0])
                rows[f"{row}, tokens of one peer"].append(at(points, tokens / len(SUBJECTS)))
                rows[f"{row}, tokens of both"].append(at(points, tokens))
                rows[f"{row}, at its end"].append(points[-1])
    print("| | seeds | tokens, thousands | math | code | mean | mean of each seed |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, of_seeds in sorted(rows.items(), key=lambda row: fmean(map(both, row[1]))):
        spent = fmean(point.tokens for point in of_seeds) / 1000
        of = " | ".join(f"{fmean(point.accuracy[name] for point in of_seeds):.3f}" for name in SUBJECTS)
        mean, each = fmean(map(both, of_seeds)), ", ".join(f"{both(point):.3f}" for point in of_seeds)
        print(f"| {name} | {len(of_seeds)} | {spent:.0f} | {of} | {mean:.3f} | {each} |")


def plot(folders: list[Path], file: Path) -> None:
    """From specialists or the base on: a model's own tokens, and its mean accuracy of both subjects."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for number, folder in enumerate(folders):
        lines = [("one model from the base", "--", "0.5", folder / "alone-base")]
        for colour, name in zip(("C0", "C1"), SUBJECTS, strict=True):
            lines.append((f"{name} specialist, alone", ":", colour, folder / f"alone-{name}"))
            taught = peer(folder, "peer_topk", name)
            lines.append((f"{name} specialist, co-distilled", "-", colour, taught))
        for label, style, colour, of_run in lines:
            if is_done(of_run):
                points = curve(of_run)
                tokens = [point.tokens / 1000 for point in points]
                label_once = label if number == 0 else None
                axes.plot(tokens, [both(p) for p in points], style, color=colour, alpha=0.8, label=label_once)
    axes.set(
        xlabel="tokens that the model sampled on both subjects, thousands",
        ylabel="held-out accuracy, mean of both",
    )
    axes.set(xlim=(0, 350), ylim=(0.2, 1.02))  # beyond, one model has more tokens than both peers
    axes.grid(axis="y", color="#e4e4e0")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=STAGES, action="append", help="may be repeated")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder / f"seed-{arguments.seed}"
    if arguments.stage:
        write_problems(folder, arguments.seed)
    for stage in arguments.stage or []:
        STAGES[stage](folder, arguments.seed)
    seeds = [one for one in sorted(arguments.folder.glob("seed-*")) if any(is_taught(one, how) for how in SIGNALS)]
    if seeds:
        show(seeds)
    if arguments.plot:
        plot(seeds, arguments.plot)


if __name__ == "__main__":
    main()
