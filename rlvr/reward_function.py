"""What a reward function is to the engine: a plain Python function, described.

Two forms are taken:

* per sample, arguments by name: `f(completion, answer, ...)`, any of `completion`, `prompt`, `target` (also as
  `answer`, whatever its column is called), `finish`, `completion_tokens`, `task_id`, or a column of the row;
* batch, as TRL has it: `f(prompts, completions, **columns) -> list[float | None]`.

Either may be `async`. A result is a number, a bool, None (no verdict), or a `Score`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, overload


class Form(StrEnum):
    """How a reward function wants its arguments."""

    PER_SAMPLE = "per_sample"
    BATCH = "batch"


@dataclass(frozen=True)
class Reward:
    """A reward function with its name, weight and form.

    A synchronous `function` is run in a process that can be killed; a coroutine function is awaited on the
    event loop under the same deadline. `blocking` is what a direct call runs, where that differs: a verifier
    that brings its own killable processes is a coroutine function for the engine, and a plain one for a reader.
    `weight` 0 makes the reward a metric only.
    """

    function: Callable[..., Any]
    name: str
    weight: float = 1.0
    blocking: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"reward {self.name!r}: expected a function, got {type(self.function).__name__}")
        if any(p.kind is p.POSITIONAL_ONLY for p in inspect.signature(self.function).parameters.values()):
            raise TypeError(f"reward {self.name!r}: positional-only parameters cannot be given by name")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.blocking or self.function)(*args, **kwargs)

    @property
    def is_async(self) -> bool:
        called = type(self.function).__call__  # what runs where the function is an object of a user's class
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(called)

    @property
    def form(self) -> Form:
        return Form.BATCH if "completions" in inspect.signature(self.function).parameters else Form.PER_SAMPLE

    @property
    def required(self) -> list[str]:
        """Names without a default: each must be a column or one of the built-in arguments."""
        signature = inspect.signature(self.function).parameters.values()
        return [
            p.name for p in signature if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]


@overload
def reward(function: Callable[..., Any], /) -> Reward: ...


@overload
def reward(
    *, name: str | None = None, weight: float = 1.0, blocking: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Reward]: ...


def reward(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    weight: float = 1.0,
    blocking: Callable[..., Any] | None = None,
) -> Reward | Callable[[Callable[..., Any]], Reward]:
    """Make a function a reward: `@rlvr.reward`, or `@rlvr.reward(name="right", weight=0.5)`."""

    def describe(f: Callable[..., Any]) -> Reward:
        if name is None and callable(f) and not hasattr(f, "__name__"):  # a functools.partial, a callable object
            raise TypeError(f"reward {f!r:.80} has no name of its own: give it one with rlvr.reward(name=...)")
        return Reward(f, name or str(f.__name__), weight, blocking)

    return describe(function) if function is not None else describe
