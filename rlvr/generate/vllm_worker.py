"""What rlvr adds to vLLM's worker: loading weights in place, and the checksum of what is loaded.

Given to vLLM as `worker_extension_cls`, which imports this module in each worker before the model is built. That
is how the CPU patches reach a worker in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from vllm.platforms import current_platform

from rlvr.config import DType
from rlvr.generate import vllm_cpu
from rlvr.generate.vllm_choices import ChoiceReader, StepChoices
from rlvr.weights.transport import checksum, read_weights
from rlvr.weights.update import SharedFile

if current_platform.is_cpu():
    vllm_cpu.patch()


class WeightWorker:
    """Methods of vLLM's worker, called by `collective_rpc`. Arguments are plain values: some workers are remote."""

    model_runner: Any  # set by vLLM's own worker class, into which this one is mixed
    choice_reader: ChoiceReader

    def rlvr_check_model(self) -> None:
        """Raises RuntimeError for a model that vLLM would serve with weights that nobody gave it."""
        runner = self.model_runner
        names = [name for name, _ in runner.model.named_parameters()]  # a tied head is there once, as the embedding
        if runner.model_config.hf_text_config.tie_word_embeddings and "lm_head.weight" in names:
            raise RuntimeError(
                f"vLLM's {type(runner.model).__name__} has a head of its own, but the model's is its embedding "
                "(tie_word_embeddings): it would sample at random. Save the model with a head of its own, or set "
                "generator.engine=transformers"
            )

    def rlvr_load_items(self, items: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load weights, by checkpoint name, over those held."""
        if not current_platform.is_cpu():
            self.model_runner.reload_weights(weights_iterator=items)  # repeats what a GPU kernel prepares at load
            return
        model = self.model_runner.model
        model.load_weights(items)
        vllm_cpu.refresh_derived_weights(model, self.model_runner.model_config.dtype)

    def rlvr_load_file(self, path: str) -> None:
        """Load weights from a file in shared memory."""
        from pathlib import Path

        self.rlvr_load_items(read_weights(SharedFile(Path(path))).items())

    def rlvr_read_choices(self) -> None:
        """From now on, keep what the routers choose in a step until `rlvr_choices` asks for it."""
        self.choice_reader = ChoiceReader(self.model_runner)

    def rlvr_choices(self) -> StepChoices:
        """What the routers chose in the last step."""
        return self.choice_reader.of_step()

    def rlvr_parameter_sums(self, dtype: str) -> dict[str, int]:
        """The checksum of each parameter that this worker holds, or of its shard. Left out is what vLLM derives."""
        return {
            name: checksum([parameter], DType(dtype))
            for name, parameter in self.model_runner.model.named_parameters()
            if name.rpartition(".")[2] not in vllm_cpu.DERIVED
        }
