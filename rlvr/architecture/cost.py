"""What a token costs: bytes of keys and values that are kept for it, and operations of a forward pass.

A multiply-add counts as two operations. Norms, activations and softmax, about a percent, are left out.
"""

from __future__ import annotations

from rlvr.architecture.facts import (
    Architecture,
    Attention,
    Chunks,
    GroupedQueryAttention,
    LatentAttention,
    SlidingWindow,
    Window,
)
from rlvr.architecture.parameters import count, indexer_of

BF16 = 2  # bytes


def kv_bytes_per_token(architecture: Architecture, element: int = BF16) -> int:
    """Keys and values that one more token adds while no window is full. `element` is bytes per number."""
    return sum(element * number * _kept_numbers(layer.attention) for layer, number in architecture.kinds())


def indexer_bytes_per_token(architecture: Architecture, element: int = BF16) -> int:
    """Keys of the indexers of sparse attention, which a cache holds besides."""
    return sum(element * number * _indexer_numbers(layer.attention) for layer, number in architecture.kinds())


def kv_bytes(architecture: Architecture, tokens: int, element: int = BF16) -> int:
    """Of one sequence of `tokens`: a layer with a window keeps no more than the window; indexers' keys included."""
    return element * sum(
        number * _kept_numbers(layer.attention) * _kept_tokens(layer.attention, tokens)
        + number * _indexer_numbers(layer.attention) * tokens
        for layer, number in architecture.kinds()
    )


def forward_flops(architecture: Architecture, tokens: int) -> float:
    """Operations per token of a forward pass over a sequence of `tokens`, as in training and in reading a prompt.

    Two per weight that is multiplied, and in attention for each key: 2 H (d_qk + d_v), over the mean number of keys
    that a token attends to.
    """
    attention = sum(
        number * _flops_per_key(layer.attention) * attended_keys(layer.attention, tokens)
        + number * _indexer_flops_per_key(layer.attention) * (tokens / 2)
        for layer, number in architecture.kinds()
    )
    return 2 * count(architecture).active_multiplied + attention


def decode_flops(architecture: Architecture, position: int) -> float:
    """Operations for the next token after `position` others, whose keys and values are in the cache.

    Latent attention then scores in the latent space, which spares projecting every key again.
    """
    attention = sum(
        number * _flops_per_cached_key(layer.attention) * _seen_tokens(layer.attention, position)
        + number * _indexer_flops_per_key(layer.attention) * position
        for layer, number in architecture.kinds()
    )
    return 2 * count(architecture).active_multiplied + attention


def attended_keys(attention: Attention, tokens: int) -> float:
    """Mean number of keys that a token of a sequence of `tokens` attends to."""
    if isinstance(attention, LatentAttention):
        limit = tokens if attention.selection is None else attention.selection.tokens
        return _mean_up_to(limit, tokens)
    match attention.window:
        case None:
            return tokens / 2
        case SlidingWindow(width):
            return _mean_up_to(width, tokens)
        case Chunks(width):
            whole, rest = divmod(tokens, width)
            return (whole * width**2 / 2 + rest**2 / 2) / tokens


def _mean_up_to(limit: int, tokens: int) -> float:
    """The mean when a token sees all before it, but `limit` at most: (k^2 / 2 + (s - k) k) / s."""
    within = min(limit, tokens)
    return (within**2 / 2 + (tokens - within) * within) / tokens


def _kept_numbers(attention: Attention) -> int:
    """Numbers that one layer keeps for one token."""
    if isinstance(attention, GroupedQueryAttention):
        return 2 * attention.key_value_heads * attention.head_width
    return attention.latent_rank + attention.rotary_width


def _indexer_numbers(attention: Attention) -> int:
    indexer = indexer_of(attention)
    return 0 if indexer is None else indexer.head_width


def _kept_tokens(attention: Attention, tokens: int) -> int:
    window = window_of(attention)
    return tokens if window is None else min(tokens, window.tokens)


def window_of(attention: Attention) -> Window | None:
    """The window of a layer that has one."""
    return attention.window if isinstance(attention, GroupedQueryAttention) else None


def _seen_tokens(attention: Attention, position: int) -> int:
    """Of the cache, by the token after it."""
    if isinstance(attention, LatentAttention) and attention.selection is not None:
        return min(position, attention.selection.tokens)
    return _kept_tokens(attention, position)


def _flops_per_key(attention: Attention) -> int:
    if isinstance(attention, GroupedQueryAttention):
        return 4 * attention.query_heads * attention.head_width
    return 2 * attention.heads * (attention.query_width + attention.value_width)


def _flops_per_cached_key(attention: Attention) -> int:
    if isinstance(attention, GroupedQueryAttention):
        return _flops_per_key(attention)
    return 2 * attention.heads * (2 * attention.latent_rank + attention.rotary_width)


def _indexer_flops_per_key(attention: Attention) -> int:
    indexer = indexer_of(attention)
    return 0 if indexer is None else 2 * indexer.heads * indexer.head_width
