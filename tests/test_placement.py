"""Which cores and GPUs each role gets, against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rlvr.config import Config
from rlvr.config_loading import check
from rlvr.placement import ClusterError, Placement, Share, place, place_learner, place_teacher


def config(generators: int = 1, ranks: int = 1, tensor_parallel: int = 1) -> Config:
    settings: dict[str, Any] = {
        "model": "tiny",
        "data": "none.jsonl",
        "generator": {"count": generators, "tensor_parallel": tensor_parallel},
        "learner": {"ranks": ranks},
    }
    return check(settings)


def test_two_cores_are_one_each() -> None:
    generators, learner = place(config(), [0, 1], gpus=0)
    assert generators == [Placement("generator-0", 0.0, 1, (0,))]
    assert learner == [Placement("learner", 0.0, 1, (1,))]


def test_cores_are_shared_evenly_by_their_own_numbers() -> None:
    generators, learner = place(config(generators=2, ranks=2), [1, 3, 5, 7, 8, 9, 10, 11, 12], gpus=0)
    assert generators == [Placement("generator-0", 0.0, 2, (1, 3)), Placement("generator-1", 0.0, 2, (5, 7))]
    assert learner == [Placement("learner-0", 0.0, 2, (8, 9)), Placement("learner-1", 0.0, 2, (10, 11))]


@pytest.mark.parametrize("cores", [[0, 1], []], ids=["too few", "unknown, on another machine"])
def test_without_a_core_for_each_nobody_is_pinned(cores: list[int]) -> None:
    generators, learner = place(config(ranks=2), cores, gpus=0)
    assert [(p.threads, p.cores) for p in generators + learner] == [(1, ())] * 3


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (2, 0.25)])
def test_a_single_gpu_is_shared_half_and_half(count: int, share: float) -> None:
    generators, learner = place(config(generators=count), [0, 1, 2, 3], gpus=1)
    assert [p.gpus for p in generators] == [share] * count
    assert [p.gpus for p in learner] == [0.5]


def test_on_several_gpus_each_process_has_its_own() -> None:
    generators, learner = place(config(generators=2, ranks=4, tensor_parallel=2), [], gpus=8)
    assert [p.gpus for p in generators] == [2.0, 2.0]
    assert [p.gpus for p in learner] == [1.0] * 4


@pytest.mark.parametrize(
    ("gpus", "settings", "says"),
    [
        (2, {"generators": 2}, "2 generators of 1 GPUs and a learner of 1 need 3 GPUs, and there are 2"),
        (7, {"generators": 2, "ranks": 4, "tensor_parallel": 2}, "need 8 GPUs, and there are 7"),
        (1, {"ranks": 2}, "a learner of 2 need 3 GPUs, and there is 1"),
        (1, {"tensor_parallel": 2}, "1 generators of 2 GPUs and a learner of 1 need 3 GPUs, and there is 1"),
    ],
)
def test_too_few_gpus_are_refused(gpus: int, settings: dict[str, int], says: str) -> None:
    with pytest.raises(ClusterError, match=f"{says}: lower generator.count"):
        place(config(**settings), [], gpus)


def test_a_teacher_has_all_that_a_learner_leaves_free() -> None:
    assert place_teacher(config(generators=2), [4, 5, 6, 7], gpus=0) == [
        Placement("generator-0", 0.0, 2, (4, 5)),
        Placement("generator-1", 0.0, 2, (6, 7)),
    ]
    assert [p.gpus for p in place_teacher(config(generators=2), [], gpus=1)] == [0.5, 0.5]
    assert [p.gpus for p in place_teacher(config(tensor_parallel=2), [], gpus=2)] == [2.0]
    with pytest.raises(ClusterError, match="2 generators of 2 GPUs need 4 GPUs, and there are 3: lower"):
        place_teacher(config(generators=2, tensor_parallel=2), [], gpus=3)


def test_peers_have_equal_shares_of_cores_and_gpus() -> None:
    first, second = Share(0, 2), Share(1, 2)
    assert (first.of_cores([0, 1, 2, 3, 4]), second.of_cores([0, 1, 2, 3, 4])) == ([0, 1], [2, 3])
    assert second.of_cores([0]) == []
    assert [second.of_gpus(gpus) for gpus in (0, 2, 5)] == [0, 1, 2]
    with pytest.raises(ClusterError, match="2 peers need a GPU each at the least, and there are 1"):
        first.of_gpus(1)
    assert list(Share().of_cores([3, 4])) == [3, 4] and Share().of_gpus(1) == 1


def test_a_learner_without_generators_has_the_machine() -> None:
    assert place_learner(config(), [4, 5], gpus=0) == [Placement("learner", 0.0, 2, (4, 5))]
    assert place_learner(config(ranks=2), [4, 5, 6], gpus=0) == [
        Placement("learner-0", 0.0, 1, (4,)),
        Placement("learner-1", 0.0, 1, (5,)),
    ]
    assert [p.gpus for p in place_learner(config(ranks=2), [], gpus=2)] == [1.0, 1.0]
    with pytest.raises(ClusterError, match="a learner of 4 ranks needs 4 GPUs, and there are 2"):
        place_learner(config(ranks=4), [], gpus=2)
