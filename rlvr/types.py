"""The nouns: what flows from a dataset to a learner. One word, one meaning, everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # Which experts work on each token of a sequence, [tokens, layers with experts, experts of a token]. In uint8 where
    # there are at most 256, else in uint16: it travels with every token.
    Experts = NDArray[np.unsignedinteger[Any]]


class Message(TypedDict):
    """One turn of a chat, in the form that chat templates take."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to solve.

    `id` is stable across runs: it is made from the row's content, not from its place in the file.
    `prompt_ids` are the tokens the policy reads first, chat template applied.
    `target` is what a verifier checks against; `columns` are all columns of the row, by name.
    """

    id: str
    prompt: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    target: Any
    columns: Mapping[str, Any]


class FinishReason(StrEnum):
    """Why a generator stopped."""

    STOP = "stop"  # the policy ended its turn
    LENGTH = "length"  # the token limit was reached: the answer is truncated
    ABORT = "abort"  # the request was taken back


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a generator samples, from the whole distribution. Temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """`n` continuations of one prompt. `id` is what `abort` takes."""

    id: str
    prompt_ids: tuple[int, ...]
    n: int
    sampling: Sampling


@dataclass(slots=True)
class Completion:
    """One continuation. The three lists have one entry per sampled token.

    `logprobs` are the sampler's own, after temperature: the distribution that was sampled from. `versions` is the
    policy version that sampled each token. The token that ended the turn is part of `token_ids`. `experts` begins
    with the prompt and ends before the last token, which the sampler did not read; None of a dense model, and where
    nothing is to be replayed.
    """

    token_ids: list[int]
    logprobs: list[float]
    versions: list[int]
    finish: FinishReason
    experts: Experts | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRequest:
    """How likely tokens `first` to the last of a sequence are, each given all before it: N = len(token_ids) - first.

    `temperature` divides the logits, as in sampling. One thing more may be asked of each of the N places: the
    `top_k` likeliest ids, or the log-probabilities of `ids`, an [N, K] table that the caller names.
    """

    token_ids: tuple[int, ...]
    first: int = 1
    temperature: float = 1.0
    top_k: int = 0
    ids: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.first < len(self.token_ids):
            raise ValueError(
                f"scoring token {self.first} of {len(self.token_ids)}: nothing comes before token 0, and the last "
                "must not lie before the first"
            )
        if self.temperature <= 0 or self.top_k < 0:
            raise ValueError(f"scoring with temperature={self.temperature}, top_k={self.top_k}: too small")
        if self.ids is not None and (self.top_k or self.ids.ndim != 2 or len(self.ids) != self.places):
            raise ValueError(
                f"scoring {self.places} tokens at ids of shape {self.ids.shape}, top_k={self.top_k}: expected "
                f"({self.places}, K), and no top_k besides"
            )

    @property
    def places(self) -> int:
        """N: how many tokens are scored."""
        return len(self.token_ids) - self.first


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """What a policy of this version says of a request's tokens: log-probabilities, in nats.

    `logprobs` [N] are of the tokens themselves. `ids` [N, K] are the likeliest, in falling order, or those that the
    request named; `id_logprobs` [N, K] are theirs. K is 0 where nothing more was asked for.
    """

    logprobs: NDArray[np.float32]
    ids: NDArray[np.int32]
    id_logprobs: NDArray[np.float32]
    version: int


class Outcome(StrEnum):
    """What became of an attempt to score an answer. Only SCORED carries a value."""

    SCORED = "scored"
    NO_VERDICT = "no_verdict"  # the reward looked and could not decide
    TIMEOUT = "timeout"  # the reward did not answer by its deadline
    CRASHED = "crashed"  # the reward raised, or its process died
    ENV_FAILED = "env_failed"  # the episode broke before there was an answer


@dataclass(frozen=True, slots=True)
class Score:
    """A reward's verdict. `value` is None unless the outcome is SCORED: no verdict never means 0."""

    value: float | None
    outcome: Outcome = Outcome.SCORED
    parts: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) == (self.outcome is Outcome.SCORED):
            raise ValueError(f"a score has a value exactly when its outcome is 'scored': got {self!r}")


@dataclass(slots=True)
class Trajectory:
    """What an episode leaves.

    `token_ids` starts after the prompt; `sampled[i]` tells whether the policy sampled `token_ids[i]`
    (tool output is read, not sampled). `logprobs` and `versions` are aligned with `token_ids`, and are 0.0
    and -1 where the token was not sampled. `text` is for rewards and readers; nothing encodes it again.
    `experts` are those of prompt and answer but the last token, as the sampler chose them.
    """

    prompt_ids: tuple[int, ...]
    token_ids: list[int]
    sampled: list[bool]
    logprobs: list[float]
    versions: list[int]
    finish: FinishReason
    text: str
    score: Score | None = None
    generate_s: float = 0.0
    score_s: float = 0.0
    experts: Experts | None = field(default=None, compare=False, repr=False)


def newest_version(trajectories: Iterable[Trajectory]) -> int:
    """The newest policy version that sampled a token of them; 0 where none was sampled."""
    return max((version for trajectory in trajectories for version in trajectory.versions), default=0)


@dataclass(slots=True)
class Group:
    """The trajectories of one task: the unit that is filtered, queued, trained and resumed.

    `id` counts the groups of a run.
    """

    id: int
    task: Task
    trajectories: list[Trajectory]

    def judged(self) -> list[Trajectory]:
        """The trajectories that have a verdict."""
        return [t for t in self.trajectories if t.score is not None and t.score.value is not None]

    def scores(self) -> list[Score]:
        """Of the trajectories that have a verdict."""
        return [t.score for t in self.trajectories if t.score is not None and t.score.value is not None]

    def values(self) -> list[float]:
        """Values of the trajectories that have a verdict."""
        return [score.value for score in self.scores() if score.value is not None]

    def answered(self) -> list[Trajectory]:
        """The trajectories that came to an answer, which is what rewards are asked about."""
        return [t for t in self.trajectories if t.score is None or t.score.outcome is not Outcome.ENV_FAILED]


