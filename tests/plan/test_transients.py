"""What comes and goes in a step, against what torch allocates: Muon's step, gathered parameters, a publication."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM

import rlvr.learn.muon
import rlvr.plan.muon_step
from rlvr.architecture.catalog import find_model
from rlvr.architecture.facts import Architecture, DenseMLP, GroupedQueryAttention, Layer
from rlvr.architecture.parameters import linear_layers
from rlvr.config import Config
from rlvr.learn.learner import Learner
from rlvr.learn.muon import Muon
from rlvr.learn.ranks import ALONE, Ranks
from rlvr.learn.sharded import ShardedRanks, join
from rlvr.plan.memory import learner_memory
from rlvr.plan.muon_step import muon_step_bytes
from rlvr.types import RLStream, Row

from .conftest import FAMILIES, Tiny, peak_of
from .test_activations import one_batch


@pytest.fixture
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of one: it shards, gathers and sums as any other does."""
    config = Config.model_validate({"model": "tiny", "data": "x", "learner": {"device": "cpu"}})
    join(f"file://{tmp_path_factory.mktemp('group')}/store", 0, 1, config, 60)
    yield
    dist.destroy_process_group()


def step_of_muon(config: Config) -> int:
    """Peak of a learner's second step, which finds its momenta there."""
    learner = Learner(config)
    learner.start()
    row = Row(0, list(range(2, 40)), [False] + [True] * 37, RLStream([1.0] * 38, [-4.0] * 38, [0] * 38))
    learner.train([row])
    [batch] = learner.ranks.micro_batches([row], learner.model.plan)
    learner.model.logprobs(batch).logprobs.sum().backward()
    muon, _ = learner.optimizer.parts
    return peak_of(muon.step)


@pytest.mark.parametrize("batch_elements", [1 << 24, 1 << 14, 1])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "deepseek_v3", "glm4_moe"])
def test_a_step_of_muon_takes_what_it_allocates(
    tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch, family: str, batch_elements: int
) -> None:
    """Matrices of one shape together, as many as a batch holds; with 1, each alone."""
    for module in (rlvr.learn.muon, rlvr.plan.muon_step):
        monkeypatch.setattr(module, "MUON_BATCH_ELEMENTS", batch_elements)
    made = tiny(family)
    measured = step_of_muon(made.config(optimizer="muon"))
    assert muon_step_bytes(made.architecture, gpu=False) == pytest.approx(measured, rel=0.01)


@pytest.fixture
def four_ranks() -> Iterator[None]:
    """A group whose exchanges give tensors of the right sizes, and nothing in them."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)  # type: ignore[no-untyped-call]
    yield
    dist.destroy_process_group()


def test_a_step_of_muon_on_shards_gathers_one_matrix_at_a_time(four_ranks: None) -> None:
    """Of three that are alike, and of experts none: a rank has whole ones."""
    architecture = Architecture("llama", 64, 61, False, None, (Layer(GroupedQueryAttention(4, 2, 32), DenseMLP(192)),))
    mesh = init_device_mesh("cpu", (4,))

    def sharded(*shape: int) -> DTensor:
        return distribute_tensor(torch.randn(shape), mesh, [Shard(0)], src_data_rank=None)

    shapes = [(matrix.outputs, matrix.inputs) for matrix in linear_layers(architecture.layers[0], architecture)] * 3
    parameters = [torch.nn.Parameter(sharded(*shape)) for shape in shapes]
    muon = Muon(parameters, lr=0.1)
    for _ in range(2):
        for parameter, shape in zip(parameters, shapes, strict=True):
            parameter.grad = sharded(*shape)
        measured = peak_of(muon.step)
    assert muon_step_bytes(architecture, gpu=False, gpus=4, sharded=True) == pytest.approx(measured, rel=0.01)


def large(tmp_path: Path, **values: Any) -> Tiny:
    """A model whose weights are more than its activations."""
    torch.manual_seed(0)
    family, usual = FAMILIES["qwen3"]
    sizes = {"hidden_size": 128, "intermediate_size": 1024, "vocab_size": 20_000}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **usual | sizes | values)).save_pretrained(tmp_path)
    return Tiny(tmp_path, find_model(str(tmp_path)).architecture)


def ranks_of(config: Config) -> Ranks:
    return ShardedRanks(config) if config.learner.is_sharded else ALONE


def pass_of(config: Config) -> int:
    """Peak of a forward and backward pass that finds gradients there."""
    model = ranks_of(config).load(config)
    batch = one_batch(model)

    def run() -> None:
        model.logprobs(batch).logprobs.sum().backward()

    run()
    return peak_of(run)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_shards_are_gathered_and_their_gradients_summed_in_the_room_that_is_planned(
    tmp_path: Path, one_rank: None, dtype: str, tied: bool
) -> None:
    """Beside a pass without shards, whose bfloat16 copies of weights are not needed then."""
    made = large(tmp_path, tie_word_embeddings=tied)
    alone, sharded = made.config(dtype=dtype), made.config(dtype=dtype, ranks=2)
    planned, shared = (
        {part.name: part.bytes for part in learner_memory(config, made.architecture, gpu=False).parts}
        for config in (alone, sharded)
    )
    a_pass = pass_of(alone) - planned.get("weights in use", 0) + shared["gathered"] // 2
    measured = pass_of(sharded)
    # Embeddings and head, their gradients, and these once more while they are summed: when activations are gone.
    tables = 4 * (20_000 * 128 * (1 if tied else 2) + 128)
    assert max(a_pass, 3 * tables) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("lora", "dtype"), [(0, "float32"), (0, "bfloat16"), (4, "float32"), (4, "bfloat16")])
def test_a_version_on_its_way_takes_a_second_file_and_what_was_merged_or_rounded(
    tmp_path: Path, lora: int, dtype: str
) -> None:
    made = large(tmp_path / "model")
    config = made.config(lora=lora, dtype=dtype, token_budget=128, head_chunk_tokens=4)
    learner = Learner(config)
    learner.start()
    (tmp_path / "versions").mkdir()
    copies = peak_of(lambda: learner.publish(tmp_path / "versions"))
    [file] = (tmp_path / "versions").iterdir()
    planned = {part.name: part.bytes for part in learner_memory(config, made.architecture, gpu=False).parts}
    assert planned["published version"] == pytest.approx(file.stat().st_size, rel=0.01)
    a_pass = sum(planned.get(name, 0) for name in ("weights in use", "activations", "head"))
    # The weight that is being merged is there twice, which is not planned.
    assert planned["publishing"] + a_pass == pytest.approx(file.stat().st_size + copies, rel=0.02)
