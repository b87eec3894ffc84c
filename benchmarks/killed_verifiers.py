"""A run whose verifiers are killed every few seconds beside the same run in peace: accuracy, and what was counted.

    python benchmarks/killed_verifiers.py [--steps 40] [--every-s 2] [--seed 0]

The demo's model and problems. Two rewards of equal weight judge each answer: a program in the sandbox, and
`math_answer` in a worker process. In one of the two runs all sandbox servers and all worker processes are killed
every few seconds. Prints both accuracies, the kills, the failures that the ledger counted, and how many scores of
the logged rollouts differ from what the answers deserve; that must be none. Exit code 1: some do, or the accuracy
suffered.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import rlvr
from rlvr.demo.problems import Split, rows
from rlvr.metrics import read_metrics
from rlvr.rewards.math import math_answer
from rlvr.rollout_log import read_rollouts
from rlvr.run_folder import RunFolder
from rlvr.sandbox import Program, Sandbox, Status

# The last number of an answer, as the program that judges sees it, and as this script does to check the scores.
LAST_NUMBER = r"-?\d+(?=\D*\Z)"
JUDGE = Program(
    f"import re, sys\nfound = re.search({LAST_NUMBER!r}, sys.stdin.read())\nprint(found[0] if found else '')"
)
SERVER, MOTHER = b"os.read(0,65536)", b"workers.mother"
TOLERANCE = 0.05  # of held-out accuracy: 256 problems, and asynchronous runs never repeat exactly

sandbox = Sandbox()


@rlvr.reward
async def in_sandbox(completion: str, answer: str) -> float:
    """Whether the last number is the right one, as a program in the sandbox says."""
    result = await sandbox.run_async(JUDGE, stdin=completion.encode())
    if result.status is not Status.OK:
        raise RuntimeError(f"{result.status}: {result.detail}")
    return float(result.stdout.decode().strip() == answer)


@dataclass
class Killer:
    """Kills all verifiers of this process, again and again."""

    every_s: float
    killed: int = 0

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._work, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _work(self, over: threading.Event) -> None:
        while not over.wait(self.every_s):
            for pid in verifiers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed += 1


def verifiers() -> list[int]:
    """Sandbox servers, and the workers that run synchronous rewards."""
    found = []
    for child in children(os.getpid()):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            found += [child] if SERVER in command else children(child) if MOTHER in command else []
    return found


def children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return found


def wrong_scores(folder: RunFolder) -> tuple[int, int]:
    """Of the logged answers with a score: how many are not what they deserve, and how many there are."""
    wrong, scored = 0, 0
    for file in sorted(folder.path.glob("rollouts/*.parquet")):
        for rollout in read_rollouts(file):
            if rollout.score is not None:
                number = re.search(LAST_NUMBER, rollout.answer)
                deserved = number is not None and number[0] == json.loads(rollout.target)
                wrong += rollout.score != float(deserved)
                scored += 1
    return wrong, scored


def train(steps: int, seed: int, killer: Killer | None, folder: Path) -> tuple[float, int]:
    """One run: held-out accuracy after it, and wrong scores."""
    with killer.at_work() if killer is not None else contextlib.nullcontext():
        result = rlvr.train(
            config=Path(str(files("rlvr.demo"))) / "demo.yaml",
            data={"path": rows(Split.TRAIN, 4096, seed), "prompt": "question"},
            evaluation_data={"path": rows(Split.HELD_OUT, 256, 12345), "prompt": "question"},
            reward=[in_sandbox.weighted(0.5), math_answer.weighted(0.5)],
            cluster={"backend": "local"},
            steps=steps,
            seed=seed,
            run_dir=str(folder),
        )
    last = [line.values for line in read_metrics(result.folder / "metrics.jsonl") if "ledger/issued" in line.values][-1]
    failures = {name: int(count) for name, count in last.items() if name.startswith("ledger/failed/") and count}
    wrong, scored = wrong_scores(RunFolder(result.folder))
    name = "in peace" if killer is None else f"{killer.killed} verifiers killed"
    print(
        f"{name}: accuracy {result.accuracy_before:.3f} -> {result.accuracy_after:.3f}; failures {failures or 'none'};"
    )
    print(f"    {wrong} of {scored} logged scores are not what the answer deserves")
    assert result.accuracy_after is not None
    return result.accuracy_after, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every-s", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peace, wrong = train(arguments.steps, arguments.seed, None, Path(folder, "peace"))
        killer = Killer(arguments.every_s)
        accuracy, more = train(arguments.steps, arguments.seed, killer, Path(folder, "killed"))
    sys.exit(0 if wrong + more == 0 and accuracy >= peace - TOLERANCE and killer.killed else 1)


if __name__ == "__main__":
    main()
