"""A teacher made of the policy that learns: the moving average of its versions (EMA)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.checkpoint import CheckpointError, WriteState
from rlvr.config import Config, DType
from rlvr.distill.teachers import LocalTeacher, TeacherError, local_engine, local_settings
from rlvr.generate.pool import verify
from rlvr.generate.protocol import Generator
from rlvr.weights.update import InMemory, WeightUpdate

if TYPE_CHECKING:
    import torch

_FILE = "average.safetensors"
_VERSION = "version"  # its key in the file's metadata


class AveragedPolicy(LocalTeacher):
    """With each version v that is published, `average = (1 - rate) average + rate v`; the first is that version itself.

    SDPO (arXiv 2601.20802) uses a rate of 0.05. The average is kept in float32 in this machine's memory, 4 bytes a
    parameter: what one version adds is smaller than bfloat16 can tell apart. It is rounded to `dtype`, the engine's
    number format, only to be read.
    """

    def __init__(self, generator: Generator, dtype: DType, rate: float) -> None:
        super().__init__("the policy's average", generator)
        self._dtype = dtype
        self._rate = rate
        self._version: int | None = None  # the newest in the average
        self._weights: dict[str, torch.Tensor] = {}  # a tensor is replaced and never changed: `state` may hold it

    async def published(self, update: WeightUpdate) -> None:
        """Take a version into the average, each once; weights that a run went back to are a new one.

        Raises StaleGenerator.
        """
        if update.version == self._version:
            return
        await asyncio.to_thread(self._add, update)
        await self._hold()

    def state(self) -> WriteState:
        """Of the weights, after the first version."""
        from safetensors.torch import save_file

        weights, metadata = self._weights.copy(), {_VERSION: str(self._version)}
        return lambda folder: save_file(weights, folder / _FILE, metadata)

    async def load(self, folder: Path) -> None:
        """Go on from what `state` wrote. Raises CheckpointError."""
        self._version, self._weights = await asyncio.to_thread(_read, folder / _FILE)
        await self._hold()

    def _add(self, update: WeightUpdate) -> None:
        import torch

        from rlvr.weights.transport import read_weights

        for name, tensor in read_weights(update.source).items():
            if self._version is None or not tensor.is_floating_point():
                new = tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
            else:
                new = torch.lerp(self._weights[name], tensor.to(torch.float32), self._rate)
            self._weights[name] = new
        self._version = update.version

    async def _hold(self) -> None:
        """The average in the engine, which says what it has."""
        from rlvr.weights.transport import checksum

        assert self._version is not None
        expected = await asyncio.to_thread(checksum, self._weights.values(), self._dtype)
        update = WeightUpdate(self._version, expected, InMemory(self._weights), self._dtype)
        receipt = await self._generator.update_weights(update)
        verify(receipt.generator, update, receipt.version, receipt.checksum)


def averaged_policy(config: Config, rate: float, number: int = 0) -> AveragedPolicy:
    """The average of the policy that `config` trains. Raises TeacherError where there is none."""
    if not 0 < rate <= 1:
        raise TeacherError(f"--ema-rate {rate:g}: expected what a version counts, above 0 and at most 1")
    if config.model.lora.rank and config.model.lora.publish == "adapter":
        raise TeacherError(
            "--teacher ema: the average of two adapters is not the adapter of their average; set "
            "model.lora.publish=merged, and whole weights are averaged"
        )
    settings = local_settings(config, config.model.name, number)
    return AveragedPolicy(local_engine(config, settings), settings.dtype, rate)


def _read(file: Path) -> tuple[int, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            return int(opened.metadata()[_VERSION]), weights
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}, the average of the policy's versions that --teacher ema goes on from, cannot be read: {error}"
        ) from None
