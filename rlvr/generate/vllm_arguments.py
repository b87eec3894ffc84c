"""From our settings to vLLM's: of the engine, and of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlvr.generate.settings import EngineSettings
from rlvr.types import Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PretrainedConfig
    from vllm import SamplingParams

# Attention to the keys that an indexer picks, in transformers' names of model types.
SPARSE_ATTENTION = frozenset({"glm_moe_dsa", "deepseek_v32"})

# vLLM counts adapters from 1. A run has one, and each version is loaded in its place, so that running sequences
# go on with it too.
ADAPTER_ID = 1

# A sequence keeps the adapter id that it was admitted with, so one admitted without any would never see an adapter.
FIRST_ADAPTER_TOO_LATE = RuntimeError(
    "the first LoRA adapter arrived while sequences without any were running: publish it before the first request"
)


def engine_arguments(settings: EngineSettings) -> dict[str, Any]:
    """What vLLM's `EngineArgs` takes, on CPU and GPU alike."""
    return {
        "model": settings.model,
        "dtype": settings.dtype.value,
        "seed": settings.seed,
        "max_model_len": _longest_sequence(settings),
        "max_num_seqs": settings.max_sequences,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "max_logprobs": 256,  # ids that a teacher may be asked about at each place
        "logprobs_mode": "processed_logprobs",  # after temperature: what was sampled from
        # Where keys and values outlive an update, new requests must not find those of old weights in a cache.
        "enable_prefix_caching": settings.recompute_kv,
        "enable_lora": settings.lora_rank > 0,
        "max_lora_rank": _lora_rank_that_vllm_takes(settings.lora_rank),
        "max_loras": 1,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # a model's own sampling defaults are not the run's
        "disable_log_stats": True,
        "worker_extension_cls": "rlvr.generate.vllm_worker.WeightWorker",
    }


def cpu_arguments(settings: EngineSettings) -> dict[str, Any]:
    """What is added on CPU: nothing is compiled, and a step returns the tokens of its own forward pass.

    Raises ValueError for a model that vLLM cannot serve exactly here.
    """
    return {
        "hf_overrides": dense_attention(settings) or {},
        # What comes from the cache was routed for another request, and is not recorded for this one.
        "enable_prefix_caching": settings.recompute_kv and not settings.record_experts,
        "enforce_eager": True,
        "async_scheduling": False,
        "max_logprobs": -1,  # no bound: scoring at given ids, or at a temperature, reads the whole vocabulary
        "max_num_batched_tokens": max(2048, settings.max_tokens),
        # Attention computes whole blocks: with 32 tokens a quarter more throughput on short answers than with
        # vLLM's 128.
        "block_size": 32,
    }


def _longest_sequence(settings: EngineSettings) -> int:
    """Room for one token more than is sampled: vLLM scores a sequence only where it could go on with it.

    A model that ends there has no such room, and its longest sequences cannot be scored.
    """
    from transformers import AutoConfig

    positions = AutoConfig.from_pretrained(settings.model).to_dict().get("max_position_embeddings")
    return settings.max_tokens if settings.max_tokens == positions else settings.max_tokens + 1


def sampling_params(sampling: Sampling, n: int = 1) -> SamplingParams:
    """vLLM's form of our sampling settings.

    Only `stop_token_ids` end a turn: what the model's own configuration calls EOS is ignored, so that an engine
    stops where the run's config says. Text is neither made nor looked at.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=n,
        temperature=sampling.temperature,
        max_tokens=sampling.max_new_tokens,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,
        logprobs=0,  # of the sampled token alone
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring_params(likeliest: int = 0, ids: NDArray[np.int32] | None = None) -> SamplingParams:
    """Log-probabilities of the prompt at temperature 1, which is the only one vLLM scores prompts at.

    `likeliest` ids of each place besides (-1: the whole vocabulary), or those of `ids` [tokens - 1, K], which only
    vLLM's second model runner (on GPUs) takes. vLLM cannot generate no token at all, so one is made and dropped.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=likeliest,
        prompt_logprob_token_ids=ids,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _lora_rank_that_vllm_takes(rank: int) -> int:
    """vLLM reserves room for one of a few ranks: the next that holds ours."""
    return next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank)


def dense_attention(settings: EngineSettings) -> Callable[[PretrainedConfig], PretrainedConfig] | None:
    """What makes vLLM serve a model of sparse latent attention as dense; None for any other model.

    vLLM has no sparse kernel on CPU. An indexer that may pick as many keys as there are picks all of them: up to that
    length the two are the same. Raises ValueError beyond it.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(settings.model)
    if config.model_type not in SPARSE_ATTENTION:
        return None
    if settings.max_tokens > config.index_topk:
        raise ValueError(
            f"{settings.model}: vLLM on CPU computes this sparse attention as dense, which is the same up to "
            f"{config.index_topk} tokens (index_topk); the run has up to {settings.max_tokens} "
            "(data.max_prompt_tokens + sampling.max_new_tokens): set generator.engine=transformers"
        )
    return _without_indexer


def _without_indexer(config: PretrainedConfig) -> PretrainedConfig:
    """As a DeepSeek-V3, whose attention and experts are the same but for the indexer; vLLM drops its weights."""
    from transformers import DeepseekV3Config

    kept = {name: value for name, value in config.to_dict().items() if not name.startswith("index")}
    return DeepseekV3Config.from_dict(kept | {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]})
