"""What every generator offers, whichever engine continues the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlvr.types import Completion, GenerateRequest, ScoreRequest, TokenScores
from rlvr.weights.update import WeightReceipt, WeightUpdate


@dataclass(frozen=True, slots=True)
class GeneratorStatus:
    """What a generator says of itself. Seconds count from its start; busy and waiting add up to them."""

    name: str
    version: int
    checksum: int
    running: int  # sequences in hand
    generated_tokens: int  # those of unfinished sequences too
    busy_s: float  # stepping the engine
    updating_s: float  # loading weights
    waiting_s: float  # no sequence in hand


class Generator(Protocol):
    """Continues token ids, scores given ones, and takes new weights between two tokens.

    Life: `start` once, then any number of concurrent `generate`, `score` and `abort`; `update_weights` one at a
    time, while generation goes on with the same sequences; `close` once.
    """

    async def start(self) -> GeneratorStatus:
        """Load the model. Version is 0 and the checksum that of the weights as loaded."""
        ...

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """`request.n` continuations; those of an aborted request finish as ABORT with what they have."""
        ...

    async def abort(self, request_id: str) -> None:
        """Take back a request, if it is still in hand."""
        ...

    async def score(self, request: ScoreRequest) -> TokenScores:
        """Log-probabilities of given tokens. Raises ValueError for a temperature that the engine cannot score at."""
        ...

    async def update_weights(self, update: WeightUpdate) -> WeightReceipt:
        """Load a version, and answer with the checksum of what is then held."""
        ...

    async def status(self) -> GeneratorStatus: ...

    async def close(self) -> None: ...
