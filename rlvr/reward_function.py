"""What a reward function is to the engine: a plain Python function, described.

Two forms are taken:

* per sample, arguments by name: `f(completion, answer, ...)`, any of `completion`, `prompt`, `target` (also as
  `answer`, whatever its column is called), `finish`, `completion_tokens`, `task_id`, `is_correct`, or a column of
  the row;
* batch, as TRL has it: `f(prompts, completions, **columns) -> list[float | None]`.

Either may be `async`. A result is a number, a bool, None (no verdict), or a `Score`. `is_correct` is what the run's
verifier said of the same answer, None where it gave no verdict: see `verifier_of`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, overload

# A reward of at least this says that the answer is right.
RIGHT_FROM = 1.0


class Form(StrEnum):
    """How a reward function wants its arguments."""

    PER_SAMPLE = "per_sample"
    BATCH = "batch"


class Combine(StrEnum):
    """How the rewards of a run make one score; `rlvr.rollout.composition` has the formulas."""

    SUM = "sum"  # weighted
    PRODUCT = "product"  # each to the power of its weight
    GATE = "gate"  # weighted sum of those whose predecessors all found the answer right
    GDPO = "gdpo"  # weighted sum of advantages, each reward normalised by itself (arXiv 2601.05242)


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """A weight that goes in a straight line from `start`, at `from_step`, to `end`, at `to_step`, and stays there.

    Steps are policy versions: those of the newest weights that sampled the group which is scored. So the weight
    follows from the rollouts alone, and a resumed run or a second scoring finds the same one.
    """

    start: float
    end: float
    to_step: int
    from_step: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.from_step < self.to_step:
            raise ValueError(
                f"a weight changes from from_step to to_step: expected 0 <= from_step < to_step, "
                f"got from_step={self.from_step}, to_step={self.to_step}"
            )

    def at(self, step: int) -> float:
        share = (step - self.from_step) / (self.to_step - self.from_step)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)


@dataclass(frozen=True)
class Reward:
    """A reward function with its name, weight and form.

    A synchronous `function` is run in a process that can be killed; a coroutine function is awaited on the
    event loop under the same deadline. `blocking` is what a direct call runs, where that differs: a verifier
    that brings its own killable processes is a coroutine function for the engine, and a plain one for a reader.
    `weight` 0 makes the reward a metric only. `where` names the rows whose answers it judges, by the values of
    columns; empty, it judges all.
    """

    function: Callable[..., Any]
    name: str
    weight: float | LinearWeight = 1.0
    blocking: Callable[..., Any] | None = None
    where: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"reward {self.name!r}: expected a function, got {type(self.function).__name__}")
        if any(p.kind is p.POSITIONAL_ONLY for p in inspect.signature(self.function).parameters.values()):
            raise TypeError(f"reward {self.name!r}: positional-only parameters cannot be given by name")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.blocking or self.function)(*args, **kwargs)

    def bind(self, **arguments: Any) -> Reward:
        """The same reward with arguments fixed: they stand before columns of the same name.

        Raises TypeError for a name that the function does not take.
        """
        takes = inspect.signature(self.function).parameters
        unknown = [name for name in arguments if name not in takes]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            raise TypeError(f"reward {self.name!r} takes no {', '.join(unknown)}; it takes {', '.join(takes)}")
        blocking = functools.partial(self.blocking, **arguments) if self.blocking else None
        return replace(self, function=functools.partial(self.function, **arguments), blocking=blocking)

    def weighted(self, weight: float | LinearWeight) -> Reward:
        """The same reward with another weight."""
        return replace(self, weight=weight)

    def for_rows(self, **where: Any) -> Reward:
        """The same reward, for the rows with these values alone: `right.for_rows(family="math")`."""
        return replace(self, where=where)

    def judges(self, columns: Mapping[str, Any]) -> bool:
        """Whether it judges the answers to a row with these columns."""
        return all(name in columns and columns[name] == value for name, value in self.where.items())

    def weight_at(self, version: int) -> float:
        """The weight in the score of a group that this policy version sampled."""
        return self.weight.at(version) if isinstance(self.weight, LinearWeight) else self.weight

    @property
    def is_metric(self) -> bool:
        """Whether it never takes part in the score."""
        return self.weight == 0

    @property
    def is_async(self) -> bool:
        called = type(self.function).__call__  # what runs where the function is an object of a user's class
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(called)

    @property
    def form(self) -> Form:
        return Form.BATCH if "completions" in inspect.signature(self.function).parameters else Form.PER_SAMPLE

    @property
    def bound(self) -> frozenset[str]:
        """Names of the arguments that are fixed."""
        return frozenset(self.function.keywords) if isinstance(self.function, functools.partial) else frozenset()

    @property
    def asks_for_verdict(self) -> bool:
        """Whether it wants to know what the run's verifier said."""
        return "is_correct" in inspect.signature(self.function).parameters and "is_correct" not in self.bound

    @property
    def required(self) -> list[str]:
        """Names without a default: each must be a column or one of the built-in arguments."""
        signature = inspect.signature(self.function).parameters.values()
        return [
            p.name for p in signature if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]


def judges_of(rewards: Sequence[Reward], columns: Mapping[str, Any]) -> list[Reward]:
    """The rewards that judge the answers to a row with these columns."""
    return [reward for reward in rewards if reward.judges(columns)]


def verifier_of(rewards: Sequence[Reward]) -> Reward | None:
    """The reward that says whether an answer is right: the first that is more than a metric. Others shape."""
    return next((reward for reward in rewards if not reward.is_metric), None)


@overload
def reward(function: Callable[..., Any], /) -> Reward: ...


@overload
def reward(
    *, name: str | None = None, weight: float | LinearWeight = 1.0, blocking: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Reward]: ...


def reward(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    weight: float | LinearWeight = 1.0,
    blocking: Callable[..., Any] | None = None,
) -> Reward | Callable[[Callable[..., Any]], Reward]:
    """Make a function a reward: `@rlvr.reward`, or `@rlvr.reward(name="right", weight=0.5)`."""

    def describe(f: Callable[..., Any]) -> Reward:
        if name is None and callable(f) and not hasattr(f, "__name__"):  # a functools.partial, a callable object
            raise TypeError(f"reward {f!r:.80} has no name of its own: give it one with rlvr.reward(name=...)")
        return Reward(f, name or str(f.__name__), weight, blocking)

    return describe(function) if function is not None else describe


def inline_reward(name: str) -> Callable[[Callable[..., Any]], Reward]:
    """Make a plain function a reward that runs on the engine's event loop, with no process between.

    For functions that take microseconds and time linear in the text, whatever a model wrote.
    """

    def describe(function: Callable[..., Any]) -> Reward:
        @functools.wraps(function)
        async def on_the_loop(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return Reward(on_the_loop, name, blocking=function)

    return describe
