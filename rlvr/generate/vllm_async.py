"""vLLM's asynchronous engine, in processes of its own: for GPUs, one or several to a generator.

An update pauses generation between two tokens, keeping the sequences, loads, and goes on. Weights come through host
memory: a file in shared memory on one node, Ray's object store across nodes.

What was measured: all of it on CPU, with one worker. Not run, for want of a GPU: tensor parallelism,
`reload_weights` on kernels that prepare their weights, and the experts that vLLM's `enable_return_routed_experts`
returns, of all layers, in tokens [prompt and answer, layers, top_k]. On CPU this engine records none.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlvr.config import DType
from rlvr.generate.engine_thread import GeneratorFailed, Phase, PhaseClock
from rlvr.generate.protocol import GeneratorStatus
from rlvr.generate.settings import EngineSettings, check_request
from rlvr.generate.vllm_arguments import (
    ADAPTER_ID,
    FIRST_ADAPTER_TOO_LATE,
    cpu_arguments,
    engine_arguments,
    sampling_params,
    scoring_params,
)
from rlvr.routing import expert_layers
from rlvr.types import Completion, FinishReason, GenerateRequest, ScoreRequest, TokenScores
from rlvr.weights.transport import checksum, combined_checksum, publish_file, read_weights, shared_memory
from rlvr.weights.update import AdapterFolder, InMemory, SharedFile, StoredObject, WeightReceipt, WeightUpdate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessorOutput


class AsyncVLLM:
    """The generator protocol over vLLM's AsyncLLM."""

    def __init__(self, settings: EngineSettings, *, gpu: bool = True) -> None:
        self._settings = settings
        self._gpu = gpu
        self._engine: AsyncLLM | None = None
        self._clock = PhaseClock()
        self._in_hand = 0  # sequences
        self._updating = False
        self._adapter: Any = None
        self._expert_layers: list[int] = []  # whose choices are recorded
        self._version = 0
        self._checksum = 0
        self._generated_tokens = 0
        self._scorings = itertools.count()

    async def start(self) -> GeneratorStatus:
        engine = await asyncio.to_thread(_build_engine, self._settings, self._gpu)
        self._engine = engine
        self._count_tokens_of(engine)
        await engine.collective_rpc("rlvr_check_model")
        if self._settings.record_experts:
            self._expert_layers = await asyncio.to_thread(expert_layers, self._settings.model)
        await engine.update_weight_version("0")
        self._checksum = await self._checksum_of_loaded(self._settings.dtype)
        self._clock = PhaseClock()
        return await self.status()

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        check_request(request, self._settings.max_tokens)
        params = sampling_params(request.sampling, request.n)
        async with self._holding(request.n):
            output = await self._final_output(request.prompt_ids, params, request.id)
        completions = [_completion(one) for one in output.outputs]
        for completion, one in zip(completions, output.outputs, strict=True):
            if one.routed_experts is not None:
                read = len(request.prompt_ids) + len(completion.token_ids) - 1
                completion.experts = one.routed_experts[:read, self._expert_layers]
        return completions

    async def abort(self, request_id: str) -> None:
        await self._started().abort(request_id)

    async def score(self, request: ScoreRequest) -> TokenScores:
        """Scoring at ids that the request names needs vLLM's second model runner, and was not run for want of a GPU."""
        if request.temperature != 1.0:
            raise ValueError(
                f"scoring at temperature {request.temperature:g}: vLLM scores given tokens at temperature 1 only; "
                "sample at temperature 1, or score with the transformers engine"
            )
        version = self._version
        async with self._holding(1):
            params = scoring_params(request.top_k, _all_rows(request))
            output = await self._final_output(request.token_ids, params, f"score-{next(self._scorings)}")
        return _scores(request, output, version)

    async def update_weights(self, update: WeightUpdate) -> WeightReceipt:
        engine = self._started()
        started = time.perf_counter()
        async with self._broken_if_it_fails(f"version {update.version}"):
            await self._pause()
            held = await self._load(update)
            await engine.update_weight_version(str(update.version))
            self._version, self._checksum = update.version, held
            await self._resume()
        return WeightReceipt(self._settings.name, self._version, self._checksum, time.perf_counter() - started)

    async def status(self) -> GeneratorStatus:
        self._started()
        return self._clock.status(
            self._settings.name, self._version, self._checksum, self._in_hand, self._generated_tokens
        )

    async def close(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await asyncio.to_thread(engine.shutdown)

    # ---------------------------------------------------------------- details

    def _started(self) -> AsyncLLM:
        if self._engine is None:
            raise RuntimeError(f"{self._settings.name}: not running; `start` comes first and `close` last")
        return self._engine

    def _count_tokens_of(self, engine: AsyncLLM) -> None:
        """Where vLLM takes in what a step has sampled: a request answers only when it is done, which may take long."""
        take_in = engine.output_processor.process_outputs

        def counted(outputs: list[EngineCoreOutput], *more: Any, **named: Any) -> OutputProcessorOutput:
            self._generated_tokens += sum(len(output.new_token_ids) for output in outputs)
            return take_in(outputs, *more, **named)

        engine.output_processor.process_outputs = counted

    async def _final_output(self, token_ids: Sequence[int], params: Any, request_id: str) -> RequestOutput:
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt: Any = {"type": "token", "prompt_token_ids": list(token_ids)}
        final: RequestOutput | None = None
        try:
            async for output in self._started().generate(prompt, params, request_id, lora_request=self._adapter):
                final = output
        except EngineDeadError as error:
            raise GeneratorFailed(f"{self._settings.name} broke: {error}") from error
        if final is None:
            raise GeneratorFailed(f"{self._settings.name}: vLLM ended request {request_id} without an answer")
        return final

    @contextlib.asynccontextmanager
    async def _holding(self, sequences: int) -> AsyncIterator[None]:
        self._in_hand += sequences
        self._enter_phase()
        try:
            yield
        finally:
            self._in_hand -= sequences
            self._enter_phase()

    async def _pause(self) -> None:
        self._updating = True
        self._enter_phase()
        await self._started().pause_generation(mode="keep", clear_cache=self._settings.recompute_kv)

    async def _resume(self) -> None:
        await self._started().resume_generation()
        self._updating = False
        self._enter_phase()

    def _enter_phase(self) -> None:
        """Requests come and go during an update too, and wait for its end."""
        of_requests = Phase.BUSY if self._in_hand else Phase.WAITING
        self._clock.enter(Phase.UPDATING if self._updating else of_requests)

    @contextlib.asynccontextmanager
    async def _broken_if_it_fails(self, what: str) -> AsyncIterator[None]:
        """Weights that are half loaded are of no version: the engine must not go on with them. Its end answers
        those who wait."""
        try:
            yield
        except BaseException as error:
            engine = self._started()
            await asyncio.to_thread(engine.shutdown)
            raise GeneratorFailed(f"{self._settings.name}: loading {what} failed: {error}") from error

    async def _load(self, update: WeightUpdate) -> int:
        """Load, and sum what is held then."""
        engine = self._started()
        match update.source:
            case SharedFile(path):
                await engine.collective_rpc("rlvr_load_file", args=(str(path),))
            case StoredObject() | InMemory():  # neither reaches the engine's own processes: through this node's memory
                weights = await asyncio.to_thread(read_weights, update.source)
                with tempfile.TemporaryDirectory(prefix="rlvr-received-", dir=shared_memory()) as folder:
                    copy = await asyncio.to_thread(publish_file, Path(folder), update.version, weights, update.dtype)
                    assert isinstance(copy.source, SharedFile)
                    await engine.collective_rpc("rlvr_load_file", args=(str(copy.source.path),))
            case AdapterFolder(path):
                if self._adapter is None and self._in_hand:
                    raise FIRST_ADAPTER_TOO_LATE
                await engine.add_lora(_adapter(path, replace=True))
                self._adapter = _adapter(path, replace=False)
                # vLLM scales and stacks an adapter as it loads it, so what can be summed is its file.
                return checksum((await asyncio.to_thread(read_weights, update.source)).values(), update.dtype)
        return await self._checksum_of_loaded(update.dtype)

    async def _checksum_of_loaded(self, dtype: DType) -> int:
        return combined_checksum(await self._started().collective_rpc("rlvr_parameter_sums", args=(dtype.value,)))


def _all_rows(request: ScoreRequest) -> NDArray[np.int32] | None:
    """The request's ids with rows for the tokens before its first, which vLLM wants too: -1 asks for nothing."""
    if request.ids is None:
        return None
    before = np.full((request.first - 1, request.ids.shape[1]), -1, dtype=np.int32)
    return np.concatenate([before, request.ids])


def _scores(request: ScoreRequest, output: RequestOutput, version: int) -> TokenScores:
    assert output.prompt_logprobs is not None
    at_places = output.prompt_logprobs[request.first :]
    own = [at[token].logprob for token, at in zip(request.token_ids[request.first :], at_places, strict=True)]
    if request.ids is not None:
        ids, of_ids = request.ids, output.prompt_token_id_logprobs[request.first - 1 :]
    else:
        likeliest = [sorted(at.items(), key=lambda one: one[1].rank)[: request.top_k] for at in at_places]
        ids = np.array([[token for token, _ in place] for place in likeliest])
        of_ids = np.array([[one.logprob for _, one in place] for place in likeliest])
    return TokenScores(np.array(own, np.float32), ids.astype(np.int32), np.asarray(of_ids, np.float32), version)


def _adapter(path: Path, *, replace: bool) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", ADAPTER_ID, str(path), load_inplace=replace)


def _completion(output: CompletionOutput) -> Completion:
    """Our form of vLLM's: spans of versions become a version a token."""
    tokens = list(output.token_ids)
    versions = [int(span.version) for span in output.weight_versions or [] for _ in range(span.start, span.end)]
    return Completion(
        token_ids=tokens,
        logprobs=[at_place[token].logprob for token, at_place in zip(tokens, output.logprobs or [], strict=True)],
        versions=versions,
        finish=FinishReason(output.finish_reason),
    )


def _build_engine(settings: EngineSettings, gpu: bool) -> AsyncLLM:
    from rlvr.generate.vllm_environment import apply_engine_environment

    apply_engine_environment(settings.model, gpu=gpu)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = engine_arguments(settings)
    if gpu:
        arguments |= {
            "tensor_parallel_size": settings.tensor_parallel,
            "gpu_memory_utilization": settings.gpu_memory_share,
            "enable_return_routed_experts": settings.record_experts,
        }
    else:
        arguments |= cpu_arguments(settings)
        # The short name "uni" is rewritten to several processes on CPU.
        arguments["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
