"""What a learner saves to go on bit for bit, as named tensors, and how it takes them up.

Names, not places: a state is the same whatever the number of ranks that saved it. PyTorch's distributed checkpoint
writes each shard once, with its place in the whole, and each rank reads the part that it needs.

    network.NAME                parameters and buffers; with adapters, these alone
    optimizer.CLASS             an optimizer was there
    optimizer.CLASS.NAME.KEY    its state of a parameter
    count.NAME                  numbers, float64: the version, updates so far, what a guard remembers
    random                      what is drawn next, the same on all ranks
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.nn import Parameter
from torch.optim import Optimizer

from rlvr.learn.model import PolicyModel
from rlvr.learn.optimizer import PolicyOptimizer
from rlvr.learn.ranks import Ranks

Saved = Mapping[str, TensorStorageMetadata]


def tensors_of(model: PolicyModel, optimizer: PolicyOptimizer, counts: Mapping[str, float]) -> dict[str, Tensor]:
    """The tensors themselves, not copies."""
    named = _network(model) | _classes(optimizer)
    for part in optimizer.parts:
        for prefix, parameter in _by_prefix(part, model).items():
            named |= {f"{prefix}{key}": value for key, value in part.state.get(parameter, {}).items()}
    named |= {f"count.{name}": torch.tensor(value, dtype=torch.float64) for name, value in counts.items()}
    return named | _random(model)


def load(folder: Path, model: PolicyModel, optimizer: PolicyOptimizer, ranks: Ranks) -> dict[str, float]:
    """Take up what `tensors_of` had when it was saved; returns the numbers.

    Raises ValueError for the state of another model or optimizer.
    """
    saved = _saved(folder)
    network = _network(model)
    _check(folder, network, saved)
    states = [_room_for_state(part, model, saved) for part in optimizer.parts]
    of_optimizer = {name: room for state in states for of_one in state.values() for name, room in of_one.items()}
    of_optimizer |= _classes(optimizer)
    if of_optimizer.keys() != {name for name in saved if name.startswith("optimizer.")}:
        raise ValueError(f"{folder} has the state of another optimizer; resume with the learner.optimizer it had")
    counts = {name: torch.tensor(0.0, dtype=torch.float64) for name in saved if name.startswith("count.")}
    random = {name: tensor for name, tensor in _random(model).items() if name in saved}
    ranks.load_state(network | of_optimizer | counts | random, folder)
    for part, state in zip(optimizer.parts, states, strict=True):
        _take_state(part, state)
    _take_random(random)
    return {name.removeprefix("count."): float(value) for name, value in counts.items()}


def load_network(folder: Path, model: PolicyModel, ranks: Ranks) -> int:
    """The policy alone, for those who do not train it; returns its version. Raises ValueError for another model's."""
    network = _network(model)
    _check(folder, network, _saved(folder))
    version = torch.tensor(0.0, dtype=torch.float64)
    ranks.load_state(network | {"count.version": version}, folder)
    return int(version)


def _saved(folder: Path) -> Saved:
    """The names in a folder, with shapes and number formats."""
    described = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {name: info for name, info in described.items() if isinstance(info, TensorStorageMetadata)}


def _network(model: PolicyModel) -> dict[str, Tensor]:
    """Tied weights once."""
    state = model.network.state_dict(keep_vars=True)
    if model.adapter is not None:
        state = {name: tensor for name, tensor in state.items() if tensor.requires_grad}
    distinct = {id(tensor): (name, tensor) for name, tensor in reversed(state.items())}
    return {f"network.{name}": tensor.detach() for name, tensor in reversed(distinct.values())}


def _random(model: PolicyModel) -> dict[str, Tensor]:
    state = {"random": torch.get_rng_state()}
    if model.device.type == "cuda":
        state["random_cuda"] = torch.cuda.get_rng_state()
    return state


def _take_random(random: Mapping[str, Tensor]) -> None:
    for name, state in random.items():
        (torch.cuda.set_rng_state if name == "random_cuda" else torch.set_rng_state)(state)


def _classes(optimizer: PolicyOptimizer) -> dict[str, Tensor]:
    return {f"optimizer.{type(part).__name__}": torch.tensor(0) for part in optimizer.parts}


def _by_prefix(part: Optimizer, model: PolicyModel) -> dict[str, Parameter]:
    """The optimizer's parameters in its own order, by what the names of their state begin with."""
    name_of = {parameter: name for name, parameter in model.trainable().items()}
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    return {f"optimizer.{type(part).__name__}.{name_of[p]}.": p for p in parameters}


def _room_for_state(part: Optimizer, model: PolicyModel, saved: Saved) -> dict[int, dict[str, Tensor]]:
    """Room for what was saved of each parameter, by its number: sharded as it is where it has its shape."""
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for name in saved:
        prefix, dot, _ = name.rpartition(".")
        keys[prefix + dot].append(name)
    return {
        number: {name: _room(saved[name], parameter) for name in keys[prefix]}
        for number, (prefix, parameter) in enumerate(_by_prefix(part, model).items())
        if prefix in keys
    }


def _room(info: TensorStorageMetadata, parameter: Parameter) -> Tensor:
    dtype = info.properties.dtype
    if info.size == parameter.shape:
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    return torch.empty(info.size, dtype=dtype)


def _take_state(part: Optimizer, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    by_key = {
        number: {name.rpartition(".")[2]: tensor for name, tensor in of_one.items()} for number, of_one in state.items()
    }
    part.load_state_dict({"state": by_key, "param_groups": part.state_dict()["param_groups"]})


def _check(folder: Path, network: Mapping[str, Tensor], saved: Saved) -> None:
    theirs = {name: info.size for name, info in saved.items() if name.startswith("network.")}
    lacking = [name for name, tensor in network.items() if theirs.get(name) != tensor.shape]
    besides = [name for name in theirs if name not in network]
    if lacking or besides:
        raise ValueError(
            f"{folder} is of another model: it lacks {lacking[:3]} and has {besides[:3]} besides; "
            "resume with the model.name and model.lora that it was saved with"
        )
