"""The learner: a batch of rows in, a better policy out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from rlvr.config import Config, DType, OptimizerName, Transport
from rlvr.learn.experts import BalanceLoss, ExpertLoad
from rlvr.learn.guards import GradientGuard
from rlvr.learn.learner_report import LearnerReport
from rlvr.learn.learner_state import load, tensors_of
from rlvr.learn.loss import view_of
from rlvr.learn.objective import Objective, ObjectiveSums, objective_of
from rlvr.learn.optimizer import learning_rate, optimizer_for
from rlvr.learn.presets import algorithm_from
from rlvr.learn.qk_clip import ClipReport, QKClip
from rlvr.learn.ranks import ALONE, Ranks
from rlvr.learn.reference import Reference
from rlvr.learn.score import score, scored_row
from rlvr.learn.selfcheck import SelfCheck, check
from rlvr.learn.streams import RLTokens, rl_rows, rl_tokens
from rlvr.types import LossWeights, Row, TokenFate, TrajectoryKey
from rlvr.weights.transport import publish_adapter, publish_file, publish_object, published_weights, rounded
from rlvr.weights.update import WeightUpdate


@dataclass(frozen=True, slots=True)
class LearnerInfo:
    """What a learner says of itself when it has started. `notices` are what its user should know."""

    model: str
    parameters: int
    trainable: int
    device: str
    dtype: str
    attention: str
    layout: str
    version: int
    check: SelfCheck
    notices: tuple[str, ...] = ()


class Learner:
    """Holds the policy and its optimizer. `start` once, then any of the others, one at a time.

    `version` counts the batches that changed the policy. Runs on CPU and CUDA; only CPU has been measured.
    """

    def __init__(self, config: Config, ranks: Ranks = ALONE) -> None:
        """`ranks` are the group it is one of."""
        self.config = config
        self.ranks = ranks
        self.algorithm = algorithm_from(config.algorithm, config.rollout.max_staleness, config.sampling.max_new_tokens)
        self.version = 0
        self.updates = 0  # of the optimizer, whose schedule they drive
        self.guard = GradientGuard(config.learner.max_grad_norm)
        self.clip: QKClip | None = None
        self._writing: Future[object] | None = None

    def start(self) -> LearnerInfo:
        """Load the model and check it. Raises SelfCheckFailed where it cannot be trained rightly.

        Seeds torch's random state of this process: two runs of one seed begin with the same adapter and draw the same
        lots for masks, and so do all ranks.
        """
        torch.manual_seed(self.config.seed)
        self.model = self.ranks.load(self.config)
        checked = check(self.model, self.config.seed)
        self.reference = Reference(self.config, self.model, self.ranks) if self.algorithm.needs_reference else None
        self.parameters = self.model.trainable()
        self.optimizer = optimizer_for(self.parameters, self.model.network, self.config.learner)
        notices = self._start_clip() if self.config.learner.optimizer is OptimizerName.MUONCLIP else ()
        return LearnerInfo(
            model=self.config.model.name,
            parameters=sum(p.numel() for p in self.model.network.parameters()),
            trainable=sum(p.numel() for p in self.parameters.values()),
            device=str(self.model.device),
            dtype=str(self.model.dtype),
            attention=self.model.attention,
            layout=str(self.model.plan.layout),
            version=self.version,
            check=checked,
            notices=notices,
        )

    def _start_clip(self) -> tuple[str, ...]:
        """Returns what to tell of layers where there is nothing to clip."""
        clip = QKClip(self.model, self.config.learner.max_attention_logit, self.ranks)
        self.clip = None if clip.is_idle else clip
        if clip.idle_layers == 0:
            return ()
        layers = "all layers" if clip.is_idle else f"{clip.idle_layers} layers"
        return (f"QK-Clip is idle in {layers}: queries and keys are normalised there (QK-norm), which bounds logits",)

    # ------------------------------------------------------------------ training

    def train(self, rows: Sequence[Row], weights: LossWeights | None = None) -> LearnerReport:
        """One batch: `updates_per_step` optimizer updates, each on a share of the groups.

        What is trained is the weighted sum of the losses that the rows have streams for; all weights are 1 unless
        given. An update is left out, and the report says so, when nothing is left to train or the guard objects to the
        gradient. The version grows by one unless all were left out.
        """
        experts = self.model.experts
        batch = _Batch(time.perf_counter(), ExpertLoad(experts.shape[0], experts.experts), self.guard.limit)
        kept = [row for row in rows if not (self.algorithm.drop_truncated and row.truncated)]
        shares = split_by_group(kept, self.config.learner.updates_per_step)
        proximal = self._proximal_logprobs([rl_rows(share) for share in shares])
        for share, share_proximal in zip(shares, proximal, strict=True):
            batch.rate = learning_rate(self.config.learner, self.updates, self._total_updates())
            fates = self._accumulate(share, self._objective(share, share_proximal, weights), batch)
            norm = self.ranks.clip(self.parameters.values(), self.config.learner.max_grad_norm)
            batch.norms.append(norm)
            objection = self.guard.objection(norm)
            if objection is None:
                self._update(batch)
            else:
                batch.skipped.append(objection)
                fates.fill_(TokenFate.SKIPPED)
                self._forget_logits()
            batch.fates |= _by_trajectory(rl_rows(share), fates)
            self.optimizer.zero_grad()
        self.guard.end_batch(batch.updates, len(batch.skipped))
        if not shares:
            batch.skipped.append("no row has a token to train")
        self.version += batch.updates > 0
        left_out = [row for row in rows if self.algorithm.drop_truncated and row.truncated]
        batch.fates |= {_key(row): bytes([TokenFate.TRUNCATED]) * sum(row.trained) for row in left_out}
        return self._report(batch, len(left_out) / max(len(rows), 1))

    def _objective(self, rows: list[Row], proximal: Tensor | None, weights: LossWeights | None) -> Objective:
        """What the rows are trained towards; `proximal` is of the tokens of those with an `rl` stream."""
        rl = self._rl_tokens(rl_rows(rows), proximal)
        return objective_of(rows, rl, self.algorithm, weights or LossWeights(), self.model.device)

    def _rl_tokens(self, rows: list[Row], proximal: Tensor | None) -> RLTokens:
        """All that the policy loss needs of the rows' tokens but what the policy says of them now."""
        reference = self.reference.logprobs(rows) if self.reference else None
        tokens = rl_tokens(rows, self.algorithm, self.model.device, proximal, reference)
        if not (rows and self.algorithm.step_masks):
            return tokens
        now = score(self.model, rows, self.model.plan, self.model.dtype, self.ranks)
        view = view_of(self.algorithm, now.logprobs, now.entropy, tokens)
        for mask in self.algorithm.step_masks:
            tokens = replace(tokens, kept=tokens.kept & mask.keep(view))
        return tokens

    def _accumulate(self, rows: list[Row], objective: Objective, gathered: _Batch) -> Tensor:
        """Add up the gradient of the rows' loss, and its sums; returns the fate of each `rl` token, [N]."""
        experts, strength = self.model.experts, self.config.learner.router.balance_loss
        balance = BalanceLoss.of(rows, experts, strength) if strength else None
        fates = torch.zeros(len(objective.rl.tokens), dtype=torch.uint8, device=self.model.device)
        for batch in self.ranks.micro_batches(rows, self.model.plan):
            batch = batch.to(self.model.device)
            # What a rank without rows left computes, nobody reads: its logits do not count.
            watch = self.clip.watch if self.clip and len(batch.read) else None
            output = self.model.logprobs(batch, objective.ids(batch.tokens), watch=watch)
            part = objective.part(output, batch.tokens)
            gathered.sums.add(part.sums)
            gathered.load.add(experts, batch.read)
            loss = part.loss if balance is None else part.loss + balance.part(experts, batch.read)
            loss.backward()
            fates[part.fate_of] = part.fate
        return self.ranks.sum(fates)

    def _update(self, batch: _Batch) -> None:
        self.optimizer.step(batch.rate)
        self.updates += 1
        batch.updates += 1
        if self.clip:
            batch.clips.append(self.clip.clip())

    def _forget_logits(self) -> None:
        """Of an update that is left out nothing is clipped."""
        if self.clip:
            self.clip.watch.take()

    def _proximal_logprobs(self, shares: list[list[Row]]) -> list[Tensor | None]:
        """Each share's log-probabilities before the batch's first update.

        In a batch of one update they are those of the update's own forward pass, and are not computed twice.
        """
        if len(shares) < 2 or not self.algorithm.needs_proximal:
            return [None] * len(shares)
        return [score(self.model, share, self.model.plan, self.model.dtype, self.ranks).logprobs for share in shares]

    def _total_updates(self) -> int:
        return self.config.steps * self.config.learner.updates_per_step

    def _report(self, batch: _Batch, truncated_share: float) -> LearnerReport:
        sums = batch.sums.over(self.ranks)
        rl = sums.rl
        tokens, usable = max(rl.tokens, 1), max(rl.usable, 1)
        shares = {fate: count / tokens for fate, count in zip(TokenFate, rl.fates, strict=True)}
        return LearnerReport(
            version=self.version,
            loss=sums.loss,
            grad_norm=max(filter(math.isfinite, batch.norms), default=0.0),
            grad_norm_limit=batch.norm_limit,
            learning_rate=batch.rate,
            entropy=sums.entropy / max(sums.tokens, 1),
            mismatch_kl=rl.k3 / usable,
            reference_kl=rl.reference_k3 / tokens if self.reference else None,
            mean_ratio=rl.ratio / usable,
            ratio_above_10_share=rl.ratio_above_10 / usable,
            ess=rl.ratio**2 / (usable * rl.ratio_squared) if rl.ratio_squared else 0.0,
            cross_entropy=sums.cross_entropy / sums.ce_tokens if sums.ce_tokens else None,
            divergence=sums.divergence / sums.kl_tokens if sums.kl_tokens else None,
            shares=shares | {TokenFate.TRUNCATED: truncated_share},
            trained_tokens=sums.tokens,
            updates=batch.updates,
            seconds=time.perf_counter() - batch.started,
            skipped=tuple(batch.skipped),
            skipped_in_a_row=self.guard.skipped_in_a_row,
            max_logit=max((clip.max_logit for clip in batch.clips), default=None),
            clipped_heads=sum(clip.clipped_heads for clip in batch.clips) if batch.clips else None,
            token_fates=batch.fates,
            expert_load=batch.load.over(self.ranks).metrics(),
        )

    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """Of every token under the current policy at the sampling temperature; 0.0 for a row's first token."""
        rows = list(rows)
        scored = [scored_row(row.token_ids, row.group_id) for row in rows]
        flat = score(self.model, scored, self.model.plan, self.model.dtype, self.ranks).logprobs.tolist()
        result = []
        for row in rows:
            count = len(row) - 1
            result.append([0.0, *flat[:count]])
            flat = flat[count:]
        return result

    def cross_entropy(self, rows: Sequence[Row]) -> float:
        """Mean over the rows' trained tokens under the current policy, in nats."""
        scored = score(self.model, list(rows), self.model.plan, self.model.dtype, self.ranks)
        return -float(scored.logprobs.double().mean())

    @property
    def micro_batches(self) -> int:
        """Begun since the start, to train or to score: it moves while a step is under way."""
        models = {self.model, self.reference.model if self.reference else self.model}
        return sum(model.micro_batches for model in models)

    # ------------------------------------------------------------------ versions on their way out

    def publish(self, directory: Path, transport: Transport = Transport.SHARED_MEMORY) -> WeightUpdate | None:
        """Put the current version where generators find it: a file in `directory`, or Ray's object store.

        The first rank does it, and the others give their shards and return None.
        """
        if self.config.model.lora.publish == "adapter":
            adapter = self.model.adapter_weights()
            return publish_adapter(directory, self.version, *adapter) if self.ranks.first else None
        dtype = self._published_dtype()
        weights = self._weights(dtype)
        if not self.ranks.first:
            return None
        weights = published_weights(self.model.network, weights)
        if transport is Transport.OBJECT_STORE:
            return publish_object(self.version, weights, dtype)
        return publish_file(directory, self.version, weights, dtype)

    def export(self, folder: Path) -> None:
        """The policy as a plain Hugging Face folder with its tokenizer, adapters merged, as generators hold it."""
        dtype = self._published_dtype()
        weights = self._weights(dtype)
        if self.ranks.first:
            self.model.export(folder, self.config.model.name, weights, dtype)

    def _weights(self, dtype: DType) -> dict[str, Tensor]:
        """The policy's weights in the first rank's memory; none in the others'."""
        kept: dict[str, Tensor] = {}
        for name, tensor in self.model.weights():
            if self.ranks.first:
                kept |= rounded({name: tensor}, dtype)
        return kept

    def _published_dtype(self) -> DType:
        """That of the generators; unset it is the one in which the learner computes."""
        return self.config.generator.dtype or self.model.dtype

    # ------------------------------------------------------------------ checkpoints

    def save(self, folder: Path) -> None:
        """Copy all that `load` needs to go on bit for bit; it is written while training goes on, till `saved` returns.

        What is in the folder before that is not whole.
        """
        counts = {"version": self.version, "updates": self.updates, **self.guard.state()}
        self._writing = self.ranks.save_state(tensors_of(self.model, self.optimizer, counts), folder)

    def saved(self) -> None:
        """Wait until the last `save` is on disk. Raises what kept it from getting there."""
        if self._writing is not None:
            self._writing.result()

    def load(self, folder: Path, version: int | None = None) -> None:
        """Take up the state that was saved, after `start` with the same model settings, on any number of ranks.

        In a run that has gone on since, its `version` must be a new one, newer than those that generators have seen.
        """
        counts = load(folder, self.model, self.optimizer, self.ranks)
        self.version, self.updates = int(counts["version"]), int(counts["updates"])
        self.guard.load(counts)
        if version is not None:
            self.version, self.guard.skipped_in_a_row = version, 0


