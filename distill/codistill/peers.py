"""A peer as the others see it: a teacher that goes on learning, and how often it is right."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.distill.codistill.imitation import Solution, solution_in
from rlvr.generate.pool import GeneratorPool
from rlvr.reward_function import RIGHT_FROM
from rlvr.types import Completion, GenerateRequest, Group, ScoreRequest, TokenScores

# Prompts whose pass rates are remembered: many more than are in flight, since one peer may be well ahead.
_PROMPTS_KEPT = 10_000

# Prompts of which a right answer is kept.
_SOLUTIONS_KEPT = 1_000

# What a moving average keeps of itself in a step in which its tag occurs: about five steps of memory.
_KEPT = 0.8


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the verifier said of a group's answers, by their place in it; None where it said nothing."""

    task: str
    tag: str
    right: tuple[bool | None, ...]

    @property
    def rate(self) -> float | None:
        """Share that is right, of the answers with a verdict; None without one."""
        judged = [right for right in self.right if right is not None]
        return sum(judged) / len(judged) if judged else None


def verdicts_of(group: Group, verifier: str, tag_column: str) -> Verdicts:
    """`verifier` is the name of the reward that says what is right."""
    values = [t.score.parts.get(verifier) if t.score is not None else None for t in group.trajectories]
    right = tuple(None if value is None else value >= RIGHT_FROM for value in values)
    return Verdicts(group.task.id, str(group.task.columns.get(tag_column, "all")), right)


@dataclass
class PassRates:
    """How often a peer is right: at prompts that it rolled out, and by tag as a moving average over its steps."""

    by_prompt: OrderedDict[str, float] = field(default_factory=OrderedDict)
    by_tag: dict[str, float] = field(default_factory=dict)

    def add(self, verdicts: Iterable[Verdicts]) -> None:
        """Of one step."""
        of_tags: dict[str, list[float]] = {}
        for group in verdicts:
            if group.rate is None:
                continue
            self.by_prompt[group.task] = group.rate
            self.by_prompt.move_to_end(group.task)
            of_tags.setdefault(group.tag, []).append(group.rate)
        while len(self.by_prompt) > _PROMPTS_KEPT:
            self.by_prompt.popitem(last=False)
        for tag, rates in of_tags.items():
            now = sum(rates) / len(rates)
            self.by_tag[tag] = _KEPT * self.by_tag.get(tag, now) + (1 - _KEPT) * now

    def metrics(self) -> dict[str, float]:
        """The moving averages."""
        return {f"codistill/pass_rate/{tag}": rate for tag, rate in self.by_tag.items()}

    def copy(self) -> PassRates:
        return PassRates(self.by_prompt.copy(), self.by_tag.copy())


@dataclass(eq=False)
class LivePeer:
    """A teacher that goes on learning while it teaches. Its generators are the run's, which starts and closes them.

    One that does not learn rolls nothing out: it has no pass rates, and is taken to be right.
    """

    name: str
    pool: GeneratorPool
    learns: bool = True
    alive: bool = True
    rates: PassRates = field(default_factory=PassRates)
    solutions: OrderedDict[str, Solution] = field(default_factory=OrderedDict)  # by prompt

    def note(self, groups: Sequence[Group], verdicts: Mapping[int, Verdicts]) -> None:
        """Take down how its groups went, by their verdicts."""
        self.rates.add(verdicts.values())
        for group in groups:
            solution = solution_in(group, verdicts[group.id].tag, verdicts[group.id].right)
            if solution is not None:
                self.solutions[group.task.id] = solution
                self.solutions.move_to_end(group.task.id)
        while len(self.solutions) > _SOLUTIONS_KEPT:
            self.solutions.popitem(last=False)

    async def start(self) -> None: ...

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        return await self.pool.generate(request)

    async def score(self, request: ScoreRequest) -> TokenScores:
        return await self.pool.score(request)

    async def close(self) -> None: ...

    def age(self, version: int) -> int:
        """How many of its steps ago it published this version."""
        return max(0, self.pool.version - version)
