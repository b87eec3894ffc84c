"""What peers say of a step's rows, as far as they say it in time. Nobody is waited for beyond that."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rlvr.distill.codistill.peers import LivePeer
from rlvr.distill.codistill.plan import PeerSignal
from rlvr.distill.codistill.weights import overlap
from rlvr.distill.signals import first_trained
from rlvr.generate.pool import GeneratorPool
from rlvr.types import Row, ScoreRequest, TokenScores

# Rows of a step, evenly spread, that every peer is shown whatever the gates say: overlap and KL are measured on them.
_WATCHED = 16


@dataclass
class Said:
    """What one peer said, or the student itself. Rows are named by their place in the step.

    `watched` has the likeliest ids of rows that every peer is shown. `taught` is of the rows that it may teach: what
    it says of their sampled tokens, or of the ids that the student or it finds likeliest.
    """

    asked: int = 0
    answered: int = 0  # in time
    watched: dict[int, TokenScores] = field(default_factory=dict)
    taught: dict[int, TokenScores] = field(default_factory=dict)
    failure: BaseException | None = None  # of the one who was asked

    def versions(self) -> list[int]:
        """Of the weights with which it spoke."""
        return [scores.version for scores in (self.watched | self.taught).values()]


@dataclass(frozen=True)
class Heard:
    """What all peers said of a step's rows, and what the student itself finds likely in those that are watched."""

    rows: Sequence[Row]
    own: Said
    peers: dict[str, Said]

    def overlap(self, peer: str) -> float | None:
        """Mean share of likeliest ids in common, over the tokens of watched rows; None where nothing was heard."""
        both = [
            overlap(of_row.ids, self.peers[peer].watched[place].ids)[self.trained(place)]
            for place, of_row in self.own.watched.items()
            if place in self.peers[peer].watched
        ]
        return float(np.mean(np.concatenate(both))) if both else None

    def differs(self, peer: str, low: float) -> bool:
        """Whether the overlap is known, and below `low`."""
        share = self.overlap(peer)
        return share is not None and share < low

    def kl(self, peer: str) -> float | None:
        """KL(student || peer) in nats a token, estimated from the sampled tokens of watched rows."""
        gaps = [
            (self.logprobs(place) - said.logprobs)[self.trained(place)]
            for place, said in self.peers[peer].watched.items()
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
    signal: PeerSignal,
    k: int,
    patience_s: float,
) -> Heard:
    """Ask each peer about the rows it may teach, and about the watched ones; take what it says within `patience_s`.

    All are asked at one time, at the student's `temperature`; `k` ids of a token are compared, and of the topk
    signals taught.
    """
    shown = watched(rows)
    questions = _Questions(rows, student, temperature, k)
    own, said = questions.own, {peer.name: Said() for peer in taught}
    for place in shown:
        questions.ask(own, own.watched, place, questions.of_student(place))
    for peer, places in taught.items():
        answers = said[peer.name]
        for place in shown:
            questions.ask(answers, answers.watched, place, questions.likeliest(peer, place))
        for place in places:
            match signal:
                case PeerSignal.STUDENT_TOPK:
                    questions.ask(answers, answers.taught, place, questions.at_students_ids(peer, place))
                case _ if place in shown:
                    pass  # what is asked there says it already
                case PeerSignal.PEER_TOPK:
                    questions.ask(answers, answers.taught, place, questions.likeliest(peer, place))
                case PeerSignal.SAMPLED:
                    questions.ask(answers, answers.taught, place, questions.sampled(peer, place))
    await questions.wait(patience_s)
    if signal is not PeerSignal.STUDENT_TOPK:
        for peer, places in taught.items():
            answers = said[peer.name]
            answers.taught |= {place: answers.watched[place] for place in places if place in answers.watched}
    return Heard(rows, own, said)


class _Questions:
    """Those of one step, and where the answers to them go."""

    def __init__(self, rows: Sequence[Row], student: GeneratorPool, temperature: float, k: int) -> None:
        self._rows = rows
        self._student = student
        self._temperature = temperature
        self._k = k
        self.own = Said()
        self._calls: dict[asyncio.Task[TokenScores], tuple[Said, dict[int, TokenScores], int]] = {}
        self._of_student: dict[int, asyncio.Task[TokenScores]] = {}

    def ask(
        self, said: Said, answers: dict[int, TokenScores], place: int, call: Coroutine[None, None, TokenScores]
    ) -> None:
        self._calls[asyncio.create_task(call)] = (said, answers, place)
        said.asked += 1

    async def wait(self, patience_s: float) -> None:
        """Until all is said, no longer than `patience_s`."""
        _, late = await asyncio.wait(self._calls, timeout=patience_s) if self._calls else (set(), set())
        for call in (*late, *self._of_student.values()):
            call.cancel()
        await asyncio.gather(*self._calls, *self._of_student.values(), return_exceptions=True)
        asked = self._of_student.values()
        of_student = [call.exception() for call in asked if call.done() and not call.cancelled()]
        for call, (said, answers, place) in self._calls.items():
            if call in late or call.cancelled():
                continue
            if (failure := call.exception()) is not None:
                # A peer that was to speak of the student's ids was not asked where the student did not name them.
                (self.own if failure in of_student else said).failure = failure
            else:
                said.answered += 1
                answers[place] = call.result()

    async def of_student(self, place: int) -> TokenScores:
        """What the student finds likeliest in a row: asked once, whoever wants to know."""
        if place not in self._of_student:
            self._of_student[place] = asyncio.create_task(self._student.score(self._question(place, self._k)))
        return await asyncio.shield(self._of_student[place])

    async def likeliest(self, peer: LivePeer, place: int) -> TokenScores:
        return await peer.score(self._question(place, self._k))

    async def sampled(self, peer: LivePeer, place: int) -> TokenScores:
        return await peer.score(self._question(place, 0))

    async def at_students_ids(self, peer: LivePeer, place: int) -> TokenScores:
        own = await self.of_student(place)
        return await peer.score(replace(self._question(place, 0), ids=own.ids))

    def _question(self, place: int, top_k: int) -> ScoreRequest:
        row = self._rows[place]
        return ScoreRequest(tuple(row.token_ids), first_trained(row), self._temperature, top_k=top_k)
