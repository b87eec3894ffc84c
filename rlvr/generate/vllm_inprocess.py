"""vLLM in this process, on CPU: its engine stepped by one thread, with asyncio on the caller's side.

One process instead of three starts in seconds, and a new version of the weights is one command between two steps:
load, sum, count the version, forget the old keys and values. What a step returns is read here directly, token
by token; vLLM's own front end (text, streaming, statistics) would cost more time than a small model's forward pass.
"""

from __future__ import annotations

import gc
import itertools
from concurrent.futures import Future
from copy import copy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlvr.config import DType
from rlvr.generate.engine_thread import GeneratorFailed
from rlvr.generate.requests_in_hand import RequestInHand, RequestsInHand
from rlvr.generate.settings import EngineSettings, check_scoring
from rlvr.generate.threaded import ThreadedGenerator
from rlvr.generate.token_scores import scores_from_logits, token_scores
from rlvr.generate.vllm_arguments import (
    ADAPTER_ID,
    FIRST_ADAPTER_TOO_LATE,
    cpu_arguments,
    dense_attention,
    engine_arguments,
    sampling_params,
    scoring_params,
)
from rlvr.generate.vllm_environment import apply_engine_environment
from rlvr.types import Completion, FinishReason, GenerateRequest, ScoreRequest, TokenScores
from rlvr.weights.transport import checksum, combined_checksum
from rlvr.weights.update import AdapterFolder, WeightUpdate

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
    from vllm.v1.engine.llm_engine import LLMEngine


