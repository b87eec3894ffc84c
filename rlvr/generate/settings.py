"""What an engine needs to know, picked out of a run's config, and what it can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.config import CPU_KV_CACHE_GIB, Config, DType
from rlvr.routing import has_experts
from rlvr.types import GenerateRequest, ScoreRequest


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One generator's engine. `max_tokens` bounds prompt and answer together."""

    name: str
    model: str  # a folder or hub name
    dtype: DType
    max_tokens: int
    max_sequences: int
    seed: int
    kv_cache_bytes: int | None = None  # None: the engine's own choice
    recompute_kv: bool = True  # after an update; False: go on with keys and values of the old weights
    lora_rank: int = 0  # 0: no adapters
    tensor_parallel: int = 1
    gpu_memory_share: float = 1.0  # of each of its GPUs
    record_experts: bool = False  # which experts each token was sent to: a mixture of experts whose learner replays it


def engine_settings(config: Config, name: str, model: str, *, gpu: bool) -> EngineSettings:
    """The settings of the generator `name` (`generator-0`, `generator-1`, ...). Each samples with its own seed."""
    index = name.rpartition("-")[2]
    generator = config.generator
    default = DType.BFLOAT16 if gpu else DType.FLOAT32
    memory_gib = generator.kv_cache_gib if gpu else generator.kv_cache_gib or CPU_KV_CACHE_GIB
    adapters = config.model.lora.publish == "adapter"
    return EngineSettings(
        name=name,
        model=model,
        dtype=generator.dtype or config.model.dtype or default,
        max_tokens=config.data.max_prompt_tokens + config.sampling.max_new_tokens,
        max_sequences=generator.max_sequences,
        seed=config.seed + 1000 * (int(index) if index.isdigit() else 0),
        kv_cache_bytes=None if memory_gib is None else int(memory_gib * 2**30),
        recompute_kv=generator.kv_after_update == "recompute",
        lora_rank=config.model.lora.rank if adapters else 0,
        tensor_parallel=generator.tensor_parallel,
        gpu_memory_share=generator.share_of_gpu(),
        record_experts=config.learner.router.replay and has_experts(model),
    )


def check_request(request: GenerateRequest, max_tokens: int) -> None:
    """Raises ValueError for what an engine would refuse, or answer with less than was asked for."""
    where = f"request {request.id}"
    if not request.prompt_ids:
        raise ValueError(f"{where}: the prompt is empty")
    if request.n < 1:
        raise ValueError(f"{where}: n={request.n}, at least 1 is needed")
    if request.sampling.max_new_tokens < 1:
        raise ValueError(f"{where}: max_new_tokens={request.sampling.max_new_tokens}, at least 1 is needed")
    total = len(request.prompt_ids) + request.sampling.max_new_tokens
    if total > max_tokens:
        raise ValueError(
            f"{where}: {len(request.prompt_ids)} tokens of prompt and {request.sampling.max_new_tokens} new ones are "
            f"{total}; the generator was started for {max_tokens} (data.max_prompt_tokens + sampling.max_new_tokens)"
        )


def check_scoring(request: ScoreRequest, vocabulary: int) -> None:
    """Raises ValueError for ids that the model does not have: in a step they would break the engine."""
    ids = [min(request.token_ids), max(request.token_ids)]
    if request.ids is not None and request.ids.size:
        ids += [int(request.ids.min()), int(request.ids.max())]
    if min(ids) < 0 or max(ids) >= vocabulary:
        raise ValueError(f"scoring ids from {min(ids)} to {max(ids)}: the model has those from 0 to {vocabulary - 1}")
