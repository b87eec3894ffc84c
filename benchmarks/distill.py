"""How a student learns what a teacher knows, five ways, from one starting checkpoint, on two cores.

The teacher is the demo's base model after 100 steps of reinforcement learning on word problems; the student is the
base model. Supervised fine-tuning on the teacher's verified answers, logit distillation on the same answers,
on-policy distillation, on-policy distillation with the verifier's reward, and reinforcement learning alone, with 128
answers a step. Accuracy is on 128 held-out problems, greedy. Seconds are of the run without its start and its
evaluations; those of the teacher, and of sampling and capturing its answers, are told apart.

    python benchmarks/distill.py [--seeds 3] [--teacher FOLDER] [--plot docs/distill_curves.svg]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rlvr.demo.problems import Split, write_jsonl

RIGHT = 0.9
RLVR = [sys.executable, "-m", "rlvr.cli"]


@dataclass(frozen=True)
class Point:
    """An evaluation: steps, tokens trained, and seconds until then."""

    step: int
    tokens: float
    seconds: float
    accuracy: float


def common(folder: Path) -> list[str]:
    held_out = folder / "held_out.jsonl"
    return [
        *("model=tiny", f"data.path={folder / 'train.jsonl'}", "data.prompt=question", "data.max_prompt_tokens=128"),
        *(f"evaluation.data.path={held_out}", "evaluation.data.prompt=question"),
        *("evaluation.data.max_prompt_tokens=128", "sampling.max_new_tokens=44", "reward=math_answer"),
        *("learner.token_budget=4096", "learner.warmup_steps=1", "tensorboard=false", "rollout.max_staleness=0"),
        *("cluster.backend=local", "generator.engine=transformers", "checkpoint.every_steps=0"),
    ]


def run(*words: str | Path) -> float:
    """Seconds of an `rlvr` command."""
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*RLVR, *map(str, words)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"rlvr {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def curve(folder: Path) -> list[Point]:
    """From a run's metrics. An evaluation begins when its step has been logged, so its seconds can be left out."""
    points: list[Point] = []
    tokens = last_s = left_out_s = 0.0
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if "evaluation/pass@1" in line:
            left_out_s += line["wall_s"] - last_s
            points.append(Point(line["step"], tokens, line["wall_s"] - left_out_s, line["evaluation/pass@1"]))
        tokens += line.get("learner/trained_tokens", 0.0)
        last_s = line["wall_s"]
    return points


def first_right(points: list[Point]) -> Point | None:
    return next((point for point in points if point.accuracy >= RIGHT), None)


def show(curves: dict[str, list[list[Point]]]) -> None:
    print(f"{'':34}{'accuracy':>9}{f'steps to {RIGHT}':>14}{'tokens':>10}{'seconds':>9}{'vs RL':>7}")
    reached = {name: [first_right(points) for points in of_seeds] for name, of_seeds in curves.items()}
    baseline = [point.seconds for point in reached["reinforcement learning"] if point]
    for name, of_seeds in curves.items():
        accuracy = fmean(points[-1].accuracy for points in of_seeds)
        found = [point for point in reached[name] if point]
        if len(found) < len(of_seeds):
            print(f"{name:34}{accuracy:9.2f}   {len(found)} of {len(of_seeds)} seeds came so far")
            continue
        step, tokens, seconds = (fmean(getattr(p, field) for p in found) for field in ("step", "tokens", "seconds"))
        ratio = f"{seconds / fmean(baseline):7.2f}" if baseline else ""
        print(f"{name:34}{accuracy:9.2f}{step:14.0f}{tokens:10.0f}{seconds:9.1f}{ratio}")


def plot(curves: dict[str, list[list[Point]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for number, (name, of_seeds) in enumerate(curves.items()):
        for seed, points in enumerate(of_seeds):
            label = name if seed == 0 else None
            heights = [p.accuracy for p in points]
            axes[0].plot([p.tokens / 1000 for p in points], heights, color=f"C{number}", label=label, alpha=0.8)
            axes[1].plot([p.seconds for p in points], heights, color=f"C{number}", alpha=0.8)
    axes[0].set(xlabel="tokens trained, thousands", ylabel="held-out accuracy", ylim=(0, 1.02))
    axes[1].set(xlabel="seconds, evaluations left out")
    axes[0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher", type=Path, help="a teacher that is there already")
    parser.add_argument("--rl-steps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=24, help="of each way of distillation")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    curves: dict[str, list[list[Point]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_jsonl(folder / "train.jsonl", Split.TRAIN, 4096, 0)
        write_jsonl(folder / "held_out.jsonl", Split.HELD_OUT, 128, 12345)
        settings = common(folder)
        rl = ["rollout.group_size=8", "rollout.groups_per_step=16", "learner.learning_rate=6e-4"]
        teacher = arguments.teacher or folder / "teacher" / "policy"
        if arguments.teacher is None:
            spent = run("train", *settings, *rl, "steps=100", f"run_dir={folder / 'teacher'}")
            print(f"teacher: {spent:.0f} s")
        rows, store = folder / "rows.parquet", folder / "store"
        sampling = run("distill", "sample", *settings, "--teacher", teacher, "-o", rows, "-n", 1, "data.limit=2048")
        captured = run("distill", "capture", *settings, "--teacher", teacher, "--rows", rows, "-o", store)
        print(f"sampling the teacher: {sampling:.0f} s; capturing: {captured:.0f} s", flush=True)
        alone = ["rollout.group_size=1", "rollout.groups_per_step=128", "rollout.drop_zero_variance=false"]
        dense = ["--teacher", teacher, "--signal", "teacher_topk", "--divergence", "forward", *alone]
        fast = ["learner.learning_rate=1.2e-3", f"steps={arguments.steps}", "evaluation.every_steps=4"]
        slow = ["learner.learning_rate=6e-4", f"steps={arguments.rl_steps}", "evaluation.every_steps=6"]
        ways: dict[str, list[str | Path]] = {
            "supervised fine-tuning": ["distill", "sft", "--rows", rows, *alone, *fast],
            "logit distillation": ["distill", "logits", "--store", store, *alone, *fast],
            "on-policy distillation": ["distill", "opd", *dense, *fast],
            "on-policy distillation and reward": [
                *("distill", "opd", *dense, "--reward-weight", "0.2", *fast),
                *("rollout.group_size=4", "rollout.groups_per_step=32"),
            ],
            "reinforcement learning": ["train", *rl, *slow],
        }
        for seed in range(arguments.seeds):
            for name, words in ways.items():
                of_run = folder / f"{name.replace(' ', '-')}-{seed}"
                run(*words[:2], *settings, *words[2:], f"seed={seed}", f"run_dir={of_run}")
                curves[name].append(curve(of_run))
                last = curves[name][-1][-1]
                print(f"seed {seed}, {name}: {last.accuracy:.2f} after {last.seconds:.0f} s", flush=True)
    show(curves)
    if arguments.plot:
        plot(curves, arguments.plot)


if __name__ == "__main__":
    main()
