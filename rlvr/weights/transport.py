"""Writes, reads and sums the weights of a version. Knows torch, safetensors and, where asked, Ray."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rlvr.config import DType
from rlvr.weights.update import (
    AdapterFolder,
    InMemory,
    PackedTensor,
    SharedFile,
    StoredObject,
    WeightSource,
    WeightUpdate,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Weights = Mapping[str, torch.Tensor]

_INTEGER_OF_WIDTH = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def torch_dtype(dtype: DType) -> torch.dtype:
    """The torch number format of a config's name."""
    return {DType.FLOAT32: torch.float32, DType.BFLOAT16: torch.bfloat16, DType.FLOAT16: torch.float16}[dtype]


# -------------------------------------------------------------------- checksum


def checksum(tensors: Iterable[torch.Tensor], dtype: DType) -> int:
    """Sum of all bit patterns, read as signed integers of their width, modulo 2^64.

    A sum does not depend on order or on how values are grouped into tensors, so an engine that fuses q, k and v,
    stacks experts or transposes a matrix holds the same sum; and the bit pattern of 0.0 is 0, so padding with
    zeros adds nothing. So a generator sums what it has *loaded*, not what it was sent. A flipped bit, a tensor that
    stayed old or one that was left out changes the sum. Two weights exchanged do not: that an engine puts
    each weight in its place is what the tests of log-probabilities against transformers show.

    Both sides round to `dtype` first, so that a tensor that one side keeps in float32 (a router's bias) counts
    the same on both. Tensors that are not floating point are left out. Tied weights must be given once.
    """
    target = torch_dtype(dtype)
    total = 0
    for tensor in tensors:
        if tensor.is_floating_point():
            total += _sum(tensor.detach().to(target).view(_INTEGER_OF_WIDTH[target.itemsize]))
    return total % 2**64


def _sum(bits: torch.Tensor) -> int:
    """In 64 bits, wrapping. On CPU numpy does it, a hundred times faster than torch 2.13 (9 GB/s a core)."""
    if bits.device.type == "cpu":
        return int(bits.numpy().sum(dtype=np.int64))
    return int(bits.sum(dtype=torch.int64))


def combined_checksum(workers: Sequence[Mapping[str, int]]) -> int:
    """The checksum of a model from those of its parameters, as each of the workers that share it holds them.

    A parameter whose sums are equal on all workers is a copy (a norm) and counts once; otherwise they are shards
    and add up. Workers that each hold a copy of some key-value heads beside shards of others are not recognised.
    """
    total = 0
    for name in workers[0]:
        sums = [worker[name] for worker in workers]
        total += sums[0] if len(set(sums)) == 1 else sum(sums)
    return total % 2**64


# -------------------------------------------------------------------- what a model publishes


def published_weights(model: PreTrainedModel, state: Weights | None = None) -> dict[str, torch.Tensor]:
    """A model's weights under the names of its checkpoint, tied ones once.

    transformers 5 fuses some weights in memory (the experts of a layer into one tensor); engines expect the names
    and shapes of the published checkpoint. `state` replaces the model's own state dict where that holds shards.
    """
    from transformers.core_model_loading import revert_weight_conversion

    full = dict(model.state_dict() if state is None else state)
    for tied in model.all_tied_weights_keys:
        full.pop(tied, None)
    return dict(revert_weight_conversion(model, full))


def rounded(weights: Weights, dtype: DType) -> dict[str, torch.Tensor]:
    """The weights in a generator's number format; integer tensors as they are."""
    target = torch_dtype(dtype)
    return {
        name: (tensor.detach().to(target) if tensor.is_floating_point() else tensor.detach()).cpu()
        for name, tensor in weights.items()
    }


# -------------------------------------------------------------------- shared memory


