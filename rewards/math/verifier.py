"""Judges final answers: the fast path here, computer algebra in processes that can be killed.

What an outcome means:

* SCORED 1.0: equal to a reference. SCORED 0.0: not equal, or no final answer; what is longer than 1,000 characters or
  nested more than 12 deep is no final answer, so that a model cannot leave a zero behind by writing at length.
* NO_VERDICT: it cannot be decided at a reasonable cost (a sum of 10^8 terms), or the reference itself is missing
  or of no such form, and the answer is not the same text.
* TIMEOUT, CRASHED: computer algebra did not finish, or its process died, also when tried again. That says nothing
  of the answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rlvr.rewards.math.extract import FinalAnswer, final_answer, reference_answer
from rlvr.rewards.math.guard import ill_formed, too_costly
from rlvr.rewards.math.latex import normalise
from rlvr.rewards.math.structure import same
from rlvr.rewards.math.values import same_value
from rlvr.types import Outcome, Score
from rlvr.workers.pool import WorkerCrashed, WorkerFailed, WorkerPool, WorkerTimeout

Reference = str | int | float
_SHOWN_CHARACTERS = 80
_MAX_REMEMBERED_CHARACTERS = 2000
_TRIES = 3
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class _Judged:
    """An answer beside its references, each as it was written."""

    found: FinalAnswer
    references: tuple[str, ...]
    tolerance: float

    @property
    def key(self) -> tuple[object, ...]:
        return (self.tolerance, self.found, *self.references)

    def score(self, equal: bool) -> Score:
        detail = f"{self.found.source.value} {_shown(self.found.text)}"
        expected = " or ".join(_shown(reference) for reference in self.references)
        return Score(float(equal), detail=detail if equal else f"{detail}, expected {expected}")


@dataclass(frozen=True, slots=True)
class _Question:
    """What the fast path leaves open, in normalised text."""

    judged: _Judged
    references: tuple[str, ...]
    answer: str

    @property
    def arguments(self) -> tuple[tuple[str, ...], str, float]:
        return self.references, self.answer, self.judged.tolerance


class MathVerifier:
    """Compares a completion's final answer with one reference or several, of which any will do.

    At most `workers` processes, each call under `deadline_s` (seconds) from when a worker takes it, each process
    under `memory_limit_bytes` of address space. Up to `cache_size` verdicts are remembered.

    `tolerance`, of each call, is relative to the reference, and for numbers; 0 asks for equal ones.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        deadline_s: float = 1.0,
        memory_limit_bytes: int = 2 * 1024**3,
        cache_size: int = 100_000,
    ) -> None:
        self._deadline_s = deadline_s
        self._workers = workers or min(4, os.cpu_count() or 1)
        self._memory_limit_bytes = memory_limit_bytes
        self._pool = self._new_pool()
        self._cache = _Cache(cache_size)

    async def score(self, completion: str, answer: Reference | Sequence[Reference], tolerance: float = 0.0) -> Score:
        """1.0 or 0.0, or an outcome without a value.

        Raises TypeError where `answer` is neither a string, a number nor a list of them, ValueError for a tolerance
        that is no share.
        """
        question = self._judge_fast(completion, answer, tolerance)
        if isinstance(question, Score):
            return question
        try:
            equal = await self._pool.run(_compare_in_worker, *question.arguments, deadline_s=self._deadline_s)
        except (WorkerTimeout, WorkerCrashed, WorkerFailed) as error:
            return _undecided(error)
        return self._remember(question.judged, question.judged.score(equal))

    def score_blocking(self, completion: str, answer: Reference | Sequence[Reference], tolerance: float = 0.0) -> Score:
        """The same as `score`, for a caller without an event loop."""
        question = self._judge_fast(completion, answer, tolerance)
        if isinstance(question, Score):
            return question
        try:
            equal = self._pool.run_blocking(_compare_in_worker, *question.arguments, deadline_s=self._deadline_s)
        except (WorkerTimeout, WorkerCrashed, WorkerFailed) as error:
            return _undecided(error)
        return self._remember(question.judged, question.judged.score(equal))

    def warm_up(self) -> None:
        """Start the processes now rather than at the first answer that needs algebra; takes some seconds."""
        self._pool.run_blocking(_compare_in_worker, ("x",), "x", 0.0, deadline_s=60.0)

    def close(self) -> None:
        """End the processes. A later call starts them again."""
        self._pool.close()
        self._pool = self._new_pool()

    def _new_pool(self) -> WorkerPool:
        return WorkerPool(
            size=self._workers,
            preload=("rlvr.rewards.math.warm",),
            memory_limit_bytes=self._memory_limit_bytes,
            tries=_TRIES,
        )

    def _judge_fast(
        self, completion: str, answer: Reference | Sequence[Reference], tolerance: float
    ) -> Score | _Question:
        """A score where text, values or the guard decide; else what to ask a worker."""
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance: expected a share of the reference from 0 to below 1, got {tolerance}")
        references = _references(answer)
        if not references:
            return Score(None, Outcome.NO_VERDICT, detail="the reference answer is empty")
        if completion.strip() in references:
            return Score(1.0, detail="the text of the reference itself")
        found = final_answer(completion)
        if found is None:
            return Score(0.0, detail="no final answer found")
        judged = _Judged(found, references, tolerance)
        if (known := self._cache.get(judged.key)) is not None:
            return known
        decided = _decide(judged)
        return self._remember(judged, decided) if isinstance(decided, Score) else decided

    def _remember(self, judged: _Judged, score: Score) -> Score:
        if len(judged.found.text) <= _MAX_REMEMBERED_CHARACTERS:
            self._cache.keep(judged.key, score)
        return score


