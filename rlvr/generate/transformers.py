"""A generator on plain transformers, for machines without vLLM and for tests: slower, and easy to follow.

Sequences run in batches with left padding and a shared cache of keys and values. Requests that arrive while a
batch runs join the next one. New weights are loaded between two tokens of a running batch.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rlvr.generate.engine_thread import GeneratorFailed
from rlvr.generate.expert_record import narrow
from rlvr.generate.requests_in_hand import RequestInHand, RequestsInHand
from rlvr.generate.sampling import draw, processed_logprobs
from rlvr.generate.settings import EngineSettings, check_scoring
from rlvr.generate.threaded import ThreadedGenerator
from rlvr.generate.token_scores import scores_from_logits
from rlvr.generate.transformers_weights import LoadedModel
from rlvr.types import Completion, FinishReason, GenerateRequest, Sampling, ScoreRequest, TokenScores
from rlvr.weights.update import AdapterFolder, WeightUpdate

if TYPE_CHECKING:
    from transformers import DynamicCache

    from rlvr.routing import ExpertChoice


# Numbers. The logits of a batch that is scored are the largest thing in memory: 256 MB in float32.
_LOGITS_AT_ONCE = 2**26


class TransformersGenerator(ThreadedGenerator):
    """The generator protocol on a transformers model. One thread does all of its work, on `cores` if named."""

    def __init__(self, settings: EngineSettings, device: str = "cpu", cores: Sequence[int] = ()) -> None:
        def make_engine() -> _Engine:
            if cores:
                os.sched_setaffinity(0, cores)  # of this thread, and of those that it starts
                torch.set_num_threads(len(cores))
            return _Engine(settings, torch.device(device))

        super().__init__(settings, make_engine)


# -------------------------------------------------------------------- on the engine's thread


@dataclass(slots=True)
class _Sequence:
    """One continuation in hand."""

    held: RequestInHand
    index: int

    @property
    def sampling(self) -> Sampling:
        return self.held.request.sampling

    @property
    def completion(self) -> Completion:
        return self.held.completions[self.index]

    @property
    def unfinished(self) -> bool:
        return self.index in self.held.unfinished

    def tokens(self) -> list[int]:
        return [*self.held.request.prompt_ids, *self.completion.token_ids]


class _Engine:
    """The model, the running batch and the sequences that wait for the next. Used on one thread."""

    def __init__(self, settings: EngineSettings, device: torch.device) -> None:
        self._random = torch.Generator(device).manual_seed(settings.seed)  # its own: several may share a process
        self._model = LoadedModel(settings.model, settings.dtype, device)
        if settings.record_experts:
            self._model.watch_experts()
        self._settings = settings
        self._requests = RequestsInHand()
        self._waiting: deque[_Sequence] = deque()
        self._batch: _Batch | None = None
        self._scorings: deque[tuple[ScoreRequest, Future[TokenScores]]] = deque()
        self._vocabulary = self._model.model.get_output_embeddings().weight.shape[0]
        self.version = 0
        self.checksum = self._model.checksum(settings.dtype)
        self.generated_tokens = 0

    @property
    def running(self) -> int:
        return self._requests.sequences + len(self._scorings)

    def add(self, request: GenerateRequest, future: Future[list[Completion]]) -> None:
        held = self._requests.add(request, future)
        self._waiting.extend(_Sequence(held, index) for index in range(request.n))

    def add_scoring(self, request: ScoreRequest, future: Future[TokenScores]) -> None:
        check_scoring(request, self._vocabulary)
        self._scorings.append((request, future))

    def abort(self, request_id: str) -> None:
        held = self._requests.abort(request_id)
        if held is not None:
            held.unfinished.clear()  # the batch drops its rows at the next step

    def fail(self, error: GeneratorFailed) -> None:
        self._requests.fail(error)
        for _, future in self._scorings:
            future.set_exception(error)

    def has_work(self) -> bool:
        return bool(self._waiting or self._scorings) or self._batch is not None

    def step(self) -> None:
        if self._scorings:
            self._score_some()
        if self._batch is not None and not self._batch.drop_finished():
            self._batch = None
        if self._batch is None:
            self._batch = self._next_batch()
        if self._batch is None:
            return
        tokens, logprobs = self._batch.continue_by_one(self._model.model)
        if self._settings.record_experts:
            self._batch.record_experts(self._model.experts)
        for sequence, token, logprob in zip(self._batch.rows, tokens, logprobs, strict=True):
            if sequence.unfinished:
                self._extend(sequence, token, logprob)

    def _next_batch(self) -> _Batch | None:
        rows: list[_Sequence] = []
        while self._waiting and len(rows) < self._settings.max_sequences:
            sequence = self._waiting.popleft()
            if sequence.unfinished:  # not aborted while it waited
                rows.append(sequence)
        return _Batch(rows, self._model.device, self._random) if rows else None

    def _extend(self, sequence: _Sequence, token: int, logprob: float) -> None:
        completion = sequence.completion
        completion.token_ids.append(token)
        completion.logprobs.append(logprob)
        completion.versions.append(self.version)
        self.generated_tokens += 1
        if token in sequence.sampling.stop_token_ids:
            self._requests.finish(sequence.held, sequence.index, FinishReason.STOP)
        elif len(completion.token_ids) == sequence.sampling.max_new_tokens:
            self._requests.finish(sequence.held, sequence.index, FinishReason.LENGTH)

    @torch.inference_mode()
    def _score_some(self) -> None:
        """Score those that wait, in one forward pass of as many as its logits have room for.

        Shorter ones are padded on the right, where no token sees the padding, so it needs no mask.
        """
        longest, taken = 0, 0
        for request, _ in self._scorings:
            longest = max(longest, len(request.token_ids))
            if taken and (taken + 1) * longest * self._vocabulary > _LOGITS_AT_ONCE:
                break
            taken += 1
        texts = [request.token_ids for request, _ in itertools.islice(self._scorings, taken)]
        longest = max(map(len, texts))
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=self._model.device)
        logits = self._model.model(input_ids=ids, use_cache=False).logits
        for row in range(taken):
            request, future = self._scorings[0]
            of_places = logits[row, request.first - 1 : len(request.token_ids) - 1]
            scores = scores_from_logits(request, of_places, self.version)
            self._scorings.popleft()  # only now: if that had failed, its caller is told with the others
            future.set_result(scores)

    def load(self, update: WeightUpdate, weights: dict[str, torch.Tensor]) -> None:
        if isinstance(update.source, AdapterFolder):
            self._model.load_adapter(update.source.path, weights)
            self.checksum = self._model.adapter_checksum(update.dtype)
        else:
            self._model.load(weights)
            self.checksum = self._model.checksum(update.dtype)
        self.version = update.version
        if self._batch is not None and self._settings.recompute_kv:
            self._batch.forget_cache()


class _Batch:
    """Sequences that run together. Rows are padded on the left, so that all end at the same place."""

    def __init__(self, rows: list[_Sequence], device: torch.device, random: torch.Generator) -> None:
        self.rows = rows
        self._device = device
        self._random = random
        self._cache: DynamicCache | None = None
        self._mask = torch.empty(0)  # (rows, tokens so far); 0 is padding

    def forget_cache(self) -> None:
        """Keys and values are computed again, from all tokens, at the next step."""
        self._cache = None

    def drop_finished(self) -> bool:
        """Leave finished rows out, once a quarter is: each time copies the cache. False when none is left."""
        keep = [row for row, sequence in enumerate(self.rows) if sequence.unfinished]
        if len(keep) <= 0.75 * len(self.rows):
            self.rows = [self.rows[row] for row in keep]
            if keep and self._cache is not None:
                index = torch.tensor(keep, device=self._device)
                self._mask = self._mask[index]
                self._cache.batch_select_indices(index)
        return bool(keep)

    @torch.inference_mode()
    def continue_by_one(self, model: Any) -> tuple[list[int], list[float]]:
        """A token of each row, and its log-probability."""
        if self._cache is None:
            ids = self._start_cache(model)
        else:
            ids = torch.tensor([[s.completion.token_ids[-1]] for s in self.rows], device=self._device)
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], 1)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits = model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        samplings = [s.sampling for s in self.rows]
        logprobs = processed_logprobs(logits, samplings)
        tokens = draw(logprobs, samplings, self._random)
        return tokens.tolist(), logprobs.gather(-1, tokens[:, None])[:, 0].tolist()

    def record_experts(self, latest: ExpertChoice) -> None:
        """What each row's tokens of the latest step were sent to."""
        of_step = narrow(latest.chosen.cpu().numpy(), latest.experts)
        width = len(of_step) // len(self.rows)
        for row, sequence in enumerate(self.rows):
            choices = of_step[row * width : (row + 1) * width]
            if sequence.unfinished:
                length = len(sequence.held.request.prompt_ids) + len(sequence.completion.token_ids)
                place = max(0, length - len(choices))  # shorter rows begin with padding
                sequence.held.experts[sequence.index].add(place, choices[place - length :])

    def _start_cache(self, model: Any) -> torch.Tensor:
        from transformers import DynamicCache

        texts = [s.tokens() for s in self.rows]
        longest = max(len(text) for text in texts)
        self._mask = torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in texts], device=self._device)
        self._cache = DynamicCache(config=model.config)
        return torch.tensor([[0] * (longest - len(t)) + t for t in texts], device=self._device)
