"""Asynchronous against synchronous: the same run with `max_staleness` 0 and above, side by side in turns.

    python benchmarks/overlap.py [--steps 10] [--staleness 2] [--repeats 3]

The generator has one core and the learner the other. Answers have a long tail: an env asks the policy to go on, a
log-normal number of times. Prints trained tokens per second of both, their ratio, and where each role's time went:
busy, updating and waiting add up to 100 %.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlvr.api import train
from rlvr.demo.problems import Split, rows
from rlvr.metrics import read_metrics
from rlvr.types import Message, Task

# Of the log-normal number of turns: median 3, and one episode in twenty has more than 11.
TURNS_MU, TURNS_SIGMA = 1.1, 0.8
WARM_UP_STEPS = 3


class GoOn:
    """Asks for another try, a number of times with a long tail that depends on the first answer alone."""

    def __init__(self) -> None:
        self._turns = 1

    async def follow(self, task: Task, answer: str, turn: int) -> Sequence[Message] | None:
        if turn == 0:
            self._turns = max(1, round(random.Random(task.id + answer).lognormvariate(TURNS_MU, TURNS_SIGMA)))
        return [Message(role="user", content="Once more.")] if turn + 1 < self._turns else None

    async def close(self) -> None:
        return None


def measure(staleness: int, steps: int, seed: int) -> dict[str, float]:
    """One run; means over the steps after warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            model="tiny",
            data={"path": rows(Split.TRAIN, 2048, seed), "prompt": "question"},
            reward="math_answer",
            env=f"{Path(__file__).resolve()}:GoOn",
            rollout={"max_staleness": staleness, "drop_zero_variance": False, "groups_per_step": 8},
            sampling={"max_new_tokens": 384},
            learner={"learning_rate": 1e-6},
            steps=steps,
            seed=seed,
            run_dir=str(Path(folder) / "run"),
        )
        lines = [line for line in read_metrics(result.folder / "metrics.jsonl") if line.step > WARM_UP_STEPS]
    return {name: statistics.fmean(line.values[name] for line in lines) for name in lines[0].values}


def main() -> None:
    """Runs both in turns, so that a slow minute of the machine hits both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--staleness", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ratios = []
    for seed in range(options.repeats):
        runs = {s: measure(s, options.steps, seed) for s in (0, options.staleness)}
        for staleness, metrics in runs.items():
            print(_line(staleness, metrics), flush=True)
        speed = {s: m["throughput/trained_tokens_per_s"] for s, m in runs.items()}
        ratios.append(speed[options.staleness] / speed[0])
    print(
        f"asynchronous / synchronous: {statistics.median(ratios):.2f} (median of {len(ratios)}; "
        f"{', '.join(f'{r:.2f}' for r in ratios)})"
    )


def _line(staleness: int, metrics: dict[str, float]) -> str:
    generator = [metrics[f"time/generator_{part}_share"] for part in ("busy", "updating", "waiting")]
    learner = [metrics[f"time/learner_{part}_share"] for part in ("busy", "waiting")]
    return (
        f"max_staleness {staleness}: {metrics['throughput/trained_tokens_per_s']:7.0f} trained tokens/s | "
        f"generator busy {generator[0]:.0%}, updating {generator[1]:.0%}, waiting {generator[2]:.0%} "
        f"(sum {sum(generator):.0%}) | learner busy {learner[0]:.0%}, waiting {learner[1]:.0%} (sum {sum(learner):.0%})"
    )


if __name__ == "__main__":
    main()
