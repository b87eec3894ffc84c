"""From our requests to vLLM's, and the checks that both of its forms share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.types import GenerateRequest, Sampling

if TYPE_CHECKING:
    from vllm import SamplingParams


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
