"""Log-probabilities of given tokens without ever holding the logits of all of them.

The logits of N tokens over a vocabulary of V take N x V numbers, more than the rest of a small model. Here only a
chunk of C tokens has logits at one time, in the forward and again in the backward pass, which recomputes them.
Logits and log-softmax are in float32 or wider, because bfloat16 logits alone move a log-probability by 0.03.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class HeadOutput(NamedTuple):
    """What the policy says in the places of N tokens: of each its log-probability, and the entropy in nats, [N].

    `at` [N, K] are log-probabilities of K more ids in each place, where they were asked for. Float32.
    """

    logprobs: Tensor
    entropy: Tensor
    at: Tensor


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden @ weight.T / temperature) at the targets, and the entropy of the distribution.

    `hidden` [N, H] and `weight` [V, H] are differentiated through the log-probabilities; `targets` are ids below V,
    one a token [N] or several [N, K], and the log-probabilities have their shape. The entropy [N], in nats, carries
    no gradient. `chunk` is C, in tokens.
    """
    ids = targets.unsqueeze(1) if targets.ndim == 1 else targets
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs, entropy = _ChunkedHead.apply(hidden, weight, ids, temperature, chunk)
    return logprobs.view(targets.shape), entropy


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(ids.shape, dtype=wide, device=hidden.device)
        log_normalizer = torch.empty(len(ids), dtype=wide, device=hidden.device)
        entropy = torch.empty_like(log_normalizer)
        for part in _chunks(len(ids), chunk):
            logits = _logits(hidden[part], weight, temperature, wide)
            log_normalizer[part] = logits.logsumexp(dim=-1)
            all_logprobs = logits.sub_(log_normalizer[part, None])
            logprobs[part] = all_logprobs.gather(1, ids[part])
            entropy[part] = -torch.linalg.vecdot(all_logprobs.exp(), all_logprobs)
        ctx.save_for_backward(hidden, weight, ids, log_normalizer)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, ids, log_normalizer = ctx.saved_tensors
        hidden_needed, weight_needed = ctx.needs_input_grad[:2]
        wide = log_normalizer.dtype
        grad_hidden = torch.empty_like(hidden) if hidden_needed else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if weight_needed else None
        for part in _chunks(len(ids), ctx.chunk):
            logits = _logits(hidden[part], weight, ctx.temperature, wide)
            # d log p_i / d z_j = [i = j] - p_j
            grad = grad_logprobs[part]
            grad_logits = logits.sub_(log_normalizer[part, None]).exp_().mul_(-grad.sum(1, keepdim=True))
            grad_logits.scatter_add_(1, ids[part], grad)
            grad_logits.div_(ctx.temperature)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ weight.to(wide)
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden[part].to(wide))
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    return (hidden.to(dtype) @ weight.to(dtype).T).div_(temperature)


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
