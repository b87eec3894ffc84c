"""Judges final answers: the fast path here, computer algebra in processes that can be killed.

What an outcome means:

* SCORED 1.0: equal. SCORED 0.0: not equal, or no final answer, or one in a form that is refused unseen because
  it is too costly to compute (a tower of powers, `(10^9)!`, 100,000 characters) while the reference is not: a
  model cannot leave a zero behind by writing what cannot be checked.
* NO_VERDICT: the reference itself is missing or too costly, and the answer is not the same text.
* TIMEOUT, CRASHED: computer algebra did not finish, or its process died. That says nothing of the answer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

from rlvr.rewards.math.exact import same_value
from rlvr.rewards.math.extract import FinalAnswer, final_answer, reference_answer
from rlvr.rewards.math.guard import MAX_CHARACTERS, too_costly, too_deep
from rlvr.rewards.math.latex import normalise
from rlvr.rewards.math.structure import same
from rlvr.types import Outcome, Score
from rlvr.workers import WorkerCrashed, WorkerFailed, WorkerPool, WorkerTimeout

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class _Question:
    """What the fast path leaves open. `key` is the reference and the answer as they were written."""

    key: tuple[str, str]
    found: FinalAnswer
    reference: str
    answer: str


class MathVerifier:
    """Compares a completion's final answer with a reference.

    At most `workers` processes, each call under `deadline_s` (seconds) from when a worker takes it, each process
    under `memory_limit_bytes` of address space. `tolerance` is relative to the reference, for numbers; 0 asks for
    equal ones. Up to `cache_size` pairs of reference and answer are remembered.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        deadline_s: float = 1.0,
        tolerance: float = 0.0,
        memory_limit_bytes: int = 2 * 1024**3,
        cache_size: int = 100_000,
    ) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance: expected a share of the reference from 0 to below 1, got {tolerance}")
        self._deadline_s = deadline_s
        self._tolerance = tolerance
        self._workers = workers or min(4, os.cpu_count() or 1)
        self._memory_limit_bytes = memory_limit_bytes
        self._pool = self._new_pool()
        self._cache = _Cache(cache_size)

    async def score(self, completion: str, answer: str | int | float) -> Score:
        """1.0 or 0.0, or an outcome without a value. Raises TypeError where `answer` is no string or number."""
        judged = self._judge_fast(completion, answer)
        if isinstance(judged, Score):
            return judged
        arguments = (_compare_in_worker, judged.reference, judged.answer, self._tolerance)
        try:
            equal = await self._pool.run(*arguments, deadline_s=self._deadline_s)
        except (WorkerTimeout, WorkerCrashed, WorkerFailed) as error:
            return _undecided(error)
        return self._cache.keep(judged.key, _scored(equal, judged.found, judged.key[0]))

    def score_blocking(self, completion: str, answer: str | int | float) -> Score:
        """The same as `score`, for a caller without an event loop."""
        judged = self._judge_fast(completion, answer)
        if isinstance(judged, Score):
            return judged
        arguments = (_compare_in_worker, judged.reference, judged.answer, self._tolerance)
        try:
            equal = self._pool.run_blocking(*arguments, deadline_s=self._deadline_s)
        except (WorkerTimeout, WorkerCrashed, WorkerFailed) as error:
            return _undecided(error)
        return self._cache.keep(judged.key, _scored(equal, judged.found, judged.key[0]))

    def warm_up(self) -> None:
        """Start the processes now rather than at the first answer that needs algebra; takes some seconds."""
        self._pool.run_blocking(_compare_in_worker, "x", "x", 0.0, deadline_s=60.0)

    def close(self) -> None:
        """End the processes. A later call starts them again."""
        self._pool.close()
        self._pool = self._new_pool()

    def _new_pool(self) -> WorkerPool:
        return WorkerPool(
            size=self._workers,
            preload=("rlvr.rewards.math.warm",),
            memory_limit_bytes=self._memory_limit_bytes,
        )

    def _judge_fast(self, completion: str, answer: str | int | float) -> Score | _Question:
        """A score where text, exact numbers or the guard decide; else what to ask a worker."""
        expected = reference_answer(answer)
        if not expected:
            return Score(None, Outcome.NO_VERDICT, detail="the reference answer is empty")
        found = final_answer(completion)
        if found is None:
            return Score(0.0, detail="no final answer found")
        key = (expected, found.text)
        if (known := self._cache.get(key)) is not None:
            return known
        judged = self._decide(found, expected)
        return self._cache.keep(key, judged) if isinstance(judged, Score) else judged

    def _decide(self, found: FinalAnswer, expected: str) -> Score | _Question:
        if found.text.split() == expected.split():
            return _scored(True, found, expected)
        for text, is_reference in ((expected, True), (found.text, False)):
            if len(text) > MAX_CHARACTERS or too_deep(text):
                return _refused(f"longer than {MAX_CHARACTERS} characters or deeply nested", is_reference, found)
        reference, answer = normalise(expected), normalise(found.text)
        verdict = same(reference, answer, partial(same_value, tolerance=self._tolerance))
        if verdict is not None:
            return _scored(verdict, found, expected)
        for text, is_reference in ((reference, True), (answer, False)):
            if reason := too_costly(text):
                return _refused(reason, is_reference, found)
        return _Question((expected, found.text), found, reference, answer)


def _compare_in_worker(reference: str, answer: str, tolerance: float) -> bool:
    # Imported here: computer algebra is for workers, and this module is for everyone.
    from rlvr.rewards.math.symbolic import same_symbolically

    return same_symbolically(reference, answer, tolerance)


def _scored(equal: bool, found: FinalAnswer, expected: str) -> Score:
    value = 1.0 if equal else 0.0
    detail = f"{found.source.value} {_shown(found.text)}"
    return Score(value, detail=detail if equal else f"{detail}, expected {_shown(expected)}")


def _refused(reason: str, is_reference: bool, found: FinalAnswer) -> Score:
    if is_reference:
        return Score(None, Outcome.NO_VERDICT, detail=f"the reference is too costly to compare: {reason}")
    detail = f"{found.source.value} {_shown(found.text)}, refused as too costly to check: {reason}"
    return Score(0.0, detail=detail)


def _undecided(error: WorkerTimeout | WorkerCrashed | WorkerFailed) -> Score:
    outcome = Outcome.TIMEOUT if isinstance(error, WorkerTimeout) else Outcome.CRASHED
    return Score(None, outcome, detail=str(error))


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


class _Cache:
    """Scores by reference and answer. When full, the oldest goes. Safe in threads: each step is one operation."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._scores: dict[tuple[str, str], Score] = {}

    def get(self, key: tuple[str, str]) -> Score | None:
        return self._scores.get(key)

    def keep(self, key: tuple[str, str], score: Score) -> Score:
        if len(key[0]) + len(key[1]) <= 2 * MAX_CHARACTERS:
            self._scores[key] = score
        while len(self._scores) > self._size:
            self._scores.pop(next(iter(self._scores)), None)
        return score
