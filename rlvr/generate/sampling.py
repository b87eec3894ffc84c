"""From logits to tokens, as vLLM does it: temperature, then top-k, then top-p, then one draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlvr.types import Sampling


def processed_logprobs(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Log-probabilities of the distribution that is sampled from: (rows, vocabulary), float32.

    `logits` is (rows, vocabulary). A row with temperature 0 is greedy; its log-probabilities are those at
    temperature 1, because those of a certain choice would all be 0.
    """
    temperature = logits.new_tensor([s.temperature or 1.0 for s in samplings], dtype=torch.float32)
    scaled = logits.float() / temperature[:, None]
    if any(s.temperature > 0 and (s.top_k > 0 or s.top_p < 1) for s in samplings):
        scaled = _truncate(scaled, samplings)
    return scaled.log_softmax(-1)


def draw(
    logprobs: torch.Tensor,
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator | None],
    shared: torch.Generator | None = None,
) -> torch.Tensor:
    """One token of each row, (rows,), by the Gumbel-max trick: argmax of log p - log E with E exponential.

    A row with a generator draws from it alone, so that its tokens do not depend on what else is in the batch; the
    others draw from the `shared` one, torch's own where it is None.
    """
    noise = torch.empty_like(logprobs).exponential_(generator=shared)
    for row, (sampling, generator) in enumerate(zip(samplings, generators, strict=True)):
        if sampling.temperature == 0:
            noise[row] = 1.0
        elif generator is not None:
            noise[row] = torch.empty(logprobs.shape[-1]).exponential_(generator=generator).to(noise)
    return (logprobs - noise.log()).argmax(-1)


def _truncate(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """-inf for all but the `top_k` likeliest tokens, and then for all beyond the smallest set of probability
    `top_p`; the likeliest token always stays."""
    size = logits.shape[-1]
    greedy = [s.temperature == 0 for s in samplings]
    top_k = [size if g or s.top_k <= 0 else min(s.top_k, size) for s, g in zip(samplings, greedy, strict=True)]
    top_p = [1.0 if g else s.top_p for s, g in zip(samplings, greedy, strict=True)]
    values, order = logits.sort(-1, descending=True)
    ranks = torch.arange(size, device=logits.device)
    values = values.masked_fill(ranks >= torch.tensor(top_k, device=logits.device)[:, None], -torch.inf)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # of all likelier tokens
    beyond = (before >= torch.tensor(top_p, device=logits.device)[:, None]) & (ranks > 0)
    beyond &= torch.tensor(top_p, device=logits.device)[:, None] < 1  # rounding must not cut a full distribution
    return torch.empty_like(logits).scatter_(-1, order, values.masked_fill(beyond, -torch.inf))
