"""What peers say of a step's rows, as far as they say it in time. Nobody is waited for beyond that."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlvr.distill.codistill.peers import LivePeer
from rlvr.distill.codistill.weights import overlap
from rlvr.distill.signals import first_trained
from rlvr.generate.pool import GeneratorPool
from rlvr.types import Row, ScoreRequest, TokenScores

# Rows of a step, evenly spread, that every peer is shown whatever the gates say: overlap and KL are measured on them.
_WATCHED = 16


@dataclass
class Said:
    """What one peer said. Rows are named by their place in the step."""

    asked: int = 0
    scores: dict[int, TokenScores] = field(default_factory=dict)
    failure: BaseException | None = None  # of the peer, if it failed

    @property
    def dropped(self) -> int:
        """Rows of which it said nothing in time."""
        return self.asked - len(self.scores)


@dataclass(frozen=True)
class Heard:
    """What all peers said of a step's rows, and what the student itself finds likely in those that are watched."""

    rows: Sequence[Row]
    own: Said
    peers: dict[str, Said]

    def overlap(self, peer: str) -> float | None:
        """Mean share of likeliest ids in common, over the tokens of watched rows; None where nothing was heard."""
        both = [
            overlap(of_row.ids, self.peers[peer].scores[place].ids)[self.trained(place)]
            for place, of_row in self.own.scores.items()
            if place in self.peers[peer].scores
        ]
        return float(np.mean(np.concatenate(both))) if both else None

    def differs(self, peer: str, low: float) -> bool:
        """Whether the overlap is known, and below `low`."""
        share = self.overlap(peer)
        return share is not None and share < low

    def kl(self, peer: str) -> float | None:
        """KL(student || peer) in nats a token, estimated from the sampled tokens of watched rows."""
        gaps = [
            (self.logprobs(place) - self.peers[peer].scores[place].logprobs)[self.trained(place)]
            for place in self.own.scores
            if place in self.peers[peer].scores
        ]
        return float(np.mean(np.concatenate(gaps))) if gaps else None

    def logprobs(self, place: int) -> np.ndarray:
        """The sampler's, from the row's first trained token on."""
        row = self.rows[place]
        assert row.rl is not None
        return np.asarray(row.rl.sampler_logprobs[first_trained(row) :])

    def trained(self, place: int) -> np.ndarray:
        """Which tokens are trained, from the first of them on."""
        row = self.rows[place]
        return np.asarray(row.trained[first_trained(row) :])


def watched(rows: Sequence[Row]) -> range:
    """Places of the rows that are shown to every peer."""
    return range(0, len(rows), max(1, len(rows) // _WATCHED))


async def hear(
    rows: Sequence[Row],
    taught: Mapping[LivePeer, Collection[int]],
    student: GeneratorPool,
    temperature: float,
    k: int,
    patience_s: float,
) -> Heard:
    """Ask each peer about the rows it may teach, and about the watched ones; take what it says within `patience_s`.

    All are asked at one time, at the student's `temperature`, for the sampled tokens' log-probabilities; for the `k`
    likeliest ids besides where a row is watched.
    """
    own, said = Said(), {peer.name: Said() for peer in taught}
    calls: dict[asyncio.Task[TokenScores], tuple[Said, int]] = {}

    def ask(whom: GeneratorPool | LivePeer, answers: Said, place: int, top_k: int) -> None:
        row = rows[place]
        request = ScoreRequest(tuple(row.token_ids), first_trained(row), temperature, top_k=top_k)
        calls[asyncio.create_task(whom.score(request))] = (answers, place)
        answers.asked += 1

    for place in watched(rows):
        ask(student, own, place, k)
    for peer, places in taught.items():
        for place in sorted({*places, *watched(rows)}):
            ask(peer, said[peer.name], place, k if place in watched(rows) else 0)
    done, late = await asyncio.wait(calls, timeout=patience_s) if calls else (set(), set())
    for call in late:
        call.cancel()
    for call in done:
        answers, place = calls[call]
        if (failure := call.exception()) is not None:
            answers.failure = failure
        else:
            answers.scores[place] = call.result()
    return Heard(rows, own, said)
