"""Math verdicts per second beside Math-Verify alone, in the same run, on the graded solutions of GSM8K.

    RLVR_DATA=data python benchmarks/math.py [--baseline-answers 1500]

Math-Verify judges as it is used today: `parse` and `verify` with its default timeouts, one answer after the other on
the main thread of a process of its own. `math_answer` judges on an event loop, many answers in flight, every answer
once (nothing is remembered from a run before); then again with one answer in twenty replaced by a hostile one. Beside
the rates stand the slowest answer, from when a worker or the loop takes it, and the longest gap between two turns of
the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.rewards.math import MathVerifier

IN_FLIGHT = 4
HOSTILE = [
    r"9^{9^{9^9}}",
    "99999999!",
    r"\binom{10^9}{10^8}",
    r"\sum_{k=1}^{100000000} k^2",
    r"\prod_{k=1}^{999} k^{k^2}",
    r"\tan(10^{3000})",
    "7^" * 40 + "7",
    "(" * 5000 + "1" + ")" * 5000,
    r"\frac{1}{" * 300 + "1" + "}" * 300,
    "9" * 50_000,
    r"(x+y+z+1)^{500}",
    "1/" * 200 + "1",
    "a, " * 300,
    r"\pm" * 300,
    r"\left|" * 40 + "x" + r"\right|" * 40,
    "√" * 900,
    "((2000!)^{9000})",
    r"\boxed{" * 1000,
]


@dataclass(frozen=True, slots=True)
class Answer:
    """A solution, the reference's, and what its label says; a hostile one is wrong."""

    solution: str
    gold: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What a verifier did, how long it took in all, its slowest answer, and the loop's longest gap."""

    answers: int
    decided: int
    seconds: float
    agreeing: int
    slowest_s: float
    longest_gap_s: float | None = None

    @property
    def rate(self) -> float:
        return self.answers / self.seconds


def graded_solutions() -> list[Answer]:
    path = Path(os.environ["RLVR_DATA"]) / "gsm8k_graded_solutions.jsonl"
    rows = map(json.loads, filter(None, path.read_text(encoding="utf-8").split("\n")))
    return [Answer(row["solution"], row["gold"], row["is_correct"]) for row in rows]


def with_hostile(answers: Sequence[Answer]) -> list[Answer]:
    """One in twenty replaced by a hostile one, each written a little differently, so that none is remembered."""
    mixed = list(answers)
    chosen = random.Random(0).sample(range(len(mixed)), len(mixed) // 20)
    for count, index in enumerate(chosen):
        hostile = rf"So it is \boxed{{{HOSTILE[count % len(HOSTILE)]} + {count}}}"
        mixed[index] = Answer(hostile, mixed[index].gold, correct=False)
    return mixed


def math_verify_alone(answers: Sequence[Answer]) -> Measured:
    """Runs in a process of its own: Math-Verify's timeouts are signals, and need its main thread."""
    from math_verify import parse, verify

    parse("$1$")
    agreeing, slowest = 0, 0.0
    started = time.perf_counter()
    for answer in answers:
        before = time.perf_counter()
        verdict = verify(parse(answer.gold), parse(answer.solution))
        slowest = max(slowest, time.perf_counter() - before)
        agreeing += verdict == answer.correct
    return Measured(len(answers), len(answers), time.perf_counter() - started, agreeing, slowest)


async def math_answer(answers: Sequence[Answer]) -> Measured:
    verifier = MathVerifier()
    await asyncio.to_thread(verifier.warm_up)
    left = iter(answers)
    decided, agreeing, slowest = 0, 0, 0.0
    watcher = asyncio.create_task(longest_gap())

    async def judge() -> None:
        nonlocal decided, agreeing, slowest
        for answer in left:
            before = time.perf_counter()
            score = await verifier.score(answer.solution, answer.gold)
            slowest = max(slowest, time.perf_counter() - before)
            decided += score.value is not None
            agreeing += score.value == float(answer.correct)
            await asyncio.sleep(0)

    started = time.perf_counter()
    await asyncio.gather(*(judge() for _ in range(IN_FLIGHT)))
    seconds = time.perf_counter() - started
    watcher.cancel()
    gap = await watcher
    verifier.close()
    return Measured(len(answers), decided, seconds, agreeing, slowest, gap)


async def longest_gap() -> float:
    """The longest time between two turns of the loop, until cancelled."""
    longest, before = 0.0, time.perf_counter()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
    return longest


def shown(name: str, measured: Measured, baseline: Measured) -> str:
    gap = "" if measured.longest_gap_s is None else f"{1000 * measured.longest_gap_s:.0f} ms"
    return (
        f"{name:<36}{measured.rate:>12,.0f}{measured.rate / baseline.rate:>10.1f}x"
        f"{measured.decided / measured.answers:>10.2%}{measured.agreeing / measured.decided:>13.2%}"
        f"{1000 * measured.slowest_s:>10,.0f} ms{gap:>10}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline-answers", type=int, default=1500, help="how many answers Math-Verify alone judges")
    arguments = parser.parse_args()
    if "RLVR_DATA" not in os.environ:
        sys.exit("RLVR_DATA: name the folder that holds gsm8k_graded_solutions.jsonl")
    answers = graded_solutions()
    sample = random.Random(1).sample(answers, min(arguments.baseline_answers, len(answers)))
    with multiprocessing.get_context("spawn").Pool(1) as process:
        baseline = process.apply(math_verify_alone, (sample,))
    ours = asyncio.run(math_answer(answers))
    hostile = asyncio.run(math_answer(with_hostile(answers)))
    print(f"{'':<36}{'verdicts/s':>12}{'ratio':>11}{'decided':>10}{'as labelled':>13}{'slowest':>13}{'loop gap':>10}")
    print(shown(f"Math-Verify alone, {baseline.answers:,} answers", baseline, baseline))
    print(shown(f"math_answer, {ours.answers:,} answers", ours, baseline))
    print(shown("math_answer, 5 % hostile", hostile, baseline))


if __name__ == "__main__":
    main()
