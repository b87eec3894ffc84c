"""Writes the demo's word problems for a recipe: `python word_problems.py OUT --split train --count 2048 [--solved]`.

With `--solved` each comes with a worked solution as `completion`, for a cold start.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from rlvr.demo.problems import Split, oracle_trace, problems, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", type=Split, choices=list(Split), default=Split.TRAIN)
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--solved", action="store_true")
    given = parser.parse_args()
    with given.out.open("w", encoding="utf-8") as file:
        for problem in itertools.islice(problems(given.split, given.seed), given.count):
            file.write(
                json.dumps(row(problem) | ({"completion": oracle_trace(problem)} if given.solved else {})) + "\n"
            )


if __name__ == "__main__":
    main()
