"""What a policy says of given tokens, without ever holding the logits of all places.

The logits of N places over a vocabulary of V take N x V numbers, more than the rest of a small model. Here only a
chunk of C places has logits at one time. Logits and log-softmax are in float32 or wider, because bfloat16 logits
alone move a log-probability by 0.03.

With p the distribution in a place and g_k the gradient of the log-probability of id k there, the gradient of logit j
is sum_k g_k ([k = j] - p_j). A head that is trained needs p again in the backward pass, and computes it again. One
that is frozen needs of p only its mean row of the head, p W, which the forward pass leaves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag


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
    one a place [N] or several [N, K], and the log-probabilities have their shape. The entropy [N], in nats, carries
    no gradient. `chunk` is C, in places.
    """
    ids = targets.unsqueeze(1) if targets.ndim == 1 else targets
    head = _TrainedHead if weight.requires_grad else _FrozenHead
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs, entropy = head.apply(hidden, weight, ids, temperature, chunk)
    return logprobs.view(targets.shape), entropy


class _TrainedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        seen = _Places.empty(hidden, ids)
        logits, probabilities = _chunk(hidden, weight, chunk), _chunk(hidden, weight, chunk)
        for part in _chunks(len(ids), chunk):
            seen.see(part, _logits(hidden[part], weight, temperature, logits), ids[part], probabilities)
        ctx.save_for_backward(hidden, weight, ids, seen.log_normalizer)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(seen.entropy)
        return seen.logprobs, seen.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        hidden, weight, ids, log_normalizer = ctx.saved_tensors
        wide = log_normalizer.dtype
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide)
        logits = _chunk(hidden, weight, ctx.chunk)
        for part in _chunks(len(ids), ctx.chunk):
            grad_logits = _logits(hidden[part], weight, ctx.temperature, logits)
            grad_logits.sub_(log_normalizer[part, None]).exp_().mul_(-grad[part].sum(1, keepdim=True))
            grad_logits.scatter_add_(1, ids[part], grad[part])
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ weight.to(wide) / ctx.temperature
            grad_weight.addmm_(grad_logits.T, hidden[part].to(wide) / ctx.temperature)
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        seen = _Places.empty(hidden, ids)
        wide = seen.logprobs.dtype
        mean_row = torch.empty(hidden.shape if ctx.needs_input_grad[0] else (0,), dtype=wide, device=hidden.device)
        logits, probabilities = _chunk(hidden, weight, chunk), _chunk(hidden, weight, chunk)
        for part in _chunks(len(ids), chunk):
            p = seen.see(part, _logits(hidden[part], weight, temperature, logits), ids[part], probabilities)
            if ctx.needs_input_grad[0]:
                mean_row[part] = p @ weight.to(wide)
        ctx.save_for_backward(weight, ids, mean_row)
        ctx.temperature, ctx.dtype = temperature, hidden.dtype
        ctx.mark_non_differentiable(seen.entropy)
        return seen.logprobs, seen.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, ids, mean_row = ctx.saved_tensors
        own_rows = embedding_bag(ids, weight.to(mean_row.dtype), mode="sum", per_sample_weights=grad)
        grad_hidden = own_rows.addcmul_(mean_row, grad.sum(1, keepdim=True), value=-1).div_(ctx.temperature)
        return grad_hidden.to(ctx.dtype), None, None, None, None


class _Places(NamedTuple):
    """Of N places: log-probabilities of K ids [N, K], the entropy and the logarithm of the softmax's sum [N]."""

    logprobs: Tensor
    entropy: Tensor
    log_normalizer: Tensor

    @staticmethod
    def empty(hidden: Tensor, ids: Tensor) -> _Places:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(ids.shape, dtype=wide, device=hidden.device)
        return _Places(logprobs, logprobs.new_empty(len(ids)), logprobs.new_empty(len(ids)))

    def see(self, part: slice, logits: Tensor, ids: Tensor, room: Tensor) -> Tensor:
        """Fill in a chunk from its logits [C, V], which are overwritten; returns the probabilities, put into `room`."""
        largest = logits.amax(dim=1, keepdim=True)
        probabilities = torch.exp(logits.sub_(largest), out=room[: len(logits)])
        total = probabilities.sum(dim=1, keepdim=True)
        log_total = total.log()
        probabilities.div_(total)
        self.logprobs[part] = logits.gather(1, ids) - log_total
        # A product of two matrices a place: the product of all elements would be a third chunk.
        mean = probabilities[:, None] @ logits[:, :, None]
        self.entropy[part] = (log_total - mean[:, 0]).squeeze(1)
        self.log_normalizer[part] = (log_total + largest).squeeze(1)
        return probabilities


def _chunk(hidden: Tensor, weight: Tensor, size: int) -> Tensor:
    """Room for the logits of a chunk, made once: memory that is new each time costs as much as what is done in it."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return torch.empty(min(size, len(hidden)), len(weight), dtype=wide, device=hidden.device)


def _logits(hidden: Tensor, weight: Tensor, temperature: float, room: Tensor) -> Tensor:
    """Of a chunk, [C, V], in `room`."""
    return torch.mm(hidden.to(room.dtype) / temperature, weight.to(room.dtype).T, out=room[: len(hidden)])


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