def _references(answer: Reference | Sequence[Reference]) -> tuple[str, ...]:
    alternatives = answer if isinstance(answer, Sequence) and not isinstance(answer, str) else [answer]
    return tuple(filter(None, map(reference_answer, alternatives)))


def _decide(judged: _Judged) -> Score | _Question:
    found = judged.found
    if any(found.text.split() == reference.split() for reference in judged.references):
        return judged.score(True)
    if judged.tolerance == 0 and all(map(_INTEGER.fullmatch, (found.text, *judged.references))):
        return judged.score(False)  # integers in this form differ where their texts do: most answers of most data sets
    references = [reference for reference in judged.references if not ill_formed(reference)]
    if not references:
        reason = ill_formed(judged.references[0])
        return Score(None, Outcome.NO_VERDICT, detail=f"the reference cannot be compared: it is {reason}")
    if reason := ill_formed(found.text):
        return Score(0.0, detail=f"{found.source.value} {_shown(found.text)}, no final answer: it is {reason}")
    answer = normalise(found.text)
    open_references = []
    for reference in map(normalise, references):
        verdict = same(reference, answer, partial(same_value, tolerance=judged.tolerance))
        if verdict:
            return judged.score(True)
        if verdict is None:
            open_references.append(reference)
    if not open_references:
        return judged.score(False)
    for text in (*open_references, answer):
        if reason := too_costly(text):
            return Score(None, Outcome.NO_VERDICT, detail=f"too costly to compare: {_shown(text)} has {reason}")
    return _Question(judged, tuple(open_references), answer)


def _compare_in_worker(references: tuple[str, ...], answer: str, tolerance: float) -> bool:
    # Imported here: computer algebra is for workers, and this module is for everyone.
    from rlvr.rewards.math.symbolic import same_as_any

    return same_as_any(references, answer, tolerance)


def _undecided(error: WorkerTimeout | WorkerCrashed | WorkerFailed) -> Score:
    outcome = Outcome.TIMEOUT if isinstance(error, WorkerTimeout) else Outcome.CRASHED
    return Score(None, outcome, detail=str(error))


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


class _Cache:
    """Scores by what was compared. When full, the oldest goes. Safe in threads: each step is one operation."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._scores: dict[tuple[object, ...], Score] = {}

    def get(self, key: tuple[object, ...]) -> Score | None:
        return self._scores.get(key)

    def keep(self, key: tuple[object, ...], score: Score) -> None:
        self._scores[key] = score
        while len(self._scores) > self._size:
            self._scores.pop(next(iter(self._scores)), None)
