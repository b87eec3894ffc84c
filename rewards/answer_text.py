"""The answer in what a model wrote: what stands between answer tags, else all that follows its reasoning."""

from __future__ import annotations

_THOUGHT_OPEN, _THOUGHT_CLOSE = "<think>", "</think>"
_OPEN, _CLOSE = "<answer>", "</answer>"


def answer_text(completion: str) -> str | None:
    """The content of the last `<answer>...</answer>` after the reasoning, else all of it, without outer blanks.

    None where reasoning was begun and never ended: what stands in it is no answer.
    """
    _, closed, text = completion.rpartition(_THOUGHT_CLOSE)
    if _THOUGHT_OPEN in text or (not closed and _THOUGHT_OPEN in completion):
        return None
    before, closing, _ = text.rpartition(_CLOSE)
    _, opening, inside = before.rpartition(_OPEN)
    return (inside if closing and opening else text).strip()
