"""The learner's attention, in the place of transformers' SDPA attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlvr.learn.max_logit import LogitWatch
from rlvr.learn.packing import Span
from rlvr.learn.span_attention import span_attention


def learner_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    spans: Sequence[Span] | None = None,
    logit_watch: LogitWatch | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """SDPA attention for a model that is called with neither `spans=` nor `logit_watch=`.

    `spans` say what `attention_mask` says, and then only what is seen is computed. `logit_watch` sees queries and keys.
    """
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    if logit_watch is not None:
        logit_watch.see(module, query, key, attention_mask, factor)
    if spans is not None:
        return span_attention(query, key, value, spans, factor), None
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **arguments
    )
    return output


def install_learner_attention() -> None:
    """For all models of this process whose attention is "sdpa".

    It takes that name and not one of its own: under another, transformers builds no mask unless the name is registered
    a second time, for masks, and some models (GLM-5) leave out their sparse attention.
    """
    ALL_ATTENTION_FUNCTIONS["sdpa"] = learner_attention
