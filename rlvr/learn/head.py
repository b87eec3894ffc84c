"""Log-probabilities of given tokens without ever holding the logits of all of them.

The logits of N tokens over a vocabulary of V take N x V numbers, more than the rest of a small model. Here only a
chunk of C tokens has logits at one time, in the forward and again in the backward pass, which recomputes them.
Logits and log-softmax are in float32 or wider, because bfloat16 logits alone move a log-probability by 0.03.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden @ weight.T / temperature) at the targets, and the entropy of the distribution.

    `hidden` [N, H] and `weight` [V, H] are differentiated through the log-probabilities; `targets` [N] are ids
    below V. Both results are [N]; the entropy, in nats, carries no gradient. `chunk` is C, in tokens.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs, entropy = _ChunkedHead.apply(hidden, weight, targets, temperature, chunk)
    return logprobs, entropy


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(targets), dtype=wide, device=hidden.device)
        log_normalizer = torch.empty_like(logprobs)
        entropy = torch.empty_like(logprobs)
        for part in _chunks(len(targets), chunk):
            logits = _logits(hidden[part], weight, temperature, wide)
            log_normalizer[part] = logits.logsumexp(dim=-1)
            all_logprobs = logits.sub_(log_normalizer[part, None])
            logprobs[part] = all_logprobs.gather(1, targets[part, None]).squeeze(1)
            entropy[part] = -torch.linalg.vecdot(all_logprobs.exp(), all_logprobs)
        ctx.save_for_backward(hidden, weight, targets, log_normalizer)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, log_normalizer = ctx.saved_tensors
        hidden_needed, weight_needed = ctx.needs_input_grad[:2]
        wide = log_normalizer.dtype
        grad_hidden = torch.empty_like(hidden) if hidden_needed else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if weight_needed else None
        for part in _chunks(len(targets), ctx.chunk):
            logits = _logits(hidden[part], weight, ctx.temperature, wide)
            # d log p(target) / d z_j = [j = target] - p_j
            grad = grad_logprobs[part, None]
            grad_logits = (logits.sub_(log_normalizer[part, None])).exp_().mul_(-grad)
            grad_logits.scatter_add_(1, targets[part, None], grad)
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
