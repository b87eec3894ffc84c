"""From our sampling settings to vLLM's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.types import Sampling

if TYPE_CHECKING:
    from vllm import SamplingParams


def sampling_params(sampling: Sampling, index: int = 0) -> SamplingParams:
    """vLLM's form, for the continuation `index` of a request; seeds differ between continuations.

    Only `stop_token_ids` end a turn: what the model's own configuration calls EOS is ignored, so that an engine
    stops where the run's config says. Text is neither made nor looked at.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=None if sampling.seed is None else sampling.seed + index,
        max_tokens=sampling.max_new_tokens,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,
        logprobs=0,  # of the sampled token alone
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring_params() -> SamplingParams:
    """Log-probabilities of the prompt; vLLM cannot generate no token at all, so one is made and dropped."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=0,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
