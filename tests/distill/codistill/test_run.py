"""Co-distillation, whole: two tiny peers in this process, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from rlvr.cli import app
from rlvr.demo import BASE
from rlvr.demo.problems import Split, write_jsonl
from rlvr.distill.codistill.plan import peer_folder
from rlvr.distill.licence import LicenceRefused
from rlvr.distill.provenance import read_provenance
from rlvr.distill.tokenizers import TokenizerMismatch
from rlvr.run_folder import RunFolderError

# A request at a time: which answers share a batch, and so their last bits, does not depend on who is faster.
SETTINGS: dict[str, Any] = {
    "model": str(BASE),
    "reward": "math_answer",
    "sampling": {"max_new_tokens": 44},
    "rollout": {"group_size": 8, "groups_per_step": 1, "max_staleness": 0, "drop_zero_variance": False},
    "learner": {"learning_rate": 1e-3, "warmup_steps": 0, "token_budget": 4096},
    "cluster": {"backend": "local"},
    "checkpoint": {"every_steps": 2},
    "tensorboard": False,
    "steps": 4,
}


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "train.jsonl"
    write_jsonl(file, Split.TRAIN, 64, 0)
    return file


def shared(problems: Path) -> dict[str, Any]:
    return {**SETTINGS, "data": {"path": str(problems), "prompt": "question", "max_prompt_tokens": 128}}


def rlvr(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def codistill(file: Path, tree: dict[str, Any], *words: str | Path) -> Result:
    file.write_text(yaml.safe_dump(tree))
    return rlvr("codistill", file, *words)


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def sampled(run: Path) -> list[list[int]]:
    files = sorted((run / "rollouts").iterdir())
    return [tokens for file in files for tokens in pq.read_table(file)["token_ids"].to_pylist()]


def test_at_weight_0_each_peer_is_plain_grpo_bit_for_bit(tmp_path: Path, problems: Path) -> None:
    tree = shared(problems) | {
        "peers": {"a": {}, "b": {"seed": 1, "learner": {"learning_rate": 5e-4}}},
        "codistill": {"alpha_max": 0},
    }
    together = tmp_path / "together"
    done = codistill(tmp_path / "codistill.yaml", tree, f"run_dir={together}")
    assert done.exit_code == 0, done.output
    for name, own in (("a", []), ("b", ["seed=1", "learner.learning_rate=5e-4"])):
        alone = tmp_path / name
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(shared(problems)))
        done = rlvr("train", tmp_path / "train.yaml", f"run_dir={alone}", *own)
        assert done.exit_code == 0, done.output
        peer = peer_folder(together, name)
        assert sampled(peer) == sampled(alone)
        weights = Path("policy") / "model.safetensors"
        assert (peer / weights).read_bytes() == (alone / weights).read_bytes()
        assert (peer / weights).read_bytes() != (BASE / "model.safetensors").read_bytes()
    heard = metrics(peer_folder(together, "a"))
    assert all(0 < line["codistill/b/overlap"] <= 1 and line["codistill/alpha"] == 0 for line in heard)


def test_peers_teach_each_other_and_go_on_after_a_resume(tmp_path: Path, problems: Path, teacher: Path) -> None:
    """One peer is further on than the other, a third is a teacher. Its card is Llama's, and so are its conditions."""
    tree = shared(problems) | {
        "peers": {"ahead": {"model": str(teacher)}, "behind": {}, "elder": {"model": str(teacher), "learn": False}},
        "codistill": {"burn_in": 0, "ramp": 0, "overlap_low": 0.1, "overlap_high": 0.2, "kappa": "rms"},
        "rollout": {"group_size": 8, "groups_per_step": 4, "max_staleness": 1},
    }
    run = tmp_path / "run"
    done = codistill(tmp_path / "codistill.yaml", tree, f"run_dir={run}")
    assert done.exit_code == 0, done.output
    behind = metrics(peer_folder(run, "behind"))
    assert max(line["codistill/alpha"] for line in behind) > 0.1
    assert all(line["codistill/elder/kl"] > 0 and line["codistill/elder/age"] == 0 for line in behind)
    assert {"codistill/ahead/pass_rate_gap", "codistill/pass_rate/all"} <= set(behind[-1])
    assert not (peer_folder(run, "elder") / "metrics.jsonl").exists()
    for name in ("ahead", "behind"):
        record = read_provenance(peer_folder(run, name) / "policy")
        assert record is not None and set(record.licences()) == {"llama3.1"} | (
            {"apache-2.0"} if name == "ahead" else set()
        )
        assert "Built with Llama" in (peer_folder(run, name) / "policy" / "NOTICE").read_text()

    again = rlvr("codistill", "--resume", f"run_dir={run}", "steps=6")
    assert again.exit_code == 0, again.output
    for name in ("ahead", "behind"):
        lines = metrics(peer_folder(run, name))
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert [line["policy/version"] for line in lines] == [1, 2, 3, 4, 5, 6]
        # The moving average goes on from where it stood: it keeps 0.8 of itself.
        before, after = lines[3]["codistill/pass_rate/all"], lines[4]["codistill/pass_rate/all"]
        assert 0.8 * before - 1e-9 <= after <= 0.8 * before + 0.2 + 1e-9
        kappas = [line["codistill/kappa"] for line in lines]
        assert kappas[4] >= 0.9 * kappas[3] and kappas[3] != 1


