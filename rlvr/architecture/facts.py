"""The few numbers of a language model that decide its size and its cost.

Only facts are here. `parameters` counts weights, `cost` counts key-value bytes and operations, `families` reads facts
from a config in Hugging Face form.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class UnknownArchitecture(ValueError):
    """A config that cannot be counted without guessing. The message names what is not known."""


class QKNorm(StrEnum):
    """How queries and keys are normalised before they meet."""

    NONE = "none"
    RMS = "rms"  # with a weight per channel of a head
    L2 = "l2"  # without weights


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """A token sees itself and the `tokens - 1` before it."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Chunks:
    """The line is cut into chunks of `tokens`; a token sees what comes before it in its own chunk."""

    tokens: int


Window = SlidingWindow | Chunks


@dataclass(frozen=True, slots=True)
class GroupedQueryAttention:
    """Query heads share key-value heads; as many of both is multi-head attention."""

    query_heads: int
    key_value_heads: int
    head_width: int
    qk_norm: QKNorm = QKNorm.NONE
    input_bias: bool = False  # of the projections to queries, keys and values
    output_bias: bool = False
    window: Window | None = None  # None: all tokens before
    partly_rotary: bool = False  # only some channels of a head carry the position


@dataclass(frozen=True, slots=True)
class Indexer:
    """The small scorer of sparse attention: it keeps one key a token, for all of its heads."""

    heads: int
    head_width: int


@dataclass(frozen=True, slots=True)
class TokenSelection:
    """Attention to the `tokens` best of those before (DSA). Without an indexer, the choice of the layer below holds."""

    tokens: int
    indexer: Indexer | None


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Keys and values of all heads come from one latent vector a token, which is what the cache keeps (MLA)."""

    heads: int
    query_rank: int | None  # None: queries are projected in one step
    latent_rank: int
    plain_width: int  # of a head's query and key, without position
    rotary_width: int  # of a head's query, and of the one key that all heads share
    value_width: int
    selection: TokenSelection | None = None

    @property
    def query_width(self) -> int:
        """Of one head."""
        return self.plain_width + self.rotary_width


Attention = GroupedQueryAttention | LatentAttention


@dataclass(frozen=True, slots=True)
class DenseMLP:
    """Gate, up and down projections."""

    width: int


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """`chosen` of `experts` MLPs work on a token, beside `shared_experts` that work on all."""

    experts: int
    chosen: int
    width: int
    shared_experts: int = 0
    shared_width: int = 0


MLP = DenseMLP | MixtureOfExperts


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: a norm and attention, a norm and an MLP."""

    attention: Attention
    mlp: MLP


@dataclass(frozen=True, slots=True)
class Architecture:
    """The text part of a model. `family` is the `model_type` of its config; `left_out` is what is not counted."""

    family: str
    hidden: int
    vocabulary: int
    tied_head: bool
    context: int | None  # tokens, as its config states
    layers: tuple[Layer, ...]
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.layers:
            raise UnknownArchitecture(f"{self.family}: a model without layers")

    def kinds(self) -> list[tuple[Layer, int]]:
        """Each distinct layer, and how many there are of it: enough for any sum over layers."""
        counts = Counter(id(layer) for layer in self.layers)
        layers = {id(layer): layer for layer in self.layers}
        return [(layers[key], number) for key, number in counts.items()]

    def mixtures(self) -> list[tuple[MixtureOfExperts, int]]:
        """Of the layers that have one: each distinct mixture, and in how many layers it is."""
        return [(layer.mlp, number) for layer, number in self.kinds() if isinstance(layer.mlp, MixtureOfExperts)]

    @property
    def moe_layers(self) -> int:
        return sum(number for _, number in self.mixtures())

    def dense_first(self) -> int:
        """Dense layers before the first mixture; all of them in a dense model."""
        for number, layer in enumerate(self.layers):
            if isinstance(layer.mlp, MixtureOfExperts):
                return number
        return len(self.layers)