def shared_memory() -> Path | None:
    """Linux keeps files in memory at /dev/shm. None where there is no such folder: temporary files will do."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) else None


def publish_file(folder: Path, version: int, weights: Weights, dtype: DType) -> WeightUpdate:
    """Write a version into a folder in shared memory, and remove the versions before it.

    A reader never sees half a file: it is written beside its place and renamed. The version before is not needed
    any more, because a version is published only after all generators have answered to the one before it.
    """
    ready = {name: tensor.contiguous() for name, tensor in rounded(weights, dtype).items()}
    path = folder / f"version-{version:08d}.safetensors"
    unfinished = path.with_suffix(".unfinished")
    save_file(ready, unfinished)
    unfinished.rename(path)
    for other in folder.glob("version-*.safetensors"):
        if other != path:
            other.unlink()
    return WeightUpdate(version, checksum(ready.values(), dtype), SharedFile(path), dtype)


# -------------------------------------------------------------------- Ray's object store


def publish_object(version: int, weights: Weights, dtype: DType) -> WeightUpdate:
    """Put a version into Ray's object store as one buffer. It stays while somebody holds the update."""
    import ray

    ready = rounded(weights, dtype)
    buffer, layout = pack(ready)
    return WeightUpdate(version, checksum(ready.values(), dtype), StoredObject(ray.put(buffer.numpy()), layout), dtype)


def pack(weights: Weights) -> tuple[torch.Tensor, tuple[PackedTensor, ...]]:
    """All weights in one buffer of bytes, and where each lies in it. Tensors start at multiples of 64 bytes."""
    layout: list[PackedTensor] = []
    end = 0
    for name, tensor in weights.items():
        layout.append(PackedTensor(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end))
        end += math.ceil(tensor.nbytes / 64) * 64
    buffer = torch.zeros(end, dtype=torch.uint8)
    for place, tensor in zip(layout, weights.values(), strict=True):
        _inside(buffer, place).copy_(tensor)
    return buffer, tuple(layout)


def unpack(buffer: torch.Tensor, layout: Iterable[PackedTensor]) -> dict[str, torch.Tensor]:
    """The inverse of `pack`. The tensors are views into the buffer."""
    return {place.name: _inside(buffer, place) for place in layout}


def _inside(buffer: torch.Tensor, place: PackedTensor) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, place.dtype)
    nbytes = math.prod(place.shape) * dtype.itemsize
    return buffer[place.offset : place.offset + nbytes].view(dtype).view(place.shape)


# -------------------------------------------------------------------- adapters


def write_adapter(folder: Path, config: Mapping[str, object], weights: Weights) -> Weights:
    """A LoRA adapter as peft saves it, into a folder; returns what was written. `config` is peft's adapter_config."""
    ready = {name: tensor.contiguous() for name, tensor in rounded(weights, DType.FLOAT32).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(ready, folder / "adapter_model.safetensors")
    return ready


def publish_adapter(folder: Path, version: int, config: Mapping[str, object], weights: Weights) -> WeightUpdate:
    """Write a LoRA adapter in peft's form into a folder of its own, and remove the versions before it.

    `config` is peft's adapter_config. The adapter keeps float32: it is small, and engines scale it before rounding.
    """
    path = folder / f"adapter-{version:08d}"
    unfinished = folder / f"unfinished-{version:08d}"
    ready = write_adapter(unfinished, config, weights)
    if path.exists():
        _remove_adapter(path)
    unfinished.rename(path)
    for other in folder.glob("adapter-*"):
        if other != path:
            _remove_adapter(other)
    return WeightUpdate(version, checksum(ready.values(), DType.FLOAT32), AdapterFolder(path), DType.FLOAT32)


def _remove_adapter(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


# -------------------------------------------------------------------- reading


def read_weights(source: WeightSource) -> dict[str, torch.Tensor]:
    """The weights of a version, by checkpoint name. Raises OSError when a file is gone."""
    match source:
        case SharedFile(path):
            return _read_file(path)
        case AdapterFolder(path):
            return _read_file(path / "adapter_model.safetensors")
        case InMemory(weights):
            return dict(weights)
        case StoredObject(reference, layout):
            import ray

            # The store's memory is read-only and torch warns of that; nothing here writes to it.
            return unpack(_read_only_tensor(ray.get(reference)), layout)


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    if not os.access(path, os.R_OK):
        raise FileNotFoundError(f"weights at {path} are gone: generator and learner must share this folder (one node)")
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _read_only_tensor(array: object) -> torch.Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(array)
