"""The file of a co-distillation: what becomes of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr.config_loading import ConfigError
from rlvr.distill.codistill.plan import CodistillPlan, Mode, plan_file, read_plan, read_saved_plan
from rlvr.distill.gate import Gate

FILE: dict[str, Any] = {
    "codistill": {"alpha_max": 0.4},
    "peers": {
        "a": {"model": "models/a"},
        "b": {"model": {"name": "models/b"}, "learner": {"learning_rate": 1e-5}},
        "elder": {"model": "models/elder", "learn": False},
    },
    "data": {"path": "both.jsonl", "prompt": "question"},
    "learner": {"learning_rate": 2e-6, "warmup_steps": 3},
    "cluster": {"backend": "local"},
}


def read(folder: Path, *overrides: str, **changes: Any) -> CodistillPlan:
    file = folder / "plan.yaml"
    tree = {**FILE, **changes}
    file.write_text(yaml.safe_dump(tree))
    return read_plan([file], overrides, Gate("research"), folder / "run")


def test_each_peer_is_a_whole_config_in_a_folder_of_its_own(tmp_path: Path) -> None:
    plan = read(tmp_path)
    assert [(p.name, p.learns, p.config.model.name) for p in plan.peers] == [
        ("a", True, "models/a"),
        ("b", True, "models/b"),
        ("elder", False, "models/elder"),
    ]
    assert [p.config.learner.learning_rate for p in plan.peers] == [2e-6, 1e-5, 2e-6]
    assert all(p.config.learner.warmup_steps == 3 and p.config.data.prompt == "question" for p in plan.peers)
    assert [p.config.run_dir for p in plan.peers] == [tmp_path / "run" / "peers" / name for name in ("a", "b", "elder")]
    assert not any(p.config.rollout.drop_zero_variance for p in plan.peers)
    assert plan.settings.alpha_max == 0.4 and plan.settings.mode is Mode.JOINT and plan.settings.half_life == 8


def test_words_reach_the_shared_part_the_peers_and_how_they_teach(tmp_path: Path) -> None:
    plan = read(tmp_path, "steps=7", "peers.b.seed=5", "codistill.mode=alternate", f"run_dir={tmp_path / 'other'}")
    assert [p.config.steps for p in plan.peers] == [7, 7, 7]
    assert [p.config.seed for p in plan.peers] == [0, 5, 0]
    assert plan.settings.mode is Mode.ALTERNATE and plan.run_dir == tmp_path / "other"


def test_what_is_saved_is_read_again_with_its_licences(tmp_path: Path) -> None:
    read(tmp_path, "steps=7").save()
    again = read_saved_plan(tmp_path / "run", ["steps=9"])
    assert again.gate == Gate("research", [], []) and again.run_dir == tmp_path / "run"
    assert [p.config.steps for p in again.peers] == [9, 9, 9]
    assert plan_file(tmp_path / "run").is_file()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peers": {"a": {"model": "m"}}}, "peers: must name two or more"),
        ({"peers": None}, "peers: must name two or more"),
        ({"peers": {"a": {"model": "m"}, "b/c": {"model": "m"}}}, "peers.b/c: a name begins with a letter"),
        ({"peers": {"a": {"model": "m"}, "b": "m"}}, "peers.b: expected settings"),
        ({"peers": {"a": {"model": "m"}, "b": {"model": "m", "learn": 1}}}, "peers.b.learn: expected true or false"),
        ({"peers": {"a": {"model": "m"}, "b": {}}}, "peers.b: .*\n.*model: must be set"),
        ({"peers": {"a": {"model": "m"}, "b": {"model": "m", "lerner": {}}}}, "lerner: no such setting"),
        ({"peers": {n: {"model": "m", "learn": False} for n in "ab"}}, "none of them learns"),
        ({"codistill": {"alpha_max": 0.8}}, "codistill.alpha_max: .*0.8 is more than 0.7: .* agree on nonsense"),
        ({"codistill": {"signal": "student_topk", "kappa": "rms"}}, "kappa=rms compares advantages"),
        ({"codistill": {"alfa_max": 0.8}}, "codistill.alfa_max.*\n.*known here: mode, signal, alpha_max"),
        ({"codistill": {"burn_in": 0.5, "fade": 0.6}}, "is more than 1, the whole run"),
        ({"codistill": {"overlap_low": 0.9}}, "overlap_low must be below overlap_high"),
        ({"rollout": {"drop_zero_variance": True}}, "peers.a.rollout.drop_zero_variance: .* wrong throughout"),
        (
            {"learner": {"router": {"balance_loss": 0.1}}},
            "balance_loss: a peer.s answer .* set it to 0",
        ),
        ({"generator": {"engine": "vllm"}}, "one process holds one vLLM engine"),
        (
            {"peers": {"a": {"model": "m"}, "b": {"model": "m", "sampling": {"max_new_tokens": 99}}}},
            "peers.b: it reads 1123 tokens .* answers of a may have 1536",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, **changes)


def test_peers_run_in_one_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"peers\.b\.cluster: all peers run in one place"):
        read(tmp_path, "peers.b.cluster.watchdog_s=5")


def test_an_alpha_at_the_bound_is_taken(tmp_path: Path) -> None:
    assert read(tmp_path, "codistill.alpha_max=0.7").settings.alpha_max == 0.7
