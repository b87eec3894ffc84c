"""From logits to what a `ScoreRequest` asks for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlvr.types import ScoreRequest, TokenScores


def scores_from_logits(request: ScoreRequest, logits: Tensor, version: int) -> TokenScores:
    """`logits` [N, V] are of the request's places, unnormalised or log-probabilities at temperature 1."""
    logprobs = (logits.float() / request.temperature).log_softmax(-1)
    tokens = torch.tensor(request.token_ids[request.first :], device=logits.device)
    of_tokens = logprobs.gather(-1, tokens[:, None])[:, 0]
    if request.ids is not None:
        ids = torch.as_tensor(request.ids, device=logits.device, dtype=torch.long)
        of_ids = logprobs.gather(-1, ids)
    else:
        of_ids, ids = logprobs.topk(min(request.top_k, logprobs.shape[-1]), -1)
    return token_scores(of_tokens, ids, of_ids, version)


def token_scores(logprobs: Tensor, ids: Tensor, id_logprobs: Tensor, version: int) -> TokenScores:
    """The tensors as arrays of the types that `TokenScores` has."""
    return TokenScores(
        logprobs.cpu().numpy().astype(np.float32),
        ids.cpu().numpy().astype(np.int32),
        id_logprobs.cpu().numpy().astype(np.float32),
        version,
    )
