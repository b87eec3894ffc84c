"""The experts that were chosen for a sequence while it was generated, on their way into a completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rlvr.types import Experts


def narrow(choices: NDArray[np.integer[Any]], experts: int) -> Experts:
    """In the fewest bytes that tell `experts` experts apart."""
    return choices.astype(np.uint8) if experts <= 256 else choices.astype(np.uint16)


class ExpertRecord:
    """Of one sequence, token after token. What is computed a second time keeps its first record.

    After an update in flight an engine computes the keys and values of a running sequence again, with the new
    weights' choices. Those that count are the ones under which the next token was sampled: the first.
    """

    def __init__(self) -> None:
        self._parts: list[Experts] = []
        self._length = 0

    def add(self, start: int, choices: Experts) -> None:
        """Of the tokens from place `start` on, [tokens, layers, top_k]."""
        new = choices[self._length - start :]
        if len(new):
            self._parts.append(new)
            self._length += len(new)

    def whole(self) -> Experts | None:
        """Of all tokens that were computed: those of prompt and answer, but for the answer's last. None of a model
        without experts."""
        return np.concatenate(self._parts) if self._parts else None
