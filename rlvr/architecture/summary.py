"""A model's facts in one flat record, and several of them side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from rlvr.architecture.catalog import Model
from rlvr.architecture.cost import (
    BF16,
    forward_flops,
    indexer_bytes_per_token,
    kv_bytes,
    kv_bytes_per_token,
)
from rlvr.architecture.facts import (
    Architecture,
    Attention,
    Chunks,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
    QKNorm,
    SlidingWindow,
)
from rlvr.architecture.parameters import count

CONTEXTS = (4096, 32_768, 131_072)
NOT_SAID = "not said"
_LABEL_WIDTH, _COLUMN_WIDTH = 30, 18  # of the table, in characters, with its lines


@dataclass(frozen=True, slots=True)
class AtContext:
    """What one sequence of `tokens` costs."""

    tokens: int
    kv_bytes: int  # bfloat16; indexers' keys included
    forward_flops_per_token: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What `rlvr inspect` says of a model. Bytes are for bfloat16; counts are of the text model."""

    name: str
    family: str
    parameters: int
    parameters_without_input_embedding: int
    active_parameters: int
    active_without_input_embedding: int
    layers: int
    dense_layers_first: int
    moe_layers: int
    layer_pattern: str
    hidden: int
    experts: int
    experts_per_token: int
    shared_experts: int
    attention: str
    qk_norm: str
    kv_bytes_per_token: int
    indexer_bytes_per_token: int
    at_context: tuple[AtContext, ...]
    vocabulary: int
    tied_head: bool
    context: int | None
    licence: str | None
    weight_bytes: int
    left_out: tuple[str, ...]


def summarise(model: Model, contexts: Sequence[int] = CONTEXTS) -> ModelFacts:
    """Count everything. `contexts` are lengths in tokens."""
    a = model.architecture
    counted = count(a)
    mixture = next((mixture for mixture, _ in a.mixtures()), None)
    return ModelFacts(
        name=model.name,
        family=a.family,
        parameters=counted.total,
        parameters_without_input_embedding=counted.total_multiplied,
        active_parameters=counted.active,
        active_without_input_embedding=counted.active_multiplied,
        layers=len(a.layers),
        dense_layers_first=a.dense_first(),
        moe_layers=a.moe_layers,
        layer_pattern=describe_layers(a),
        hidden=a.hidden,
        experts=mixture.experts if mixture else 0,
        experts_per_token=mixture.chosen if mixture else 0,
        shared_experts=mixture.shared_experts if mixture else 0,
        attention=describe_attention(a),
        qk_norm=_qk_norm(a),
        kv_bytes_per_token=kv_bytes_per_token(a),
        indexer_bytes_per_token=indexer_bytes_per_token(a),
        at_context=tuple(AtContext(t, kv_bytes(a, t), forward_flops(a, t)) for t in contexts),
        vocabulary=a.vocabulary,
        tied_head=a.tied_head,
        context=a.context,
        licence=model.licence,
        weight_bytes=BF16 * counted.total,
        left_out=a.left_out,
    )


def describe_layers(architecture: Architecture) -> str:
    """How dense and mixture layers follow each other."""
    sparse = [isinstance(layer.mlp, MixtureOfExperts) for layer in architecture.layers]
    depth, number, first = len(sparse), sum(sparse), architecture.dense_first()
    if number in (0, depth):
        return f"{depth}, all {'MoE' if number else 'dense'}"
    if number == depth - first:
        return f"{depth}: {first} dense, then {number} MoE"
    if all(is_sparse == ((place + 1) % (first + 1) == 0) for place, is_sparse in enumerate(sparse)):
        return f"{depth}: 1 in {first + 1} is MoE"
    return f"{depth}: {depth - number} dense, {number} MoE"


def describe_attention(architecture: Architecture) -> str:
    """The kind with its heads, and which layers are limited to a window or a choice."""
    kinds = Counter(_kind(layer.attention) for layer in architecture.layers)
    limits = Counter(_limit(layer.attention) for layer in architecture.layers)
    limited = [f"{number}/{len(architecture.layers)} layers {limit}" for limit, number in limits.items() if limit]
    if len(limited) == 1 and not limits[""]:
        limited = [next(iter(limits))]
    return ", ".join([*kinds, *limited])


