"""From logits to tokens, as vLLM does it: temperature, then one draw from the whole distribution."""

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
    return (logits.float() / temperature[:, None]).log_softmax(-1)


def draw(logprobs: torch.Tensor, samplings: Sequence[Sampling], random: torch.Generator) -> torch.Tensor:
    """One token of each row, (rows,), by the Gumbel-max trick: argmax of log p - log E with E exponential."""
    noise = torch.empty_like(logprobs).exponential_(generator=random)
    for row, sampling in enumerate(samplings):
        if sampling.temperature == 0:
            noise[row] = 1.0
    return (logprobs - noise.log()).argmax(-1)
