"""From a config in Hugging Face form to facts, family by family.

A family is the config's `model_type`. What may be absent from a config has the value that transformers 5.19 gives it;
what is not known here is refused, because a wrong count is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rlvr.architecture.facts import (
    MLP,
    Architecture,
    Attention,
    Chunks,
    DenseMLP,
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    Layer,
    MixtureOfExperts,
    QKNorm,
    SlidingWindow,
    TokenSelection,
    UnknownArchitecture,
    Window,
)
from rlvr.architecture.reading import Settings

_VISION = "vision tower and projector"
_NEXT_TOKENS = "multi-token prediction module"
_WIDE_HEAD = 128  # of Qwen3 and Llama 4, whatever their hidden size is


def read_architecture(config: Mapping[str, object], where: str) -> Architecture:
    """The facts of a config (the content of config.json). Raises UnknownArchitecture rather than guess."""
    settings = Settings(config, where)
    family = settings.text("model_type")
    if family in _WITH_VISION:
        return _text_part(settings, family)
    if family not in _LAYERS:
        known = ", ".join(sorted([*_LAYERS, *_WITH_VISION]))
        raise UnknownArchitecture(
            f"{where}: model_type={family} is not known here, so neither its parameters nor its keys and values can "
            f"be counted; known: {known}"
        )
    return _architecture(settings, family, tied=settings.flag("tie_word_embeddings", False))


def _text_part(settings: Settings, family: str) -> Architecture:
    inner = settings.inner("text_config")
    text_family = inner.text("model_type")
    if text_family not in _LAYERS:
        raise UnknownArchitecture(f"{inner.where}: model_type={text_family} is not known here")
    return _architecture(inner, text_family, tied=_tied(settings, inner, family), left_out=(_VISION,))


def _tied(whole: Settings, text: Settings, family: str) -> bool:
    """Whether the head is the input embedding. Either part of the config may say so."""
    said = {part.flag("tie_word_embeddings", False) for part in (whole, text) if "tie_word_embeddings" in part.values}
    default = _WITH_VISION[family]
    if not said and default is not None:
        return default
    if len(said) != 1:
        raise UnknownArchitecture(f"{whole.where}: tie_word_embeddings is {'contradictory' if said else 'missing'}")
    return said.pop()


def _architecture(settings: Settings, family: str, *, tied: bool, left_out: Sequence[str] = ()) -> Architecture:
    one_of_each: dict[Layer, Layer] = {}
    layers = tuple(one_of_each.setdefault(layer, layer) for layer in _LAYERS[family](settings))
    next_tokens = any(settings.integer_or(key, 0, least=0) for key in ("num_nextn_predict_layers", "num_mtp_layers"))
    return Architecture(
        family=family,
        hidden=settings.integer("hidden_size"),
        vocabulary=settings.integer("vocab_size"),
        tied_head=tied,
        context=settings.integer_or_null("max_position_embeddings"),
        layers=layers,
        left_out=(*left_out, *((_NEXT_TOKENS,) if next_tokens else ())),
    )


# -------------------------------------------------------------------- families with grouped-query attention


def _llama(settings: Settings) -> list[Layer]:
    settings.refuse_unless("mlp_bias", False)
    bias = settings.flag("attention_bias", False)
    attention = _grouped(settings, input_bias=bias, output_bias=bias)
    return [Layer(attention, _dense(settings))] * _depth(settings)


def _mistral(settings: Settings) -> list[Layer]:
    width = settings.integer_or_null("sliding_window", absent=4096)
    attention = _grouped(settings, window=None if width is None else SlidingWindow(width))
    return [Layer(attention, _dense(settings))] * _depth(settings)


def _mixtral(settings: Settings) -> list[Layer]:
    width = settings.integer_or_null("sliding_window")
    attention = _grouped(settings, window=None if width is None else SlidingWindow(width))
    experts = MixtureOfExperts(
        settings.integer("num_local_experts"),
        settings.integer("num_experts_per_tok"),
        settings.integer("intermediate_size"),
    )
    return [Layer(attention, experts)] * _depth(settings)


def _qwen2(settings: Settings) -> list[Layer]:
    return [
        Layer(_grouped(settings, input_bias=True, window=window), _dense(settings))
        for window in _qwen_windows(settings)
    ]


def _qwen3(settings: Settings) -> list[Layer]:
    bias = settings.flag("attention_bias", False)
    return [
        Layer(
            _grouped(
                settings, qk_norm=QKNorm.RMS, input_bias=bias, output_bias=bias, window=window, head_width=_WIDE_HEAD
            ),
            _dense(settings),
        )
        for window in _qwen_windows(settings)
    ]


def _qwen3_moe(settings: Settings) -> list[Layer]:
    bias = settings.flag("attention_bias", False)
    width = settings.integer_or_null("sliding_window", absent=4096) if _uses_window(settings) else None
    window = None if width is None else SlidingWindow(width)
    attention = _grouped(settings, qk_norm=QKNorm.RMS, input_bias=bias, output_bias=bias, window=window)
    experts_key = "num_experts" if "num_experts" in settings.values else "num_local_experts"
    experts = MixtureOfExperts(
        settings.integer(experts_key),
        settings.integer("num_experts_per_tok"),
        settings.integer("moe_intermediate_size"),
    )
    step = settings.integer_or("decoder_sparse_step", 1)
    dense_layers = settings.integers("mlp_only_layers") or []

    def mlp(number: int) -> MLP:
        sparse = number not in dense_layers and (number + 1) % step == 0
        return experts if sparse else _dense(settings)

    return [Layer(attention, mlp(number)) for number in range(_depth(settings))]


def _glm4_moe(settings: Settings) -> list[Layer]:
    attention = _grouped(
        settings,
        qk_norm=QKNorm.RMS if settings.flag("use_qk_norm", False) else QKNorm.NONE,
        input_bias=settings.flag("attention_bias", False),
        partly_rotary=True,
    )
    mlps = _dense_then_experts(settings, settings.integer_or("first_k_dense_replace", 1, least=0))
    return [Layer(attention, mlp) for mlp in mlps]


def _llama4(settings: Settings) -> list[Layer]:
    depth = _depth(settings)
    bias = settings.flag("attention_bias", False)
    interval = settings.integer_or("no_rope_layer_interval", 4)
    rotary = settings.integers("no_rope_layers") or [int((number + 1) % interval != 0) for number in range(depth)]
    if len(rotary) != depth:
        raise _other_depth(settings, "no_rope_layers", len(rotary), depth)
    chunk = settings.integer_or_null("attention_chunk_size", absent=8192)
    default_types = ["chunked_attention" if uses else "full_attention" for uses in rotary]
    types = _of_each_layer(settings, "layer_types", depth) or default_types
    step = settings.integer_or("interleave_moe_layer_step", 1)
    sparse_layers = settings.integers("moe_layers")
    if sparse_layers is None:
        sparse_layers = list(range(step - 1, depth, step))
    normalised = settings.flag("use_qk_norm", True)
    width = settings.integer("intermediate_size")
    experts = MixtureOfExperts(
        settings.integer("num_local_experts"),
        settings.integer("num_experts_per_tok"),
        width,
        shared_experts=1,
        shared_width=width,
    )

    def attention(number: int) -> Attention:
        return _grouped(
            settings,
            qk_norm=QKNorm.L2 if normalised and rotary[number] else QKNorm.NONE,
            input_bias=bias,
            output_bias=bias,
            window=_window(settings, types[number], chunk),
            head_width=_WIDE_HEAD,
        )

    return [
        Layer(
            attention(number),
            experts if number in sparse_layers else DenseMLP(settings.integer("intermediate_size_mlp")),
        )
        for number in range(depth)
    ]


# -------------------------------------------------------------------- families with latent attention


def _deepseek_v3(settings: Settings) -> list[Layer]:
    settings.refuse_unless("moe_layer_freq", 1)
    attention = _latent(settings)
    mlps = _dense_then_experts(settings, settings.integer("first_k_dense_replace", least=0))
    return [Layer(attention, mlp) for mlp in mlps]


def _sparse_latent(settings: Settings) -> list[Layer]:
    """DeepSeek-V3.2 and GLM-5: latent attention to the tokens that an indexer chooses."""
    settings.refuse_unless("mlp_bias", False)
    depth = _depth(settings)
    indexer = Indexer(settings.integer("index_n_heads"), settings.integer("index_head_dim"))
    chosen = settings.integer("index_topk")
    types = _of_each_layer(settings, "indexer_types", depth)
    if types is None:
        for key, usual in (("index_topk_pattern", None), ("index_topk_freq", 1)):
            settings.refuse_unless(key, usual)
        types = ["full"] * depth
    kinds = _of_each_layer(settings, "mlp_layer_types", depth)
    if kinds is None:
        mlps = _dense_then_experts(settings, settings.integer_or("first_k_dense_replace", 3, least=0))
    else:
        mlps = [_dense(settings) if kind == "dense" else _shared_and_routed(settings) for kind in kinds]
    selections = [TokenSelection(chosen, indexer if kind == "full" else None) for kind in types]
    return [Layer(_latent(settings, selection), mlp) for selection, mlp in zip(selections, mlps, strict=True)]


# -------------------------------------------------------------------- parts


def _grouped(
    settings: Settings,
    *,
    qk_norm: QKNorm = QKNorm.NONE,
    input_bias: bool = False,
    output_bias: bool = False,
    window: Window | None = None,
    partly_rotary: bool = False,
    head_width: int | None = None,
) -> GroupedQueryAttention:
    """`head_width` where the config names none; None: the heads share the hidden size."""
    heads = settings.integer("num_attention_heads")
    return GroupedQueryAttention(
        query_heads=heads,
        key_value_heads=settings.integer("num_key_value_heads"),
        head_width=settings.integer_or("head_dim", head_width or settings.integer("hidden_size") // heads),
        qk_norm=qk_norm,
        input_bias=input_bias,
        output_bias=output_bias,
        window=window,
        partly_rotary=partly_rotary,
    )


def _latent(settings: Settings, selection: TokenSelection | None = None) -> LatentAttention:
    settings.refuse_unless("attention_bias", False)
    return LatentAttention(
        heads=settings.integer("num_attention_heads"),
        query_rank=settings.present("q_lora_rank").integer_or_null("q_lora_rank"),
        latent_rank=settings.integer("kv_lora_rank"),
        plain_width=settings.integer("qk_nope_head_dim"),
        rotary_width=settings.integer("qk_rope_head_dim"),
        value_width=settings.integer("v_head_dim"),
        selection=selection,
    )


def _dense(settings: Settings) -> DenseMLP:
    return DenseMLP(settings.integer("intermediate_size"))


def _shared_and_routed(settings: Settings) -> MixtureOfExperts:
    width = settings.integer("moe_intermediate_size")
    return MixtureOfExperts(
        experts=settings.integer("n_routed_experts"),
        chosen=settings.integer("num_experts_per_tok"),
        width=width,
        shared_experts=settings.integer("n_shared_experts", least=0),
        shared_width=width,
    )


def _dense_then_experts(settings: Settings, dense: int) -> list[MLP]:
    depth = _depth(settings)
    dense = min(dense, depth)
    return [_dense(settings)] * dense + [_shared_and_routed(settings)] * (depth - dense)


def _depth(settings: Settings) -> int:
    return settings.integer("num_hidden_layers")


def _uses_window(settings: Settings) -> bool:
    return settings.flag("use_sliding_window", False)


def _qwen_windows(settings: Settings) -> list[Window | None]:
    """Of each layer: named in the config, or from layer `max_window_layers` on where windows are used at all."""
    depth = _depth(settings)
    width = settings.integer_or_null("sliding_window", absent=4096) if _uses_window(settings) else None
    first = settings.integer_or("max_window_layers", 28, least=0)
    default = [
        "sliding_attention" if width is not None and number >= first else "full_attention" for number in range(depth)
    ]
    types = _of_each_layer(settings, "layer_types", depth) or default
    return [_window(settings, name, width) for name in types]


def _window(settings: Settings, layer_type: str, width: int | None) -> Window | None:
    match layer_type:
        case "full_attention":
            return None
        case "sliding_attention" if width is not None:
            return SlidingWindow(width)
        case "chunked_attention" if width is not None:
            return Chunks(width)
    raise UnknownArchitecture(f"{settings.where}: layer type {layer_type} with a window of {width} is not known here")


def _of_each_layer(settings: Settings, key: str, depth: int) -> list[str] | None:
    names = settings.names(key)
    if names is not None and len(names) != depth:
        raise _other_depth(settings, key, len(names), depth)
    return names


def _other_depth(settings: Settings, key: str, named: int, depth: int) -> UnknownArchitecture:
    return UnknownArchitecture(f"{settings.where}: {key} names {named} layers, the model has {depth}")


_LAYERS: dict[str, Callable[[Settings], list[Layer]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "glm4_moe": _glm4_moe,
    "llama4_text": _llama4,
    "deepseek_v3": _deepseek_v3,
    "kimi_k2": _deepseek_v3,  # the same architecture under another name
    "deepseek_v32": _sparse_latent,
    "glm_moe_dsa": _sparse_latent,
}
# Whether the head is tied where the config does not say; None: it must.
_WITH_VISION: dict[str, bool | None] = {"llama4": False, "kimi_k25": None, "mistral3": None}
