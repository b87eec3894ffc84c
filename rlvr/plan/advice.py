"""The nearest changes that make a config fit, and the best way to share GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rlvr.architecture.facts import Architecture
from rlvr.config import Config, OptimizerName
from rlvr.plan.accelerators import Accelerator
from rlvr.plan.estimate import Estimate, Split, can_share_heads, configured_split, estimate, gib
from rlvr.plan.workload import Workload

LORA_RANK = 16
SMALL_HEAD_CHUNK = 256
MOST_GPUS = 1024
MOST_TENSOR_PARALLEL = 8

Update = Mapping[str, object]  # of a config's section, by the names of its settings


@dataclass(frozen=True, slots=True)
class Change:
    """Settings to give, and what they lead to."""

    words: str
    leads_to: str


@dataclass(frozen=True, slots=True)
class Advisor:
    """Tries variations of one config on one kind of machine. `gpus` 0 is a processor."""

    config: Config
    architecture: Architecture
    machine: Accelerator
    gpus: int
    work: Workload

    def changes(self) -> list[Change]:
        """For each role that does not fit: the first change of each kind that helps, the least intrusive first."""
        now = self._estimate(self.config)
        found: list[Change] = []
        if not now.learner_fits:
            found += self._for_learner()
        if not now.generator_fits:
            found += self._for_generator()
        return found

    def best_split(self) -> Estimate | None:
        """The fastest split that fits, of equals the one with the smallest learner.

        None where no split fits, or there is nothing to split.
        """
        tried = map(self._of_split, self._splits() if self.gpus > 1 else ())
        fitting = [estimate for estimate in tried if estimate.fits]
        return min(fitting, key=lambda e: (e.step_s, e.split.learner_gpus, e.split.tensor_parallel), default=None)

    # ---------------------------------------------------------------- the learner

    def _for_learner(self) -> Iterator[Change]:
        found = list(self._first_that_fits(self.config, ""))
        adapted, words = with_adapters(self.config), adapter_words(self.config)
        if self.config.model.lora.rank == 0:
            found += self._first_that_fits(adapted, words)
        if self._may_shard and not self.machine.is_cpu and not self.config.learner.offload:
            learner = self.config.learner.model_copy(update={"offload": True})
            found += self._first_that_fits(self.config.model_copy(update={"learner": learner}), "learner.offload=true")
        if not self.machine.is_cpu:
            found += self._more_gpus(self.config, "")
            if not found:
                found += self._more_gpus(adapted, words)
        yield from found or [Change("a smaller model, or GPUs with more memory", "no setting is enough")]

    @property
    def _may_shard(self) -> bool:
        """Whether a config may ask for FSDP: the learner is a process of its own, and no weight is of 4 bits."""
        return self.config.cluster.backend != "local" and not self.config.model.lora.quantize

    def _first_that_fits(self, config: Config, before: str) -> Iterator[Change]:
        """The first step of the ladder that is enough; `before` is what `config` itself changes."""
        for update in self._ladder():
            words = [before, *(f"learner.{name}={_yaml(value)}" for name, value in update.items())]
            learner = config.learner.model_copy(update=dict(update))
            tried = self._estimate(config.model_copy(update={"learner": learner}))
            if tried.learner_fits and any(words):
                yield Change(" ".join(filter(None, words)), _learner_of(tried))
                return

    def _ladder(self) -> list[Update]:
        """Settings that compute the same update in less memory, from one to all."""
        learner = self.config.learner
        checkpointing: Update = {"gradient_checkpointing": True}
        budgets: list[Update] = [{"token_budget": tokens} for tokens in self._smaller_budgets()]
        ladder: list[Update] = [{}]
        if not learner.gradient_checkpointing:
            ladder.append(checkpointing)
        ladder += [*budgets, *({**checkpointing, **budget} for budget in budgets)]
        if learner.head_chunk_tokens > SMALL_HEAD_CHUNK:
            ladder.append({**ladder[-1], **checkpointing, "head_chunk_tokens": SMALL_HEAD_CHUNK})
        return ladder

    def _smaller_budgets(self) -> list[int]:
        """Halves of the token budget, down to one sequence."""
        budgets, tokens = [], self.config.learner.token_budget
        while tokens > self.work.longest:
            tokens = max(tokens // 2, self.work.longest)
            budgets.append(tokens)
        return budgets

    def _more_gpus(self, config: Config, before: str) -> Iterator[Change]:
        """The least number of GPUs that hold the learner, alone on one or sharded over a power of two."""
        learner = config.learner.model_copy(update={"gradient_checkpointing": True})
        checkpointed = config.model_copy(update={"learner": learner})
        variants = [(before, config), (f"{before} learner.gradient_checkpointing=true".strip(), checkpointed)]
        now = configured_split(config, self.gpus)
        learner_gpus = 1 if self.gpus == 1 else 2
        while learner_gpus <= (MOST_GPUS if self._may_shard else 1):
            needed = learner_gpus + now.generators * now.tensor_parallel
            split = Split(needed, learner_gpus, now.generators, now.tensor_parallel)
            for words, variant in variants:
                tried = estimate(variant, self.architecture, self.machine, split, self.work)
                if tried.learner_fits:
                    yield Change(f"{needed} GPUs: {split}" + (f", with {words}" if words else ""), _learner_of(tried))
                    return
            learner_gpus *= 2

    # ---------------------------------------------------------------- generators

    def _for_generator(self) -> Iterator[Change]:
        if self.machine.is_cpu or self.gpus == 1:
            yield from self._more_room()
            return
        width = self.config.generator.tensor_parallel
        while (width := 2 * width) <= MOST_TENSOR_PARALLEL:
            split = Split(max(self.gpus, 1 + width), 1, 1, width)
            tried = self._of_split(split)
            if tried.generator_fits and can_share_heads(self.architecture, width):
                words = f"generator.count=1 generator.tensor_parallel={width}"
                yield Change(words, f"{tried.generator.longest_sequences} longest sequences fit, {split.used} GPUs")
                return
        yield from self._more_room()

    def _more_room(self) -> Iterator[Change]:
        needed = -(-self._estimate(self.config).generator.per_sequence // 2**28) / 4  # in quarters of a GiB
        if self.machine.is_cpu or self.config.generator.kv_cache_gib is not None:
            yield Change(f"generator.kv_cache_gib={needed:g}", "holds the longest sequence")
        elif self.gpus == 1:
            yield Change("2 GPUs or more", "generator and learner need not share one")
        else:
            yield Change("a smaller sampling.max_new_tokens, or a GPU with more memory", "no other setting helps")

    # ---------------------------------------------------------------- trying

    def _estimate(self, config: Config) -> Estimate:
        return estimate(config, self.architecture, self.machine, configured_split(config, self.gpus), self.work)

    def _of_split(self, split: Split) -> Estimate:
        return estimate(self.config, self.architecture, self.machine, split, self.work)

    def _splits(self) -> Iterator[Split]:
        width = self.config.generator.tensor_parallel
        while width <= MOST_TENSOR_PARALLEL:
            for generators in range(1, (self.gpus - 1) // width + 1):
                left = self.gpus - generators * width
                if left == 1 or (left <= MOST_GPUS and self._may_shard):
                    yield Split(self.gpus, left, generators, width)
                if left > 1:
                    yield Split(self.gpus, 1, generators, width)
            width *= 2


def with_adapters(config: Config) -> Config:
    """The config with adapters instead of full training, which Muon does not take."""
    lora = config.model.lora.model_copy(update={"rank": LORA_RANK})
    optimizer = OptimizerName.ADAMW if config.learner.optimizer.is_muon else config.learner.optimizer
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"lora": lora}),
            "learner": config.learner.model_copy(update={"optimizer": optimizer}),
        }
    )


def adapter_words(config: Config) -> str:
    """The settings that `with_adapters` changes."""
    return f"model.lora.rank={LORA_RANK}" + (" learner.optimizer=adamw" if config.learner.optimizer.is_muon else "")


def _learner_of(tried: Estimate) -> str:
    on_host = f", and {gib(tried.learner.on_host)} of host memory" if tried.learner.on_host else ""
    return f"learner {gib(tried.learner.total)} of {gib(tried.learner_room)}{on_host}"


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
