"""The check that a learner makes before it trains: are its log-probabilities those of the model?

Packing, shared prefixes and a head of one's own fail silently when they fail: the loss goes on, of another policy.
So a few random sequences are scored in the learner's way and by the model's own forward pass, one at a time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rlvr.config import DType
from rlvr.learn.model import PolicyModel
from rlvr.learn.packing import Layout
from rlvr.learn.score import score, scored_row
from rlvr.types import Row

# Largest difference of a log-probability. In float32 it is rounding, 1e-5 at most; in bfloat16, which flash attention
# needs and sharded weights are gathered in, the model's own logits are rounded to 8 bits and the bound is only good
# against gross mixing.
BOUND_FLOAT32 = 1e-4
BOUND_BFLOAT16 = 0.2


class SelfCheckFailed(RuntimeError):
    """The learner's log-probabilities are not the model's: nothing was trained."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """Largest differences of a log-probability, in nats, and their bound."""

    head: float
    packing: float
    replay: float  # of the model's own experts; 0 of a dense model
    bound: float


@torch.no_grad()
def check(model: PolicyModel, seed: int) -> SelfCheck:
    """Compare, and raise SelfCheckFailed where a difference exceeds its bound.

    The comparison is made in float32 where the attention can, whatever the dtype of training: the question is
    whether rows are kept apart, not how a format rounds.
    """
    rows = _rows(random.Random(seed), model.vocabulary)
    dtype = model.widest_dtype
    own = torch.cat([_own(model, row, dtype) for row in rows])
    replaying = _with_own_experts(model, rows, dtype)
    if dtype is not DType.FLOAT32:
        rows = replaying  # a rounding in bfloat16 sends some token to another expert, from where on all differs
    alone = score(model, rows, replace(model.plan, layout=Layout.ALONE), dtype).logprobs
    packed = score(model, rows, model.plan, dtype).logprobs
    bound = BOUND_FLOAT32 if dtype is DType.FLOAT32 else BOUND_BFLOAT16
    replayed = score(model, replaying, model.plan, dtype).logprobs
    result = SelfCheck(_largest(alone - own), _largest(packed - alone), _largest(replayed - packed), bound)
    if not result.head <= bound:
        raise SelfCheckFailed(
            f"the learner's head differs from the {type(model.network).__name__}'s own logits by {result.head:.2g} "
            f"(bound {bound:g}): the model scales or caps its logits, or caches across calls; it cannot be trained"
        )
    if not result.packing <= bound:
        raise SelfCheckFailed(
            f"{type(model.network).__name__} with learner.layout={model.plan.layout} and {model.attention} attention "
            f"mixes rows of one line: log-probabilities differ by {result.packing:.2g} from those of the rows alone "
            f"(bound {bound:g}); set learner.layout to a simpler one (shared > packed > alone)"
        )
    if not result.replay <= bound:
        raise SelfCheckFailed(
            f"{type(model.network).__name__} whose tokens are sent to the very experts that it chose gives other "
            f"log-probabilities, by {result.replay:.2g} (bound {bound:g}): set learner.router.replay=false"
        )
    return result


def _with_own_experts(model: PolicyModel, rows: list[Row], dtype: DType) -> list[Row]:
    """The rows as if a generator had recorded what the model chooses for them."""
    if not model.experts.routers:
        return rows
    recorded = []
    for row in rows:
        model.own_logits(torch.tensor(row.token_ids, device=model.device), dtype)
        recorded.append(replace(row, experts=model.experts.chosen.cpu().numpy().astype(np.uint16)))
    return recorded


def _own(model: PolicyModel, row: Row, dtype: DType) -> Tensor:
    ids = torch.tensor(row.token_ids, device=model.device)
    logprobs = (model.own_logits(ids, dtype)[:-1] / model.temperature).log_softmax(-1)
    return logprobs.gather(1, ids[1:, None]).squeeze(1)


def _rows(random_source: random.Random, vocabulary: int) -> list[Row]:
    """Two groups of three: in each, rows of different lengths that begin with the same tokens."""

    def tokens(count: int) -> list[int]:
        return [random_source.randrange(vocabulary) for _ in range(count)]

    prompts = [tokens(5), tokens(9)]
    return [scored_row(prompt + tokens(rest), group) for group, prompt in enumerate(prompts) for rest in (3, 7, 12)]


def _largest(difference: Tensor) -> float:
    # NaN is larger than any bound: `not nan <= bound`.
    return float(difference.abs().max())