def _kind(attention: Attention) -> str:
    match attention:
        case LatentAttention():
            return f"MLA {attention.heads}"
        case GroupedQueryAttention(query_heads=queries, key_value_heads=keys):
            return f"MHA {queries}" if queries == keys else f"GQA {queries}/{keys}"


def _limit(attention: Attention) -> str:
    match attention:
        case LatentAttention(selection=selection):
            return "" if selection is None else f"DSA top {selection.tokens}"
        case GroupedQueryAttention(window=SlidingWindow(tokens)):
            return f"sliding {tokens}"
        case GroupedQueryAttention(window=Chunks(tokens)):
            return f"chunked {tokens}"
    return ""


def _qk_norm(architecture: Architecture) -> str:
    kinds = Counter(
        layer.attention.qk_norm for layer in architecture.layers if isinstance(layer.attention, GroupedQueryAttention)
    )
    told = [f"{kind} in {kinds[kind]} layers" for kind in (QKNorm.RMS, QKNorm.L2) if kinds[kind]]
    return ", ".join(told) or "no"


# -------------------------------------------------------------------- as a table


def show(models: Sequence[ModelFacts], console: Console | None = None) -> None:
    """Side by side: as many columns as the console is wide, the rest in tables below."""
    console = console or Console(highlight=False)
    across = max(1, (console.width - _LABEL_WIDTH) // _COLUMN_WIDTH)
    for first in range(0, len(models), across):
        console.print(_table(models[first : first + across]), markup=False)
    for facts in models:
        if facts.left_out:
            console.print(f"{facts.name}: not counted: {', '.join(facts.left_out)}", style="dim", markup=False)


def _table(models: Sequence[ModelFacts]) -> Table:
    table = Table()
    table.add_column(no_wrap=True)
    for facts in models:
        table.add_column(facts.name)
    rows = [_rows(facts) for facts in models]
    for label in rows[0]:
        table.add_row(label, *(row[label] for row in rows))
    return table


def _rows(facts: ModelFacts) -> dict[str, str]:
    """One column, by the label of its row; every model has all labels."""
    rows = {
        "family": facts.family,
        "parameters": billions(facts.parameters),
        "  without input embedding": billions(facts.parameters_without_input_embedding),
        "active per token": billions(facts.active_parameters),
        "  active without it": billions(facts.active_without_input_embedding),
        "layers": facts.layer_pattern,
        "hidden": f"{facts.hidden:,}",
        "experts / top-k / shared": (
            f"{facts.experts} / {facts.experts_per_token} / {facts.shared_experts}" if facts.moe_layers else "–"
        ),
        "attention": facts.attention,
        "QK-norm": facts.qk_norm,
        "KV bytes per token": f"{facts.kv_bytes_per_token:,}"
        + (f" + {facts.indexer_bytes_per_token:,}" if facts.indexer_bytes_per_token else ""),
    }
    rows |= {f"KV at {_tokens(at.tokens)}": gigabytes(at.kv_bytes) for at in facts.at_context}
    rows |= {f"GFLOP/token at {_tokens(at.tokens)}": _gigaflops(at.forward_flops_per_token) for at in facts.at_context}
    return rows | {
        "vocabulary": f"{facts.vocabulary:,}" + (", tied head" if facts.tied_head else ""),
        "context": NOT_SAID if facts.context is None else f"{facts.context:,}",
        "licence": facts.licence or NOT_SAID,
        "weights in bf16": gigabytes(facts.weight_bytes),
    }


def billions(parameters: int) -> str:
    """671.03 B, 494.0 M, 381 k."""
    for unit, name, digits in ((1e9, "B", 2), (1e6, "M", 1), (1e3, "k", 0)):
        if parameters >= unit:
            return f"{parameters / unit:.{digits}f} {name}"
    return str(parameters)


def gigabytes(number: float) -> str:
    """In powers of ten, as weights are usually told: 1,342 GB, 0.40 GB, 12.3 MB."""
    if number >= 1e11:
        return f"{number / 1e9:,.0f} GB"
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.2f} MB"


def _gigaflops(flops: float) -> str:
    return f"{flops / 1e9:.1f}" if flops >= 1e9 else f"{flops / 1e9:.2g}"


def _tokens(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else f"{tokens:,}"
