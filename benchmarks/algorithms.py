"""The demo's math task under several algorithms and seeds: a table, and a picture of the curves.

    python benchmarks/algorithms.py [--algorithms grpo dapo gspo cispo dis] [--seeds 3] [--at-most 1]

All settings are the demo's but `algorithm`, and that the run is in one process with one thread, where transformers
generates (`cluster.backend=local`). The baseline is the base model itself, evaluated in the same run before its first
step. Each run is kept in `--results` when it has ended, and a later call does what is not there yet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import torch

from rlvr.api import run_config
from rlvr.config import Preset
from rlvr.demo.run import demo_config
from rlvr.metrics import read_metrics

matplotlib.use("agg")

ALGORITHMS = (Preset.GRPO, Preset.DAPO, Preset.GSPO, Preset.CISPO, Preset.DIS)
LEARNED = 0.9


@dataclass(frozen=True, slots=True)
class Run:
    """Held-out accuracy (greedy) at each of `steps`, and seconds from the start of the run to its report."""

    algorithm: str
    seed: int
    steps: list[int]
    accuracy: list[float]
    seconds: float

    @property
    def learned_at(self) -> int | None:
        """The first evaluated step with an accuracy of LEARNED."""
        reached = [step for step, accuracy in zip(self.steps, self.accuracy, strict=True) if accuracy >= LEARNED]
        return reached[0] if reached else None


def run(algorithm: str, seed: int, overrides: Sequence[str]) -> Run:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        words = [f"run_dir={folder}/run", f"seed={seed}", f"algorithm={algorithm}", "cluster.backend=local"]
        config = demo_config([*words, "evaluation.every_steps=10", "tensorboard=false", *overrides])
        records = read_metrics(run_config(config, resume=False).folder / "metrics.jsonl")
    curve = {r.step: r.values["evaluation/pass@1"] for r in records if "evaluation/pass@1" in r.values}
    return Run(algorithm, seed, list(curve), list(curve.values()), time.perf_counter() - started)


def read(path: Path) -> list[Run]:
    return [Run(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def write(path: Path, runs: Sequence[Run]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in runs], indent=1) + "\n")


def table(runs: Sequence[Run], algorithms: Sequence[str]) -> str:
    steps = max(one.steps[-1] for one in runs)
    lines = [
        f"| algorithm | seeds | before | after {steps} steps | median | {LEARNED:g} reached at step | seconds a run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for algorithm in algorithms:
        own = [one for one in runs if one.algorithm == algorithm]
        if not own:
            continue
        after = [one.accuracy[-1] for one in own]
        cells = [
            algorithm,
            str(len(own)),
            ", ".join(sorted({f"{one.accuracy[0]:.2f}" for one in own})),
            ", ".join(f"{value:.2f}" for value in after),
            f"{statistics.median(after):.2f}",
            ", ".join(str(one.learned_at or "never") for one in own),
            f"{min(one.seconds for one in own):.0f} to {max(one.seconds for one in own):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(runs: Sequence[Run], algorithms: Sequence[str], path: Path) -> None:
    """A panel for each algorithm: its seeds as thin lines, their median as a thick one."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(algorithms), figsize=(2.2 * len(algorithms), 2.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, algorithm in zip(panels[0], algorithms, strict=True):
        own = [one for one in runs if one.algorithm == algorithm]
        for one in own:
            axes.plot(one.steps, one.accuracy, color="#9bbfb5", linewidth=1)
        if own:
            median = [statistics.median(values) for values in zip(*(one.accuracy for one in own), strict=True)]
            axes.plot(own[0].steps, median, color="#12705b", linewidth=2.2)
            axes.set_xlim(0, own[0].steps[-1])
        axes.set_ylim(0, 1.02)
        axes.set_title(algorithm, fontsize=10, loc="left")
        axes.set_xlabel("optimizer step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#e4e4e0")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("held-out accuracy", fontsize=9)
    figure.savefig(path, dpi=130, metadata={"Software": None}, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=[str(name) for name in ALGORITHMS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-most", type=int, default=1000, help="runs of this call")
    parser.add_argument("--results", type=Path, default=Path("runs/algorithms.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/algorithms.png"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings over the demo's")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = read(options.results)
    done = {(one.algorithm, one.seed) for one in runs}
    wanted = [(name, seed) for seed in range(options.seeds) for name in options.algorithms if (name, seed) not in done]
    for name, seed in wanted[: options.at_most]:
        runs.append(run(name, seed, options.set))
        write(options.results, runs)
        print(runs[-1], flush=True)
    print(table(runs, options.algorithms))
    if len(wanted) <= options.at_most:
        draw(runs, options.algorithms, options.figure)


if __name__ == "__main__":
    main()
