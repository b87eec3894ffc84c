"""On-policy distillation, whole: from the command line, with a teacher in the same process, and on again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rlvr.cli import app
from rlvr.distill.licence import LicenceRefused
from rlvr.distill.opd import TeacherWord, teacher_word
from rlvr.distill.provenance import read_provenance
from rlvr.distill.signals import SignalError
from rlvr.distill.teachers import TeacherError

SETTINGS = [
    "model=tiny",
    "data.prompt=question",
    "data.max_prompt_tokens=128",
    "sampling.max_new_tokens=44",
    "cluster.backend=local",
    "generator.engine=transformers",
    "tensorboard=false",
    "learner.token_budget=4096",
    "learner.warmup_steps=0",
    "rollout.group_size=2",
    "rollout.groups_per_step=24",
    "rollout.max_staleness=0",
]


def opd(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["distill", "opd", *SETTINGS, *map(str, words)])


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("signal", ["student_topk", "sampled"])
def test_a_student_comes_nearer_to_its_teacher(tmp_path: Path, teacher: Path, data: Path, signal: str) -> None:
    run = tmp_path / "run"
    words = ["--teacher", teacher, "--signal", signal, f"data.path={data}", f"run_dir={run}"]
    done = opd(*words, "steps=8", "learner.learning_rate=1.5e-3")
    assert done.exception is None, done.output
    distance = [line["teacher/all/reverse_kl"] for line in metrics(run)]
    assert len(distance) == 8 and sum(distance[-2:]) < 0.8 * sum(distance[:2])

    record = read_provenance(run / "policy")
    assert record is not None and record.licences() == ["llama3.1"]
    assert "Built with Llama" in (run / "policy" / "NOTICE").read_text()
    refused = CliRunner().invoke(app, ["distill", "export", str(run / "policy"), str(tmp_path / "student")])
    assert isinstance(refused.exception, LicenceRefused) and not (tmp_path / "student").exists()
    exported = CliRunner().invoke(app, ["distill", "export", str(run / "policy"), str(tmp_path / "Llama-student")])
    assert exported.exit_code == 0 and "Built with Llama" in exported.output
    assert (tmp_path / "Llama-student" / "NOTICE").is_file()

    again = CliRunner().invoke(app, ["distill", "opd", "--resume", f"run_dir={run}", "steps=9"])
    assert again.exception is None, again.output
    assert [line["step"] for line in metrics(run)] == list(range(1, 10))
    assert metrics(run)[-1]["teacher/all/reverse_kl"] < 0.8 * distance[0]


def test_what_is_wrong_is_told_before_anything_is_made(tmp_path: Path, teacher: Path, data: Path) -> None:
    run = f"run_dir={tmp_path / 'run'}"
    cases: list[tuple[list[str], type[Exception]]] = [
        ([], TeacherError),
        (["--teacher", str(teacher), "--teacher", str(teacher)], TeacherError),
        (["--teacher", str(teacher), "--signal", "telepathy"], SignalError),
        (["--teacher", str(teacher), "--divergence", "jsd"], SignalError),
        (["--teacher", "mistralai/Mistral-Large-Instruct-2411"], LicenceRefused),
        (["--teacher", "http://127.0.0.1:1/v1"], TeacherError),
    ]
    for words, kind in cases:
        done = opd(*words, f"data.path={data}", run)
        assert isinstance(done.exception, kind), (words, done.exception)
    assert not (tmp_path / "run").exists()


def test_the_words_of_a_teacher() -> None:
    assert teacher_word("Qwen/Qwen3-8B") == TeacherWord("all", "Qwen/Qwen3-8B", None)
    assert teacher_word("math=/models/m") == TeacherWord("math", "/models/m", None)
    assert teacher_word("code=http://h:8000/v1#big") == TeacherWord("code", "big", "http://h:8000/v1")
