"""What it is worth to compute a group's common prompt once: the learner's step on layouts `shared` and `packed`.

    python benchmarks/prefix.py [--rounds 3]

A random Llama of 4 layers (13 million parameters), one group of 8 answers to one prompt, forward and backward pass.
The baseline, `packed`, computes the prompt with each answer. Both in turns, so that a slow minute of the machine hits
both; times are CPU seconds of the process, medians. Each pair's gradients are compared as well.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from muonclip import VOCABULARY, make_model
from torch import Tensor

from rlvr.config import Config
from rlvr.config_loading import check
from rlvr.learn.learner import Learner
from rlvr.learn.packing import pack
from rlvr.types import Row

GROUP_SIZE = 8
LENGTHS = ((512, 64), (256, 64), (128, 128), (64, 192))  # prompt, answer


def make_rows(prompt: int, answer: int) -> list[Row]:
    """One group, whose answers are trained by cross-entropy: the head is the same for every loss."""
    source = random.Random(0)
    common = [source.randrange(VOCABULARY) for _ in range(prompt)]
    trained = [False] * prompt + [True] * answer
    weights = [0.0] * prompt + [1.0] * answer
    answers = [[source.randrange(VOCABULARY) for _ in range(answer)] for _ in range(GROUP_SIZE)]
    return [Row(0, common + one, trained, ce=weights, trajectory=place) for place, one in enumerate(answers)]


def config_of(folder: Path, layout: str) -> Config:
    learner = {"layout": layout, "device": "cpu", "token_budget": 8192}
    return check({"model": str(folder), "data": "unused.jsonl", "learner": learner})


def started(folder: Path, layout: str) -> Learner:
    learner = Learner(config_of(folder, layout))
    learner.start()
    return learner


def gradient(learner: Learner, rows: list[Row]) -> tuple[float, dict[str, Tensor]]:
    """CPU seconds of a forward and backward pass, and the gradient it leaves."""
    objective = learner._objective(rows, None, None)
    begun = time.process_time()
    for batch in pack(rows, learner.model.plan):
        output = learner.model.logprobs(batch, objective.ids(batch.tokens))
        objective.part(output, batch.tokens).loss.backward()
    seconds = time.process_time() - begun
    found = {name: p.grad.clone() for name, p in learner.parameters.items() if p.grad is not None}
    learner.optimizer.zero_grad()
    return seconds, found


def tokens(learner: Learner, rows: list[Row]) -> int:
    return sum(batch.token_ids.numel() for batch in pack(rows, learner.model.plan))


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Of two gradients, relative to the norm of the second."""
    norm = torch.stack([g.norm() for g in theirs.values()]).norm()
    return float(torch.stack([(ours[name] - g).norm() for name, g in theirs.items()]).norm() / norm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        shared, packed = started(folder, "shared"), started(folder, "packed")
        print("| prompt | answer | tokens, packed to shared | CPU time, packed / shared | gradients differ by |")
        print("| --- | --- | --- | --- | --- |")
        for prompt, answer in LENGTHS:
            rows = make_rows(prompt, answer)
            gradient(shared, rows), gradient(packed, rows)  # the first of a length is slower
            pairs = [(gradient(packed, rows), gradient(shared, rows)) for _ in range(rounds)]
            ratio = statistics.median(theirs[0] / ours[0] for theirs, ours in pairs)
            apart = largest_difference(pairs[0][1][1], pairs[0][0][1])
            counts = f"{tokens(packed, rows):,} to {tokens(shared, rows):,}"
            print(f"| {prompt} | {answer} | {counts} | {ratio:.2f}x | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
