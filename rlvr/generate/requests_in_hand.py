"""The requests an engine has in hand: each with its `n` continuations, and the caller who waits for them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from rlvr.generate.expert_record import ExpertRecord
from rlvr.types import Completion, FinishReason, GenerateRequest


@dataclass(slots=True)
class RequestInHand:
    """A request whose caller waits until none of its continuations is unfinished."""

    request: GenerateRequest
    future: Future[list[Completion]]
    completions: list[Completion] = field(init=False)
    experts: list[ExpertRecord] = field(init=False)  # of each completion
    unfinished: set[int] = field(init=False)  # indices into `completions`

    def __post_init__(self) -> None:
        # ABORT until the engine says otherwise: an aborted request is answered with what it has.
        self.completions = [Completion([], [], [], FinishReason.ABORT) for _ in range(self.request.n)]
        self.experts = [ExpertRecord() for _ in range(self.request.n)]
        self.unfinished = set(range(self.request.n))


class RequestsInHand:
    """By request id. Used on the engine's thread."""

    def __init__(self) -> None:
        self._requests: dict[str, RequestInHand] = {}

    @property
    def sequences(self) -> int:
        return sum(len(held.unfinished) for held in list(self._requests.values()))

    def add(self, request: GenerateRequest, future: Future[list[Completion]]) -> RequestInHand:
        """Raises ValueError when the id is in hand already."""
        if request.id in self._requests:
            raise ValueError(f"request {request.id}: this id is in hand already")
        held = self._requests[request.id] = RequestInHand(request, future)
        return held

    def finish(self, held: RequestInHand, index: int, reason: FinishReason) -> None:
        """A continuation ended; with the last one the caller is answered."""
        held.completions[index].finish = reason
        held.completions[index].experts = held.experts[index].whole()
        held.unfinished.remove(index)
        if not held.unfinished:
            del self._requests[held.request.id]
            held.future.set_result(held.completions)

    def abort(self, request_id: str) -> RequestInHand | None:
        """Answer a request with what it has. None if it is not in hand (it may just have finished)."""
        held = self._requests.pop(request_id, None)
        if held is not None:
            held.future.set_result(held.completions)
        return held

    def fail(self, error: Exception) -> None:
        """Every caller gets the error."""
        for held in self._requests.values():
            held.future.set_exception(error)
        self._requests.clear()