@dataclass(slots=True)
class _Batch:
    """What is gathered over the updates of one batch."""

    started: float
    load: ExpertLoad
    norm_limit: float = math.inf
    sums: ObjectiveSums = field(default_factory=ObjectiveSums)
    norms: list[float] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    clips: list[ClipReport] = field(default_factory=list)
    fates: dict[TrajectoryKey, bytes] = field(default_factory=dict)
    updates: int = 0
    rate: float = 0.0


def _key(row: Row) -> TrajectoryKey:
    return row.group_id, row.trajectory


def _by_trajectory(rows: list[Row], fates: Tensor) -> dict[TrajectoryKey, bytes]:
    """Each row's part of the fates of the rows' trained tokens, [N]."""
    parts = fates.cpu().split([sum(row.trained) for row in rows])
    return {_key(row): bytes(part.tolist()) for row, part in zip(rows, parts, strict=True)}


def split_by_group(rows: Sequence[Row], parts: int) -> list[list[Row]]:
    """Rows in `parts` shares of whole groups, in order, as even as can be. Those with nothing to train are left out."""
    trainable = [row for row in rows if any(row.trained)]
    order = {group: place for place, group in enumerate(dict.fromkeys(row.group_id for row in trainable))}
    shares: list[list[Row]] = [[] for _ in range(parts)]
    for row in trainable:
        shares[order[row.group_id] * parts // len(order)].append(row)
    return [share for share in shares if share]
