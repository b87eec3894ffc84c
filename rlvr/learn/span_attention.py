"""Attention over spans: tokens that do not see each other cost nothing.

Of a prompt and 8 answers behind it the prompt sees itself, and each answer the prompt and itself: spans say so
(`rlvr.learn.packing.Span`). A mask says the same, of every pair of tokens, and attention under a mask computes every
pair.

A query's spans are merged as the blocks of flash attention are (Dao et al., arXiv 2205.14135): of each it has the
largest logit, the sum of e^(logit - largest), and the values weighted by that. The backward pass computes the weights
again, from the largest logit and the sum: nothing is kept that grows with the square of a length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlvr.learn.packing import Span

# Logits that exist at one time, in elements: on a processor, as many as its cache holds beside what they come from.
BLOCK_ELEMENTS_CPU = 1 << 17
BLOCK_ELEMENTS_GPU = 1 << 24


def span_attention(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scaling: float) -> Tensor:
    """Softmax attention of `query` [B, H, T, D] to `key` and `value` [B, K, T, D], as [B, T, H, D].

    K divides H: neighbouring heads share a key. Values may be of another width than keys, which is the output's then.
    Computes in float32 or wider, under autocast from numbers rounded to its format. A query in no span gets zeros.
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        rounded = torch.get_autocast_dtype(device)
        query, key, value = query.to(rounded), key.to(rounded), value.to(rounded)
    with torch.autocast(device, enabled=False):
        output: Tensor = _SpanAttention.apply(query, key, value, spans, scaling)
    return output


class _SpanAttention(torch.autograd.Function):
    """Inside, what queries have is [B, K, T, G, ...]: a stretch of the G heads that share a key is one matrix."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scaling: float) -> Tensor:
        q, wide = _by_key(query, key), _wide(query)
        output = q.new_zeros((*q.shape[:-1], value.shape[-1]), dtype=wide)
        peak = q.new_full((*q.shape[:-1], 1), -torch.inf, dtype=wide)
        total = torch.zeros_like(peak)
        for span in _blocks(spans, query):
            logits = _logits(q, key, span, scaling)
            largest = logits.amax(-1, keepdim=True)
            so_far = _queries(peak, span)
            both = torch.maximum(so_far, largest)
            weights = logits.sub_(both).exp_()
            earlier = (so_far - both).exp_()
            _queries(output, span).mul_(earlier).baddbmm_(weights, value[span.line, :, span.keys].to(wide))
            _queries(total, span).mul_(earlier).add_(weights.sum(-1, keepdim=True))
            so_far.copy_(both)
        output.div_(total.clamp_(min=1))  # it is 1 and more, but for a query in no span
        output = output.permute(0, 2, 1, 3, 4).flatten(2, 3).to(query.dtype).contiguous()
        ctx.save_for_backward(query, key, value, output, peak, total)
        ctx.spans, ctx.scaling = spans, scaling
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, peak, total = ctx.saved_tensors
        q, wide = _by_key(query, key), _wide(query)
        of_output = _by_key(grad_output.to(wide).transpose(1, 2), key) / total
        # Of a query, the mean of its weights' gradients under the weights: what softmax subtracts.
        mean = (of_output * _by_key(output.transpose(1, 2), key)).sum(-1, keepdim=True)
        of_q, of_key, of_value = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (q, key, value))
        for span in _blocks(ctx.spans, query):
            seen = span.line, slice(None), span.keys
            weights = _logits(q, key, span, ctx.scaling).sub_(_queries(peak, span)).exp_()
            of_found = _queries(of_output, span)
            of_value[seen].baddbmm_(weights.mT, of_found)
            of_logits = torch.bmm(of_found, value[seen].to(wide).mT).sub_(_queries(mean, span)).mul_(weights)
            _queries(of_q, span).baddbmm_(of_logits, key[seen].to(wide), alpha=ctx.scaling)
            of_key[seen].baddbmm_(of_logits.mT, _queries(q, span).to(wide), alpha=ctx.scaling)
        of_query = of_q.transpose(2, 3).flatten(1, 2)
        return of_query.to(query.dtype), of_key.to(key.dtype), of_value.to(value.dtype), None, None


def _wide(states: Tensor) -> torch.dtype:
    """What sums are made in."""
    return torch.promote_types(states.dtype, torch.float32)


def _by_key(states: Tensor, key: Tensor) -> Tensor:
    """[B, H, T, D] as [B, K, T, G, D]: neighbouring heads share one of the K that `key` has."""
    return states.unflatten(1, (key.shape[1], -1)).transpose(2, 3)


def _queries(states: Tensor, span: Span) -> Tensor:
    """Of the span's queries: [B, K, T, G, D] to [K, queries * G, D]; a view where `states` is contiguous."""
    return states[span.line, :, span.queries].flatten(1, 2)


def _logits(q: Tensor, key: Tensor, span: Span, scaling: float) -> Tensor:
    """Of the span's queries and keys, [K, queries * G, keys]."""
    rows, columns = _queries(q, span).to(_wide(q)), key[span.line, :, span.keys].to(_wide(q))
    logits = torch.baddbmm(rows.new_empty(1), rows, columns.mT, beta=0, alpha=scaling)
    behind = span.keys.stop - span.queries.start  # keys at the end that come after a query, or are its own token
    if behind > 1:
        hidden = torch.ones(span.queries.stop - span.queries.start, behind, dtype=torch.bool, device=q.device).triu(1)
        logits[..., -behind:].masked_fill_(hidden.repeat_interleave(q.shape[3], 0), -torch.inf)
    return logits


def _blocks(spans: Sequence[Span], query: Tensor) -> Iterator[Span]:
    """The spans, cut into such as have few enough logits at a time."""
    elements = BLOCK_ELEMENTS_GPU if query.is_cuda else BLOCK_ELEMENTS_CPU
    for span in spans:
        step = max(1, elements // (query.shape[1] * (span.keys.stop - span.keys.start)))
        for start in range(span.queries.start, span.queries.stop, step):
            end = min(start + step, span.queries.stop)
            yield Span(span.line, slice(start, end), slice(span.keys.start, min(end, span.keys.stop)))
