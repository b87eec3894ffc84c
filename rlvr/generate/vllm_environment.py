"""Environment variables that vLLM reads when it is imported. They must be set before that, in its process."""

from __future__ import annotations

import os
import sys

# Quiet, and nothing is sent to anybody.
_ALWAYS = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

_ON_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine in the process that asks: another costs 9 s of import
    "TORCHDYNAMO_DISABLE": "1",  # else the first request with log-probabilities compiles a helper for 18 s
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else every generator of a node sits on core 0
    "VLLM_ZENTORCH_WEIGHT_PREPACK": "0",  # packed weights cannot be loaded over
}


def engine_environment(model: str, *, gpu: bool) -> dict[str, str]:
    """What the process of a generator of this model needs in its environment. Reads the model's configuration."""
    if gpu:
        return dict(_ALWAYS)
    return _ALWAYS | _ON_CPU | {"VLLM_MLA_DISABLE": "0" if _mla_kernel_serves(model) else "1"}


def apply_engine_environment(model: str, *, gpu: bool) -> None:
    """Set it for vLLM in this process. Raises RuntimeError when vLLM was imported without it."""
    needed = engine_environment(model, gpu=gpu)
    late = [key for key, value in needed.items() if key in _ON_CPU and os.environ.get(key) != value]
    if late and "vllm" in sys.modules:
        raise RuntimeError(
            f"vllm was imported before the generator was started, without {', '.join(late)}: import vllm later, "
            "or set these variables for the process"
        )
    os.environ.update(needed)


def _mla_kernel_serves(model: str) -> bool:
    """The CPU kernel of multi-head latent attention is built for DeepSeek's own sizes (512 + 64). For others vLLM
    has to compute it as plain attention, which is exact too."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model).to_dict()
    rank, rope = config.get("kv_lora_rank"), config.get("qk_rope_head_dim")
    return rank is None or (rank, rope) == (512, 64)