@dataclass(slots=True)
class RLStream:
    """What reinforcement learning needs of each token: lists as long as the row, 0 where a token is not trained.

    `staleness[i]` is the learner's version minus the version that sampled token i.
    """

    advantages: list[float]
    sampler_logprobs: list[float]
    staleness: list[int]


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a student's distribution q is from a teacher's p:

        forward * KL(p || a p + (1 - a) q) + reverse * KL(q || b p + (1 - b) q)

    with a = `forward_mix` and b = `reverse_mix`. The named ones below are points of it; all factors are in [0, 1].
    """

    forward: float
    reverse: float
    forward_mix: float = 0.0
    reverse_mix: float = 1.0

    def __post_init__(self) -> None:
        factors = (self.forward, self.reverse, self.forward_mix, self.reverse_mix)
        if not all(0 <= factor <= 1 for factor in factors) or self.forward + self.reverse == 0:
            raise ValueError(f"a divergence's factors are in [0, 1], forward and reverse not both 0; got {self}")

    @staticmethod
    def forward_kl() -> Divergence:
        """KL(p || q): q covers all that p does. For ids of the teacher's choice."""
        return Divergence(1.0, 0.0)

    @staticmethod
    def reverse_kl() -> Divergence:
        """KL(q || p): q does nothing that p does not. For ids of the student's choice."""
        return Divergence(0.0, 1.0)

    @staticmethod
    def jensen_shannon(beta: float) -> Divergence:
        """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q: GKD (arXiv 2306.13649), as in TRL.

        As there, beta = 0 is the forward and beta = 1 the reverse KL. These are not its limits: near 0 it is about
        beta KL(p || q), so beta = 0.01 gives a loss a hundred times smaller than 0 does.
        """
        if beta in (0, 1):
            return Divergence.reverse_kl() if beta else Divergence.forward_kl()
        return Divergence(beta, 1 - beta, beta, beta)

    @staticmethod
    def skewed_forward_kl(alpha: float) -> Divergence:
        """KL(p || alpha p + (1 - alpha) q), whose gradient stays bounded where q is small (arXiv 2402.03898)."""
        return Divergence(1.0, 0.0, forward_mix=alpha)

    @staticmethod
    def skewed_reverse_kl(alpha: float) -> Divergence:
        """KL(q || (1 - alpha) p + alpha q)."""
        return Divergence(0.0, 1.0, reverse_mix=1 - alpha)


@dataclass(frozen=True, slots=True, eq=False)
class KLStream:
    """What a teacher says in each token's place: its log-probabilities of K different ids.

    The ids are the teacher's likeliest, or the student's. What their probabilities lack of 1 is the tail, one outcome
    more. `ids` and `logprobs` are arrays [T, K] with T the row's length; where fewer than K are known, the id is -1.
    `weights` has T entries, 0 where the teacher is not asked. Teacher and student are at one temperature, the
    student's `sampling.temperature`.
    """

    ids: NDArray[np.integer[Any]]
    logprobs: NDArray[np.floating[Any]]
    weights: list[float]
    divergence: Divergence

    def __post_init__(self) -> None:
        shape = (len(self.weights), self.ids.shape[-1])
        if self.ids.shape != shape or self.logprobs.shape != shape:
            raise ValueError(
                f"a teacher's ids and log-probabilities are arrays [tokens, K] with as many tokens as weights "
                f"({len(self.weights)}); got ids {self.ids.shape} and logprobs {self.logprobs.shape}"
            )


@dataclass(slots=True)
class Row:
    """What a learner eats: token ids of one sequence, and for each loss that trains it a stream as long as they are.

    `trained[i]` tells whether token i takes part in any loss. Of these, `rl` trains all, `ce` and `kl` those whose
    weight is not 0: `ce[i]` multiplies the cross-entropy of token i, `kl.weights[i]` its divergence from a teacher.
    A row of `rl` is an answer: `trajectory` is its place in its group, `truncated` whether it was cut off.
    `experts` are those that the row's first tokens are sent to, whatever the learner's own routers say; they route
    the rest, and all where it is None.
    """

    group_id: int
    token_ids: list[int]
    trained: list[bool]
    rl: RLStream | None = None
    ce: list[float] | None = None
    kl: KLStream | None = None
    truncated: bool = False
    trajectory: int = 0
    experts: Experts | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What each stream's loss, normalised by itself, counts in the sum that is trained."""

    rl: float = 1.0
    ce: float = 1.0
    kl: float = 1.0


# Which trajectory: its group's id, and its place in the group.
TrajectoryKey = tuple[int, int]


class TokenFate(IntEnum):
    """Why the learner trained a sampled token, or did not. Of several reasons the last in this order is given."""

    TRAINED = 0
    NO_ADVANTAGE = 1  # its answer was as good as its siblings: nothing to learn
    BOUNDED = 2  # the kernel's bounds ended or capped its gradient
    CORRECTED = 3  # sampler and learner disagree on it: the correction gave it a weight of 0
    MASKED = 4  # by one of the algorithm's masks
    UNUSABLE = 5  # its sampler log-probability is not finite
    STALE = 6  # older than max_staleness
    TRUNCATED = 7  # its answer was cut off, and the algorithm leaves such answers out
    SKIPPED = 8  # the whole update was left out: its gradient was not finite