def test_a_peer_that_dies_does_not_stop_the_other(tmp_path: Path, problems: Path) -> None:
    (tmp_path / "judges.py").write_text(
        "answered = 0\n\n\nasync def tires(completion: str, answer: str) -> float | None:\n"
        "    global answered\n    answered += 1\n    return float(answer in completion) if answered <= 20 else None\n"
    )
    tree = shared(problems) | {
        "peers": {"strong": {}, "weak": {"reward": f"{tmp_path / 'judges.py'}:tires"}},
        "rollout": {"max_refill": 1, **SETTINGS["rollout"]},
    }
    run = tmp_path / "run"
    done = codistill(tmp_path / "codistill.yaml", tree, f"run_dir={run}", "steps=6")
    assert done.exit_code == 1, done.output
    assert "weak died: RolloutError: too few verdicts" in done.output
    assert f"policy: {peer_folder(run, 'strong') / 'policy'}" in done.output
    assert [line["step"] for line in metrics(peer_folder(run, "strong"))] == [1, 2, 3, 4, 5, 6]
    assert "codistill/weak/kl" not in metrics(peer_folder(run, "strong"))[-1]
    assert any("weak died after step" in event["text"] for event in events(peer_folder(run, "strong")))
    (told,) = events(run)
    assert told["kind"] == "failure" and "too few verdicts" in told["text"]


def test_what_is_wrong_is_told_before_anything_is_made(tmp_path: Path, problems: Path) -> None:
    run = tmp_path / "run"
    file, peers = tmp_path / "codistill.yaml", {"a": {}, "b": {"model": "mistralai/Mistral-Large-Instruct-2411"}}
    done = codistill(file, shared(problems) | {"peers": peers}, f"run_dir={run}")
    assert isinstance(done.exception, LicenceRefused)
    both = BASE.with_name("base_both")
    done = codistill(file, shared(problems) | {"peers": {"a": {}, "b": {"model": str(both)}}}, f"run_dir={run}")
    assert isinstance(done.exception, TokenizerMismatch) and "b (beside a)" in str(done.exception)
    assert not run.exists()
    done = rlvr("codistill", "--resume", f"run_dir={run}")
    assert done.exception is not None and "codistill.yaml" in str(done.exception)
    run.mkdir()
    (run / "codistill.yaml").write_text("{}")
    done = codistill(file, shared(problems) | {"peers": {"a": {}, "b": {}}}, f"run_dir={run}")
    assert isinstance(done.exception, RunFolderError) and "already holds a run" in str(done.exception)
