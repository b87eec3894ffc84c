"""What a teacher's word on a student's own answers trains: a signal makes streams of a row.

With q the student's distribution in a token's place, p the teacher's and t the token that the student sampled:

- SAMPLED: the advantage `clip(log p(t) - log q(t))`. Its expected policy gradient is that of KL(q || p) exactly, for
  one number a token; single tokens are noisy.
- STUDENT_TOPK: the divergence on the student's K likeliest ids and the tail. Nearly the gradient of KL(q || p): what
  the student's tail holds is one outcome.
- TEACHER_TOPK: the same on the teacher's likeliest ids, which suits the forward KL(p || q).
- SPANS: SAMPLED for a teacher with another tokenizer, on pieces of text that end at tokens of both; the last token of
  each has the advantage of all (`rlvr.distill.readings.OtherTokenizer`).

The verifier's advantage may count beside any of them. How exact each gradient is, tests/distill/test_signals.py
measures against the whole vocabulary's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from rlvr.plugins import CommandError
from rlvr.types import Divergence, KLStream, Row, ScoreRequest, TokenScores


class SignalError(CommandError):
    """A signal that cannot be made as it was asked for."""


class SignalKind(StrEnum):
    """What the teacher is asked."""

    SAMPLED = "sampled"
    STUDENT_TOPK = "student_topk"
    TEACHER_TOPK = "teacher_topk"
    SPANS = "spans"

    @property
    def is_dense(self) -> bool:
        """Whether it is a divergence over ids, and not an advantage."""
        return self in (SignalKind.STUDENT_TOPK, SignalKind.TEACHER_TOPK)


@dataclass(frozen=True, slots=True)
class Signal:
    """What is asked and how it counts. `clip` is in nats; `reward` multiplies the verifier's advantage."""

    kind: SignalKind = SignalKind.STUDENT_TOPK
    k: int = 32
    divergence: Divergence = field(default_factory=Divergence.reverse_kl)
    clip: float = 5.0
    reward: float = 0.0

    def __post_init__(self) -> None:
        if self.k < 1 or self.clip <= 0 or self.reward < 0:
            raise SignalError(
                f"a signal needs k of 1 or more, clip above 0 and reward of 0 or more; got k={self.k}, "
                f"clip={self.clip:g}, reward={self.reward:g}"
            )

    @property
    def asks_student(self) -> bool:
        """Whether the ids are the student's."""
        return self.kind is SignalKind.STUDENT_TOPK

    def rehearsal(self, temperature: float) -> ScoreRequest:
        """A question like those about rows, of two tokens: whether a teacher can answer it is known at the start."""
        if self.asks_student:
            return ScoreRequest((0, 0), 1, temperature, ids=np.zeros((1, self.k), np.int32))
        return ScoreRequest((0, 0), 1, temperature, top_k=self._k)

    def question(self, row: Row, temperature: float) -> ScoreRequest:
        """What to ask first about a row: the one of the two who chooses the ids."""
        return ScoreRequest(tuple(row.token_ids), first_trained(row), temperature, top_k=self._k)

    def taught(self, row: Row, scores: TokenScores) -> Row:
        """The row with the streams that the teacher's `scores` make, of its tokens from the first trained on.

        Raises SignalError for a row without an `rl` stream where the signal is an advantage.
        """
        untaught = self.untaught(row)
        if self.kind.is_dense:
            return replace(untaught, kl=kl_stream(row, scores, self.divergence))
        rl = untaught.rl
        if rl is None:
            raise SignalError(f"the signal {self.kind} is of a policy's own answers: the row has no rl stream")
        soft = _sampled(row, scores, rl.sampler_logprobs, self.clip)
        advantages = [hard + own for hard, own in zip(rl.advantages, soft, strict=True)]
        return replace(row, rl=replace(rl, advantages=advantages))

    def untaught(self, row: Row) -> Row:
        """The row with what the verifier's advantage counts, and no teacher's word."""
        return replace(
            row, rl=row.rl and replace(row.rl, advantages=[self.reward * advantage for advantage in row.rl.advantages])
        )

    @property
    def _k(self) -> int:
        return self.k if self.kind.is_dense else 0


def parse_divergence(word: str) -> Divergence:
    """`reverse`, `forward`, `jsd:BETA`, `skewed_forward:ALPHA` or `skewed_reverse:ALPHA`. Raises SignalError."""
    name, _, number = word.partition(":")
    plain = {"reverse": Divergence.reverse_kl, "forward": Divergence.forward_kl}
    mixed = {
        "jsd": Divergence.jensen_shannon,
        "skewed_forward": Divergence.skewed_forward_kl,
        "skewed_reverse": Divergence.skewed_reverse_kl,
    }
    try:
        if name in mixed and number:
            return mixed[name](float(number))
        if name in plain and not number:
            return plain[name]()
    except ValueError as error:
        raise SignalError(f"--divergence {word}: {error}") from None
    raise SignalError(f"--divergence {word}: expected {', '.join(plain)}, or one of {', '.join(mixed)} with :NUMBER")


def parse_kind(word: str) -> SignalKind:
    """Raises SignalError."""
    try:
        return SignalKind(word)
    except ValueError:
        raise SignalError(f"--signal {word}: expected one of {', '.join(SignalKind)}") from None


def first_trained(row: Row) -> int:
    """The place of the first token that is trained."""
    return row.trained.index(True)


def kl_stream(row: Row, scores: TokenScores, divergence: Divergence) -> KLStream:
    """A teacher's word on a row's tokens, from the first trained on, as the stream of the whole row."""
    before = ((first_trained(row), 0), (0, 0))
    return KLStream(
        ids=np.pad(scores.ids, before, constant_values=-1),
        logprobs=np.pad(scores.id_logprobs, before),
        weights=[float(trained) for trained in row.trained],
        divergence=divergence,
    )


def _sampled(row: Row, scores: TokenScores, sampler_logprobs: list[float], clip: float) -> list[float]:
    """`clip(log p(t) - log q(t), -clip, clip)` of each trained token, 0 elsewhere."""
    teacher = np.concatenate([np.zeros(first_trained(row), np.float32), scores.logprobs])
    difference = np.clip(teacher - np.asarray(sampler_logprobs), -clip, clip)
    soft: list[float] = np.where(row.trained, difference, 0.0).tolist()
    return soft
