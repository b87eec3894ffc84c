"""On-policy distillation, whole: from the command line, with a teacher in the same process, and on again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner, Result

from rlvr.checkpoint import CheckpointError
from rlvr.cli import app
from rlvr.demo.problems import Split, write_jsonl
from rlvr.distill.licence import LicenceRefused
from rlvr.distill.opd import TeacherWord, teacher_word
from rlvr.distill.provenance import read_provenance
from rlvr.distill.signals import SignalError
from rlvr.distill.teachers import TeacherError
from rlvr.distill.tokenizers import TokenizerMismatch
from rlvr.training import TrainingStopped

from .conftest import BASE
from .test_spans import words as words_tokenizer

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

    of_teachers = run / "checkpoints" / "step-000008" / "teaching"
    of_teachers.rename(tmp_path / "aside")
    older = CliRunner().invoke(app, ["distill", "opd", "--resume", f"run_dir={run}", "steps=9"])
    assert isinstance(older.exception, CheckpointError) and "has no folder teaching/" in str(older.exception)
    (tmp_path / "aside").rename(of_teachers)
    again = CliRunner().invoke(app, ["distill", "opd", "--resume", f"run_dir={run}", "steps=9"])
    assert again.exception is None, again.output
    assert [line["step"] for line in metrics(run)] == list(range(1, 10))
    assert metrics(run)[-1]["teacher/all/reverse_kl"] < 0.8 * distance[0]


def test_a_run_that_loses_what_it_had_stops_with_a_checkpoint_from_before(
    tmp_path: Path, teacher: Path, data: Path
) -> None:
    run, held_out = tmp_path / "run", tmp_path / "held_out.jsonl"
    write_jsonl(held_out, Split.HELD_OUT, 48, 0)
    evaluation = ["path", held_out], ["prompt", "question"], ["max_prompt_tokens", 128]
    words = [f"evaluation.data.{name}={value}" for name, value in evaluation]
    words += ["evaluation.every_steps=1", "checkpoint.every_steps=1", "reward=math_answer", f"data.path={data}"]
    words += ["--teacher", str(teacher), "--max-regression", "0.1", f"run_dir={run}"]
    begun = opd(*words, "steps=1", "learner.learning_rate=1e-6")
    assert begun.exception is None, begun.output
    start = metrics(run)[0]["teacher/all/accuracy"]
    assert start > 0.15, "there is something to lose"
    # A resume knows it from the checkpoint: what is told of a run is for its readers.
    told = [{name: v for name, v in line.items() if "accuracy" not in name} for line in metrics(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))

    wrecked = ["distill", "opd", "--resume", f"run_dir={run}", "steps=9", "learner.learning_rate=0.05"]
    done = CliRunner().invoke(app, wrecked)
    assert isinstance(done.exception, TrainingStopped), done.output
    found = re.search(r"tag all: held-out accuracy (\S+), at the start (\S+) .*export (\S+) ", str(done.exception))
    assert found is not None, done.exception
    lost, at_start, folder = float(found[1]), float(found[2]), Path(found[3])
    assert at_start == pytest.approx(start, abs=1e-3) and lost < start - 0.1
    assert "held-out accuracy" in (run / "events.jsonl").read_text()

    exported = CliRunner().invoke(app, ["export", str(folder), "--out", str(tmp_path / "kept")])
    assert exported.exception is None, exported.output
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "kept", dtype=torch.float32).state_dict()
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).state_dict()
    assert max((kept[name] - base[name]).abs().max().item() for name in base) < 1e-4, "as it was before the fall"


def test_a_teacher_with_another_tokenizer_teaches_on_spans_alone(tmp_path: Path, data: Path) -> None:
    folder, run = tmp_path / "teacher", tmp_path / "run"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = words_tokenizer()
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    words = ["--teacher", folder, "--license", f"{folder}=mit", f"data.path={data}", f"run_dir={run}", "steps=2"]
    refused = opd(*words)
    assert isinstance(refused.exception, TokenizerMismatch) and "--signal spans" in str(refused.exception)
    done = opd(*words, "--signal", "spans")
    assert done.exception is None, done.output
    for line in metrics(run):
        # A random teacher finds each token about as likely as any other of its 658.
        assert line["teacher/all/reverse_kl"] > 1 and "teacher/all/unread" not in line


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_under_ray_the_sampler_is_vllm_and_the_teacher_is_asked_the_same(
    tmp_path: Path, teacher: Path, data: Path
) -> None:
    """Asynchronous, at a temperature. The first step's distance is that which transformers finds in its rollouts."""
    run, temperature = tmp_path / "run", 0.7
    settings = [word for word in SETTINGS if not word.startswith(("cluster.", "generator.", "rollout.max_staleness"))]
    words = ["--teacher", teacher, f"data.path={data}", f"run_dir={run}", "steps=5", "learner.learning_rate=1e-3"]
    command = [sys.executable, "-m", "rlvr.cli", "distill", "opd", *settings, f"sampling.temperature={temperature}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line["teacher/all/reverse_kl"] for line in metrics(run)]
    assert len(told) == 5 and told[-1] < told[0]

    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (BASE, teacher)]
    gaps, worst = [], 0.0
    for row in pq.read_table(run / "rollouts" / "step-000001.parquet").to_pylist():
        assert row["fate"] == "trained" and set(row["versions"]) == {0}
        ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
        first = len(row["prompt_ids"])
        with torch.no_grad():
            at = [(model(ids).logits[0, first - 1 : -1] / temperature).log_softmax(-1) for model in models]
        student, of_teacher = (one.gather(1, ids[0, first:, None])[:, 0] for one in at)
        worst = max(worst, (student - torch.tensor(row["logprobs"])).abs().max().item())
        gaps += (student - of_teacher).tolist()
    assert worst < 1e-4
    assert told[0] == pytest.approx(sum(gaps) / len(gaps), abs=1e-4)


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
