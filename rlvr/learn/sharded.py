"""Ranks that share a learner by FSDP2: each holds a shard of every parameter, gradient and moment, and computes a part
of the rows.

A layer's parameters are gathered when it computes, in the number format that it computes in, and its gradients are
summed over ranks in float32: summed, not averaged, because each token's share of the loss is one of the whole step.
Runs on CPU (gloo), where it was measured; on GPUs (NCCL) it has not been.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from transformers.modeling_layers import GradientCheckpointingLayer

from rlvr.config import Config, DType
from rlvr.learn.model import PolicyModel, device_of, empty_network, load_network, whole
from rlvr.learn.packing import MicroBatch, PackingPlan, cut, pack
from rlvr.learn.ranks import write
from rlvr.learn.shares import deal
from rlvr.types import Row
from rlvr.weights.transport import torch_dtype

# The head's log-probabilities may be a view; nothing writes into them.
warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")


def join(address: str, rank: int, count: int, config: Config, timeout_s: float) -> None:
    """Make this process rank `rank` of `count`; `address` is tcp://host:port of the first, or file:///path.

    Waits for the others. An exchange that one of them never comes to ends after `timeout_s`.
    """
    cuda = device_of(config.learner.device).type == "cuda"
    if cuda:
        torch.cuda.set_device(0)  # a rank sees its own GPU alone
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        init_method=address,
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=timeout_s),
    )


class ShardedRanks:
    """The `Ranks` of a process that has joined a group."""

    def __init__(self, config: Config) -> None:
        self._device = device_of(config.learner.device)
        self._rank = dist.get_rank()
        self._count = dist.get_world_size()
        self._mesh = init_device_mesh(self._device.type, (self._count,))
        self._background = dist.new_group(backend="gloo")  # its exchanges run beside those of training
        self._offload = (
            CPUOffloadPolicy(pin_memory=self._device.type == "cuda") if config.learner.offload else OffloadPolicy()
        )

    @property
    def first(self) -> bool:
        return self._rank == 0

    def load(self, config: Config) -> PolicyModel:
        """The first rank reads the model, and sends each layer whole; of it, every rank keeps its shard."""
        model = PolicyModel(config, load_network(config) if self.first else empty_network(config))
        for layer in _layers(model.network):
            self._shard(layer, model.dtype)
        self._shard(model.forward_pass, DType.FLOAT32)  # the head computes in float32
        model.widest_dtype = model.dtype
        model.forward_pass.register_forward_hook(_part_again)
        return model

    def _shard(self, module: nn.Module, dtype: DType) -> None:
        """Send what no layer before it held, and shard it. It is gathered in `dtype`."""
        for tensor in [*module.parameters(), *module.buffers()]:
            if not isinstance(tensor, DTensor):
                tensor.data = tensor.data.to(self._device)
                dist.broadcast(tensor.data, src=0)
        fully_shard(
            module,
            mesh=self._mesh,
            mp_policy=MixedPrecisionPolicy(
                param_dtype=None if dtype is DType.FLOAT32 else torch_dtype(dtype),
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,  # autocast decides, as without shards
            ),
            offload_policy=self._offload,
        )
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)

    def micro_batches(self, rows: Sequence[Row], plan: PackingPlan) -> Iterable[MicroBatch]:
        own = deal(rows, plan, self._count)[self._rank]
        part = [rows[index] for index in own]
        mine = len(cut(part, plan))
        most = torch.tensor(mine)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return self._as_many(part, plan, _token_numbers(rows, own), int(most) - mine)

    def _as_many(self, part: list[Row], plan: PackingPlan, numbers: Tensor, more: int) -> Iterator[MicroBatch]:
        for batch in pack(part, plan):
            yield replace(batch, tokens=numbers[batch.tokens])
        for _ in range(more):
            yield from pack([_UNTRAINED], plan)

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def clip(self, parameters: Iterable[Parameter], largest: float) -> float:
        return float(whole(nn.utils.clip_grad_norm_(parameters, largest)))

    def save_state(self, tensors: Mapping[str, Tensor], folder: Path) -> Future[object]:
        return write(tensors, folder, self._background)

    def load_state(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        dcp.load(dict(tensors), checkpoint_id=folder, process_group=self._background)


# A rank that has no rows left takes part in gathering parameters and summing gradients with this one.
_UNTRAINED = Row(0, [0, 0], [False, False])


def _layers(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]


def _part_again(module: nn.Module, *_: object) -> None:
    """Without a backward pass to come, what is in no layer would stay whole, and grow stale at the next update."""
    if not torch.is_grad_enabled():
        assert isinstance(module, FSDPModule)
        module.reshard()


def _token_numbers(rows: Sequence[Row], own: list[int]) -> Tensor:
    """The number, among the trained tokens of all rows, of each trained token of one's own."""
    first = [0, *accumulate(sum(row.trained) for row in rows)]
    return torch.tensor([n for index in own for n in range(first[index], first[index + 1])], dtype=torch.long)
