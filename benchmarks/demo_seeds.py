"""The demo over several seeds: held-out accuracy by step, as a table and as the README's figure.

    python benchmarks/demo_seeds.py [--seeds 5] [--figure docs/demo_seeds.svg] [--task code]

The baseline is the base model itself, evaluated in the same run before the first step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import matplotlib

from rlvr.api import run_config
from rlvr.demo.run import demo_config
from rlvr.demo.subjects import DemoTask
from rlvr.metrics import read_metrics

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "rlvr"  # the same figure from the same numbers

Curve = dict[int, float]


def run_seed(seed: int, task: DemoTask) -> tuple[Curve, float]:
    """Held-out accuracy by step, and seconds from the command to its end."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        config = demo_config([f"run_dir={run_dir}", f"seed={seed}", "evaluation.every_steps=10"], task)
        result = run_config(config, resume=False)
        records = read_metrics(result.folder / "metrics.jsonl")
    curve = {r.step: r.values["evaluation/pass@1"] for r in records if "evaluation/pass@1" in r.values}
    return curve, time.perf_counter() - started


def draw(curves: list[Curve], path: Path) -> None:
    """Each seed as a thin line, their median as a thick one."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for curve in curves:
        axes.plot(list(curve), list(curve.values()), color="#9bbfb5", linewidth=1)
    steps = list(curves[0])
    median = [statistics.median(curve[step] for curve in curves) for step in steps]
    axes.plot(steps, median, color="#12705b", linewidth=2.5)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, steps[-1])
    axes.set_xlabel("optimizer step (128 answers each)")
    axes.set_ylabel("held-out accuracy")
    axes.set_title(f"{len(curves)} seeds and their median", fontsize=10, loc="left")
    axes.grid(axis="y", color="#e4e4e0")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", type=Path, default=Path("docs/demo_seeds.svg"))
    parser.add_argument("--task", type=DemoTask, default=DemoTask.MATH)
    options = parser.parse_args()
    curves = []
    print("| seed | before | after | seconds in all |")
    for seed in range(options.seeds):
        curve, seconds = run_seed(seed, options.task)
        values = list(curve.values())
        print(f"| {seed} | {values[0]:.2f} | {values[-1]:.2f} | {seconds:.0f} |", flush=True)
        curves.append(curve)
    draw(curves, options.figure)


if __name__ == "__main__":
    main()
