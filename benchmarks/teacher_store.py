"""Bytes a token and error of the teacher store, against plain int32 and float32 of the same ids.

A synthetic teacher over a real vocabulary: distributions as peaked as a language model's (half of the places have one
token above 0.9), token ids by Zipf's law. Prints what a token takes on disk, all files included, how far
log-probabilities and tail come back from where they were, and how fast it is packed and read.

    python benchmarks/teacher_store.py
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlvr.distill.packed import LEAST
from rlvr.distill.store import StoreHeader, StoreWriter, TeacherStore
from rlvr.types import ScoreRequest, TokenScores


def synthetic(
    source: np.random.Generator, places: int, vocabulary: int, k: int
) -> tuple[ScoreRequest, TokenScores, NDArray[np.float64]]:
    """A row of tokens, what the teacher says of each, and the tails."""
    sharpness = source.choice([1.0, 6.0], size=(places, 1))
    ranked = -sharpness * np.log(np.arange(1, k + 1)) + source.normal(0, 0.3, (places, k))
    rest = np.log((np.arange(k + 1, vocabulary + 1.0)[None, :] ** -sharpness).sum(1, keepdims=True))
    total = np.logaddexp(np.log(np.exp(ranked).sum(1, keepdims=True)), rest)
    logprobs = np.sort(ranked - total)[:, ::-1]
    ids = np.array([source.choice(vocabulary, k, replace=False) for _ in range(places)], np.int32)
    tokens = tuple(int(token) for token in (source.zipf(1.2, places + 1) - 1) % vocabulary)
    scores = TokenScores(logprobs[:, 0].astype(np.float32), ids, logprobs.astype(np.float32), 0)
    return ScoreRequest(tokens, top_k=k), scores, np.exp(rest - total)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256, help="scored tokens of a row")
    arguments = parser.parse_args()
    source = np.random.default_rng(0)
    rows = [synthetic(source, arguments.tokens, arguments.vocabulary, arguments.k) for _ in range(arguments.rows)]
    count = arguments.rows * arguments.tokens
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "store"
        started = time.perf_counter()
        writer = StoreWriter(folder, StoreHeader("synthetic", "", arguments.vocabulary, arguments.k, 1.0))
        writer.add([(number, request, scores) for number, (request, scores, _) in enumerate(rows)])
        writer.finish()
        written = time.perf_counter()
        back = list(TeacherStore(folder))
        read = time.perf_counter()
        size = sum(file.stat().st_size for file in folder.iterdir())

    errors, tails, divergences = [], [], []
    for (_, scores, tail), stored in zip(rows, back, strict=True):
        order, order_back = scores.ids.argsort(1), stored.scores.ids.argsort(1)
        before = np.take_along_axis(scores.id_logprobs, order, 1).astype(np.float64)
        after = np.take_along_axis(stored.scores.id_logprobs, order_back, 1).astype(np.float64)
        tail_back = np.maximum(1 - np.exp(after).sum(1), math.exp(LEAST))
        errors.append(np.abs(before - after)[before > LEAST])
        tails.append(np.abs(tail_back - tail))
        divergences.append((np.exp(before) * (before - after)).sum(1) + tail * np.log(tail / tail_back))
    plain = 8 * arguments.k + 4 + 4
    print(f"vocabulary {arguments.vocabulary}, k {arguments.k}, {count} tokens")
    print(f"bytes a token: {size / count:.1f} on disk; int32 and float32: {plain} ({plain * count / size:.2f}x)")
    error = np.concatenate(errors)
    print(f"log-probability above {LEAST:.2f}: largest error {error.max():.4f} nats, mean {error.mean():.4f}")
    print(f"tail: largest error {np.max(tails):.4f} of a probability")
    print(f"KL(teacher || stored teacher): mean {np.mean(divergences):.2e} nats, largest {np.max(divergences):.2e}")
    print(f"tokens a second: {count / (written - started):.0f} written, {count / (read - written):.0f} read")


if __name__ == "__main__":
    main()
