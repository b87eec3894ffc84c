"""The largest attention logit of each head, watched while a batch is trained.

A logit q.k of a head is at most max |q| max |k| (Cauchy and Schwarz): two norms, which cost next to nothing. Only
where that bound exceeds the limit are the head's logits computed again, to know the largest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Logits that exist at one time while they are computed again, in elements.
BLOCK_ELEMENTS = 1 << 24


class LogitWatch:
    """Of each attention module whose forward pass it was given to, the largest logit of each head so far.

    What is over `limit` is exact. What is not may be the bound, as long as that is not over `limit` either.
    `line_lengths` [B] says after how many tokens a line is padding, whose logits do not count; None for no padding.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.line_lengths: Tensor | None = None
        self._largest: dict[nn.Module, Tensor] = {}

    def see(self, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """`query` [B, H, T, D] and `key` [B, H or fewer, T, D] of one forward pass; `mask` as `largest_logits`'s."""
        query, key = query.detach(), key.detach()
        heads, groups = query.shape[1], query.shape[1] // key.shape[1]
        bound = scaling * _largest_norm(query) * _largest_norm(key).repeat_interleave(groups)
        so_far = self._largest.get(module, bound.new_full((heads,), -torch.inf))
        # A head that cannot exceed the limit, or what it has reached already, needs no second look.
        open_question = bound > so_far.clamp(min=self.limit)
        now = torch.where(bound > self.limit, so_far, bound)
        if open_question.any():
            chosen = open_question.nonzero().squeeze(1)
            now[chosen] = largest_logits(query[:, chosen], key[:, chosen // groups], mask, scaling, self.line_lengths)
        self._largest[module] = torch.maximum(so_far, now)

    def take(self) -> dict[nn.Module, Tensor]:
        """Each module's largest logits [H], float32; the watch begins anew."""
        largest, self._largest = self._largest, {}
        return largest


def largest_logits(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, line_lengths: Tensor | None = None
) -> Tensor:
    """The largest input of each head's softmax, [H], float32.

    `query` and `key` are [B, H, T, D]. `mask` [B, 1, T, T] tells whom a token sees, or is added to the logits; None
    is causal. Of a line the first `line_lengths` [B] queries count.
    """
    rows, heads, length, _ = query.shape
    step = max(1, BLOCK_ELEMENTS // (rows * heads * length))
    largest = query.new_full((heads,), -torch.inf, dtype=torch.float32)
    for start in range(0, length, step):
        end = min(start + step, length)
        seen = length if mask is not None else end
        logits = query[:, :, start:end].float() @ key[:, :, :seen].float().mT * scaling
        if mask is None:
            hidden = torch.ones(end - start, seen, dtype=torch.bool, device=query.device).triu(start + 1)
            logits.masked_fill_(hidden, -torch.inf)
        elif mask.dtype == torch.bool:
            logits.masked_fill_(~mask[:, :, start:end, :seen], -torch.inf)
        else:
            logits += mask[:, :, start:end, :seen]
        if line_lengths is not None:
            padding = torch.arange(start, end, device=query.device) >= line_lengths[:, None]
            logits.masked_fill_(padding[:, None, :, None], -torch.inf)
        largest = torch.maximum(largest, logits.amax((0, 2, 3)))
    return largest


def _largest_norm(states: Tensor) -> Tensor:
    """Over tokens, of each head: [B, H, T, D] to [H]."""
    return torch.linalg.vector_norm(states, dim=-1, dtype=torch.float32).amax((0, 2))
