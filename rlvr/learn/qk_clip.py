"""QK-Clip: heads whose attention logits grew over a limit have their query and key weights scaled down.

Kimi K2 (arXiv 2507.20534, section 2.1): after the optimizer's step, with S the largest logit of a head in the step's
forward passes and t the limit, gamma = min(1, t / S), and the head's logits are scaled by gamma:

- latent attention: W_q of the part without positions and W_k by sqrt(gamma), W_q of the rotated part by gamma; the
  rotated key, which all heads share, stays;
- otherwise W_q by gamma / sqrt(g) and W_k by sqrt(g), where g is the smallest gamma of the heads that share the key.
  With a key for each head that is sqrt(gamma) for both. Sharing is not in the paper; a head with gamma = 1 keeps its
  logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rlvr.learn.max_logit import LogitWatch
from rlvr.learn.model import PolicyModel, own_shard
from rlvr.learn.ranks import ALONE, Ranks


class Heads(Protocol):
    """The query and key weights of an attention module, head by head."""

    def scale(self, factors: Tensor) -> None:
        """Scale each head's logits by its factor, [H]."""


@dataclass(frozen=True, slots=True)
class GroupedHeads:
    """Attention in which `query` has heads of width `width`, and `key` as many or fewer."""

    query: nn.Linear
    key: nn.Linear
    width: int

    def scale(self, factors: Tensor) -> None:
        keys = self.key.weight.shape[0] // self.width
        of_key = factors.view(keys, -1).amin(1).sqrt()
        of_query = factors / of_key.repeat_interleave(len(factors) // keys)
        _scale_rows(self.query, of_query.repeat_interleave(self.width))
        _scale_rows(self.key, of_key.repeat_interleave(self.width))


@dataclass(frozen=True, slots=True)
class LatentHeads:
    """Latent attention: a head has `plain` and `rotated` rows of `query`, and `plain` and `value` of `key_value`."""

    query: nn.Linear
    key_value: nn.Linear
    plain: int
    rotated: int
    value: int

    def scale(self, factors: Tensor) -> None:
        root = factors.sqrt()[:, None]
        of_query = torch.cat([root.expand(-1, self.plain), factors[:, None].expand(-1, self.rotated)], dim=1)
        of_key_value = torch.cat([root.expand(-1, self.plain), torch.ones_like(root).expand(-1, self.value)], dim=1)
        _scale_rows(self.query, of_query.flatten())
        _scale_rows(self.key_value, of_key_value.flatten())


@torch.no_grad()
def _scale_rows(linear: nn.Linear, factors: Tensor) -> None:
    """Weight and bias, in place; where all factors are 1, bit for bit as they were."""
    for parameter in (linear.weight, linear.bias):
        if parameter is None:
            continue
        held, of_held = parameter, factors
        if isinstance(parameter, DTensor):  # of which this rank holds some rows, or none
            held, of_held = parameter.to_local(), own_shard(factors, parameter)
        held.mul_(of_held.to(held).view(-1, *[1] * (held.ndim - 1)))


def heads_of(attention: nn.Module) -> Heads | None:
    """By the names that transformers' attention modules use; None for one that holds its weights in another way."""
    linear = {name: child for name, child in attention.named_children() if isinstance(child, nn.Linear)}
    settings = vars(attention)
    if "kv_b_proj" in linear:
        return LatentHeads(
            query=linear["q_b_proj" if "q_b_proj" in linear else "q_proj"],
            key_value=linear["kv_b_proj"],
            plain=settings["qk_nope_head_dim"],
            rotated=settings["qk_rope_head_dim"],
            value=settings["v_head_dim"],
        )
    if {"q_proj", "k_proj"} <= linear.keys() and "head_dim" in settings:
        return GroupedHeads(linear["q_proj"], linear["k_proj"], settings["head_dim"])
    return None


@dataclass(frozen=True, slots=True)
class ClipReport:
    """What a clip found and did. `max_logit` is of all heads: exact where it is over the limit, else a bound."""

    max_logit: float
    clipped_heads: int


class QKClip:
    """Watches the largest logits of a policy, and scales down the heads that are over `limit`.

    In `idle_layers` queries and keys are normalised after their weights (QK-norm), so that scaling those does
    nothing: they are left alone. Of `ranks`, each watches the rows that it computes and scales the rows of a weight
    that it holds, all by the largest logits of any.
    """

    def __init__(self, model: PolicyModel, limit: float, ranks: Ranks = ALONE) -> None:
        """Raises ValueError, on all ranks, for a model whose heads cannot be scaled: each layer's are tried."""
        if model.attention != "sdpa":
            raise ValueError(
                f"learner.optimizer=muonclip reads queries and keys in SDPA attention, and the model runs with "
                f"{model.attention}; set learner.optimizer=muon"
            )
        self.limit = limit
        self.watch = LogitWatch(limit)
        self._ranks = ranks
        self._device = model.device
        self._head_counts = _head_counts(model)
        known = {attention: _known_heads(attention) for attention in self._head_counts}
        effects = _effects(model, known)
        agreed = ranks.max(torch.tensor(list(effects.values()), device=model.device)).tolist()
        self._heads: dict[nn.Module, Heads] = {}
        for attention, effect in zip(effects, agreed, strict=True):
            if effect == Effect.OTHER:
                raise _cannot_scale(attention)
            if effect == Effect.SCALES:
                self._heads[attention] = known[attention]
        self.idle_layers = len(effects) - len(self._heads)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to clip, and nothing to watch for."""
        return not self._heads

    def clip(self) -> ClipReport:
        """Scale down the heads that were over the limit since the last call. To be called after an update."""
        largest = self._largest()
        clipped = 0
        for attention, heads in self._heads.items():
            over = largest[attention] > self.limit
            if over.any():
                heads.scale(torch.where(over, self.limit / largest[attention], 1.0))
                clipped += int(over.sum())
        return ClipReport(max(float(logits.max()) for logits in largest.values()), clipped)

    def _largest(self) -> dict[nn.Module, Tensor]:
        """Of all ranks, in one exchange. One that computed no rows has seen nothing."""
        seen = self.watch.take()
        nothing = torch.tensor(-torch.inf, device=self._device)
        own = [seen.get(attention, nothing.expand(count)) for attention, count in self._head_counts.items()]
        parts = self._ranks.max(torch.cat(own)).split(list(self._head_counts.values()))
        return dict(zip(self._head_counts, parts, strict=True))


# -------------------------------------------------------------------- what can be clipped, by trial

_TRIAL = 1 / 16  # so that all weights are scaled by powers of two, which can be undone bit for bit
_PROBE_TOKENS = 16


class Effect(IntEnum):
    """Of scaling the weights on the logits; where ranks differ, the later counts."""

    SCALES = 0
    NONE = 1
    OTHER = 2


@torch.no_grad()
def _probe(model: PolicyModel, watch: LogitWatch) -> None:
    """A forward pass of a few tokens, the same on all ranks."""
    tokens = (torch.arange(_PROBE_TOKENS, device=model.device) % model.vocabulary)[None]
    with model.autocast(model.widest_dtype):
        model.forward_pass(
            lambda: model.decoder(input_ids=tokens, use_cache=False, logit_watch=watch).last_hidden_state
        )


def _head_counts(model: PolicyModel) -> dict[nn.Module, int]:
    """The attention modules of the policy that logits can be watched in, and how many heads each has."""
    watch = LogitWatch(-torch.inf)
    _probe(model, watch)
    counts = {attention: len(logits) for attention, logits in watch.take().items()}
    if not counts:
        raise ValueError(
            f"learner.optimizer=muonclip: {type(model.network).__name__} passes nothing on to its attention, whose "
            "logits can then not be watched; set learner.optimizer=muon"
        )
    return counts


def _effects(model: PolicyModel, heads: Mapping[nn.Module, Heads]) -> dict[nn.Module, Effect]:
    """Each is tried when a forward pass comes to it: where weights are sharded, its layer's are whole then."""
    effects: dict[nn.Module, Effect] = {}

    def try_out(attention: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        effects[attention] = _effect(heads[attention], attention, positional, named)

    hooks = [attention.register_forward_pre_hook(try_out, with_kwargs=True) for attention in heads]
    _probe(model, LogitWatch(torch.inf))
    for hook in hooks:
        hook.remove()
    return effects


def _effect(heads: Heads, attention: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> Effect:
    watch = LogitWatch(-torch.inf)

    def logits() -> Tensor:
        attention.forward(*positional, **named | {"logit_watch": watch})  # without the hook that brought us here
        return watch.take()[attention]

    before = logits()
    factors = torch.full_like(before, _TRIAL)
    heads.scale(factors)
    after = logits()
    heads.scale(1 / factors)
    if torch.allclose(after, _TRIAL * before, rtol=1e-3):
        return Effect.SCALES
    if torch.allclose(after, before, rtol=0.1):  # a norm's epsilon counts for more when what it divides is smaller
        return Effect.NONE
    return Effect.OTHER


def _known_heads(attention: nn.Module) -> Heads:
    heads = heads_of(attention)
    if heads is None:
        raise _cannot_scale(attention)
    return heads


def _cannot_scale(attention: nn.Module) -> ValueError:
    return ValueError(
        f"learner.optimizer=muonclip cannot scale the attention logits of {type(attention).__name__}: it knows q_proj "
        "and k_proj, and latent attention's kv_b_proj; set learner.optimizer=muon"
    )