class InProcessVLLM(ThreadedGenerator):
    """The generator protocol over a vLLM engine in this process."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings, lambda: _Engine(settings))


# -------------------------------------------------------------------- on the engine's thread


class _Engine:
    """vLLM's engine and the requests in its hands. Used on one thread, but for reading the counters."""

    def __init__(self, settings: EngineSettings) -> None:
        self._vllm = _build_engine(settings)
        self._core = self._vllm.engine_core
        self._tasks = self._vllm.get_supported_tasks()
        self._settings = settings
        self._requests = RequestsInHand()
        self._sequences: dict[str, tuple[RequestInHand, int]] = {}  # by the number that vLLM knows them by
        self._scorings: dict[str, tuple[ScoreRequest, Future[TokenScores]]] = {}
        self._numbers = itertools.count()
        self._adapter: Any = None
        self._dense_attention = dense_attention(settings) is not None
        self._vllm.collective_rpc("rlvr_check_model")
        if settings.record_experts:
            self._vllm.collective_rpc("rlvr_read_choices")
        self.version = 0
        self.generated_tokens = 0
        self.checksum = self._checksum_of_loaded(settings.dtype)

    @property
    def running(self) -> int:
        return len(self._sequences) + len(self._scorings)

    # ---------------------------------------------------------------- requests

    def add(self, request: GenerateRequest, future: Future[list[Completion]]) -> None:
        first = self._core_request(list(request.prompt_ids), sampling_params(request.sampling))
        held = self._requests.add(request, future)
        for index in range(request.n):
            one = copy(first)
            one.request_id = str(next(self._numbers))
            self._sequences[one.request_id] = (held, index)
            self._core.add_request(one)

    def add_scoring(self, request: ScoreRequest, future: Future[TokenScores]) -> None:
        check_scoring(request, self._vllm.model_config.get_vocab_size())
        likeliest = -1 if _needs_all_ids(request) else request.top_k
        core_request = self._core_request(list(request.token_ids), scoring_params(likeliest))
        self._scorings[core_request.request_id] = (request, future)
        self._core.add_request(core_request)

    def abort(self, request_id: str) -> None:
        """Take a request back and answer it with what it has. Nothing happens if it is not in hand."""
        held = self._requests.abort(request_id)
        if held is None:
            return
        numbers = [number for number, (owner, _) in self._sequences.items() if owner is held]
        for number in numbers:
            del self._sequences[number]
        self._core.abort_requests(numbers)

    def _core_request(self, token_ids: list[int], params: SamplingParams) -> EngineCoreRequest:
        """A request in the engine's own form, checked, with a number of its own."""
        prompt = {"type": "token", "prompt_token_ids": token_ids}
        number = str(next(self._numbers))
        return self._vllm.input_processor.process_inputs(
            number, prompt, params, supported_tasks=self._tasks, lora_request=self._adapter
        )

    # ---------------------------------------------------------------- stepping

    def has_work(self) -> bool:
        return bool(self._sequences or self._scorings)

    def step(self) -> None:
        """All tokens of one step were sampled by the version held now: nothing is loaded within a step."""
        outputs = self._core.get_output().outputs
        if self._settings.record_experts:
            self._record_experts()
        for output in outputs:
            sequence = self._sequences.get(output.request_id)
            if sequence is not None:
                self._extend(*sequence, output)
            elif output.request_id in self._scorings:
                self._answer_scoring(output)
            # Otherwise the request was aborted in the step before.

    def fail(self, error: GeneratorFailed) -> None:
        self._requests.fail(error)
        for _, future in self._scorings.values():
            future.set_exception(error)

    def _record_experts(self) -> None:
        (of_step,) = self._vllm.collective_rpc("rlvr_choices")
        for number, (place, choices) in of_step.items():
            if number in self._sequences:  # not aborted, and not a scoring
                held, index = self._sequences[number]
                held.experts[index].add(place, choices)

    def _extend(self, held: RequestInHand, index: int, output: EngineCoreOutput) -> None:
        completion = held.completions[index]
        count = len(output.new_token_ids)
        if count:
            completion.token_ids += output.new_token_ids
            completion.logprobs += output.new_logprobs.logprobs[:, 0].tolist()  # column 0: the sampled token
            completion.versions += [self.version] * count
            self.generated_tokens += count
        if output.finish_reason is not None:
            del self._sequences[output.request_id]
            self._requests.finish(held, index, _finish_reason(output))

    def _answer_scoring(self, output: EngineCoreOutput) -> None:
        prompt = output.new_prompt_logprobs_tensors
        if prompt is not None:
            request, future = self._scorings[output.request_id]
            places = slice(request.first - 1, None)
            # Column 0 is the token itself, then come the likeliest in falling order.
            ids, logprobs = prompt.logprob_token_ids[places].long(), prompt.logprobs[places]
            if _needs_all_ids(request):
                by_id = torch.empty_like(logprobs[:, 1:]).scatter_(1, ids[:, 1:], logprobs[:, 1:])
                scores = scores_from_logits(request, by_id, self.version)
            else:
                scores = token_scores(logprobs[:, 0], ids[:, 1:], logprobs[:, 1:], self.version)
            del self._scorings[output.request_id]  # only now: if that had failed, its caller is told with the others
            future.set_result(scores)

    # ---------------------------------------------------------------- weights

    def load(self, update: WeightUpdate, weights: dict[str, Any]) -> None:
        if isinstance(update.source, AdapterFolder):
            self._load_adapter(update.source.path)
            # vLLM scales and stacks an adapter, so the checksum is that of the adapter's file, as read here.
            held = checksum(weights.values(), update.dtype)
        else:
            held = self._load_weights(weights, update.dtype)
        self.version, self.checksum = update.version, held
        if self._settings.recompute_kv:
            self._vllm.reset_prefix_cache(reset_running_requests=True)

    def _load_weights(self, weights: dict[str, Any], dtype: DType) -> int:
        """Returns the checksum of what the engine then holds."""
        self._vllm.collective_rpc("rlvr_load_items", args=(weights.items(),))
        held = self._checksum_of_loaded(dtype)
        if self._dense_attention:  # it has no indexer, whose weights never change
            held += checksum((tensor for name, tensor in weights.items() if ".indexer." in name), dtype)
        return held % 2**64

    def _load_adapter(self, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        if self._adapter is None and self.running:
            raise FIRST_ADAPTER_TOO_LATE
        path = str(folder)
        self._vllm.add_lora(LoRARequest("policy", ADAPTER_ID, path, load_inplace=True))
        self._adapter = LoRARequest("policy", ADAPTER_ID, path)

    def _checksum_of_loaded(self, dtype: DType) -> int:
        return combined_checksum(self._vllm.collective_rpc("rlvr_parameter_sums", args=(dtype.value,)))


def _needs_all_ids(request: ScoreRequest) -> bool:
    """Whether the answer must be made from the whole vocabulary: vLLM scores at its own likeliest ids, unscaled."""
    return request.ids is not None or request.temperature != 1.0


def _finish_reason(output: EngineCoreOutput) -> FinishReason:
    match str(output.finish_reason):
        case "stop":
            return FinishReason.STOP
        case "length":
            return FinishReason.LENGTH
        case other:
            raise RuntimeError(f"vLLM ended a sequence with {other!r}")


# -------------------------------------------------------------------- building


def _build_engine(settings: EngineSettings) -> LLMEngine:
    apply_engine_environment(settings.model, gpu=False)
    _import_vllm()
    from vllm import envs
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from rlvr.generate import vllm_cpu

    vllm_cpu.patch()
    envs.disable_envs_cache()  # an engine before this one may have been of a model with another environment
    return LLMEngine.from_engine_args(EngineArgs(**(engine_arguments(settings) | cpu_arguments(settings))))


@cache
def _import_vllm() -> None:
    """The import makes millions of objects that stay: collecting garbage meanwhile, and ever after, costs 4 s."""
    gc.disable()
    import vllm.engine.arg_utils
    import vllm.v1.engine.llm_engine  # noqa: F401

    gc.freeze()
    gc.enable()
