"""Writes the demo's problems for a recipe: `python demo_problems.py OUT --task mixed --count 2048 [--solved]`.

A row has `question`, `answer` and, as `tag`, its subject: math or code. Unit tests are JSON text, so that all rows have
one form. With `--solved` each comes with a worked solution as `completion`, for a cold start.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rlvr.data import write_rows
from rlvr.demo.problems import Split
from rlvr.demo.subjects import DemoTask


def rows(task: DemoTask, split: Split, seed: int, *, solved: bool) -> Iterator[dict[str, Any]]:
    """Without end; of several subjects by turns."""
    sources = [(subject, subject.problems(split, seed)) for subject in task.subjects]
    for subject, source in cycle(sources):
        problem = next(source)
        row = subject.row(problem)
        answer = row["answer"] if isinstance(row["answer"], str) else json.dumps(row["answer"])
        solution = {"completion": subject.oracle_trace(problem)} if solved else {}
        yield row | {"answer": answer, "tag": subject.name} | solution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", type=DemoTask, choices=list(DemoTask), default=DemoTask.MATH)
    parser.add_argument("--split", type=Split, choices=list(Split), default=Split.TRAIN)
    parser.add_argument("--count", type=int, default=2048, help="rows, of all subjects together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--solved", action="store_true")
    given = parser.parse_args()
    write_rows(islice(rows(given.task, given.split, given.seed, solved=given.solved), given.count), given.out)


if __name__ == "__main__":
    main()
