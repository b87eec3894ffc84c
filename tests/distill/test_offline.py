"""Off-policy distillation, whole: a teacher's answers, what it says of their tokens, and students of both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from rlvr.cli import app
from rlvr.data import DataError
from rlvr.distill.licence import LicenceRefused
from rlvr.distill.provenance import read_provenance
from rlvr.distill.store import StoreError, TeacherStore
from rlvr.distill.teachers import TeacherError
from rlvr.plugins import CommandError

BASE = Path(__file__).parents[2] / "rlvr" / "demo" / "base"
SETTINGS = [
    *("model=tiny", "data.prompt=question", "data.max_prompt_tokens=128", "sampling.max_new_tokens=44"),
    *("cluster.backend=local", "generator.engine=transformers", "tensorboard=false", "reward=math_answer"),
    *("learner.token_budget=4096", "learner.warmup_steps=0", "learner.learning_rate=1.5e-3"),
    "sft.rows_per_step=16",
]


def distill(verb: str, *words: str | Path) -> Result:
    return CliRunner().invoke(app, ["distill", verb, *SETTINGS, *map(str, words)])


def metrics(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, teacher: Path, data: Path) -> tuple[Path, str]:
    """A file of rows, and what was printed."""
    out = tmp_path_factory.mktemp("rows") / "rows.parquet"
    done = distill("sample", "--teacher", teacher, "-o", out, "-n", 6, "--cap", 2, f"data.path={data}")
    assert done.exception is None, done.output
    return out, done.output


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, teacher: Path, data: Path, sampled: tuple[Path, str]) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    words = ["--teacher", teacher, "--rows", sampled[0], "-o", folder, "--k", 16, f"data.path={data}"]
    done = distill("capture", *words)
    assert done.exception is None, done.output
    return folder


def test_what_is_kept_is_right_whole_and_different(sampled: tuple[Path, str], teacher: Path) -> None:
    file, printed = sampled
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    assert f"{len(rows)} of {24 * 6} answers kept" in printed
    of_task = Counter(row["task"] for row in rows)
    assert max(of_task.values()) <= 2
    assert len({(row["task"], row["completion"]) for row in rows}) == len(rows)
    for row in rows:
        assert rf"\boxed{{{row['answer']}}}" in row["completion"], "the verifier's verdict, seen by hand"
        assert row["messages"][-1]["content"] == row["question"]
        assert (row["verifier"], row["score"], row["licences"]) == ("math_answer", 1.0, ["llama3.1"])
        assert row["teacher"] == str(teacher)
    record = read_provenance(file)
    assert record is not None and record.licences() == ["llama3.1"]
    assert "Built with Llama" in file.with_name("rows.parquet.NOTICE").read_text()


def test_a_student_learns_a_teachers_answers(tmp_path: Path, sampled: tuple[Path, str], data: Path) -> None:
    run = tmp_path / "run"
    asked = (f"evaluation.data.path={sampled[0]}", "evaluation.data.prompt=messages", "evaluation.data.limit=8")
    done = distill("sft", "--rows", sampled[0], *asked, f"run_dir={run}", "steps=8")
    assert done.exception is None, done.output
    # Held-out rows with answers are both: tasks to answer, and examples whose loss is known.
    before, after = metrics(run, "evaluation/cross_entropy")
    assert after < 0.8 * before and f"held-out cross-entropy {before:.4f} -> {after:.4f}" in done.output
    assert len(metrics(run, "evaluation/pass@1")) == 2 and "held-out accuracy " in done.output
    assert pq.read_metadata(run / "evaluations" / "step-000008.parquet").num_rows == 8
    losses = metrics(run, "learner/cross_entropy")
    assert len(losses) == 8 and losses[-1] < 0.8 * losses[0]
    record = read_provenance(run / "policy")
    assert record is not None and record.licences() == ["llama3.1"] and record.made_by == "distill sft"


def test_a_student_learns_what_a_store_says(tmp_path: Path, store: Path) -> None:
    run = tmp_path / "run"
    done = distill("logits", "--store", store, f"run_dir={run}", "steps=8", "--divergence", "jsd:0.5")
    assert done.exception is None, done.output
    distances = metrics(run, "learner/divergence")
    assert len(distances) == 8 and distances[-1] < 0.8 * distances[0]
    assert (run / "policy" / "NOTICE").is_file() and (run / "report.html").is_file()


def test_a_store_knows_its_rows_and_what_it_was_asked(store: Path, sampled: tuple[Path, str]) -> None:
    held = TeacherStore(store)
    assert held.rows == len(pq.read_table(sampled[0])) and (held.header.k, held.header.temperature) == (16, 1.0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for stored, row in zip(held, pq.read_table(sampled[0]).to_pylist(), strict=True):
        assert tokenizer.decode(stored.token_ids[stored.first : -1]) == row["completion"]
        assert stored.token_ids[-1] == tokenizer.eos_token_id


def test_what_does_not_fit_is_told_before_anything_is_made(
    tmp_path: Path, store: Path, sampled: tuple[Path, str], teacher: Path, data: Path
) -> None:
    run = ["run_dir=" + str(tmp_path / "run"), f"data.path={data}"]
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"messages": [{"role": "user", "content": "?"}], "completion": "no " * 9000}))
    cases: list[tuple[str, list[str | Path], type[Exception], str]] = [
        ("logits", ["--store", store, "sampling.temperature=0.5"], StoreError, "captured at temperature 1"),
        ("logits", ["--store", tmp_path], StoreError, "no finished teacher store"),
        ("sft", ["--rows", long], DataError, "every example is longer than learner.token_budget=4096"),
        ("sft", ["--rows", data], DataError, "no column 'messages'"),
        ("capture", ["--rows", sampled[0], "--teacher", teacher, "-o", store, "--k", "16"], StoreError, "finished"),
        ("sample", ["--teacher", teacher, "-o", sampled[0]], TeacherError, "exists already"),
        ("sample", ["--teacher", "meta-llama/Llama-2-7b-hf", "-o", tmp_path / "new"], LicenceRefused, "llama2"),
    ]
    for verb, words, kind, message in cases:
        done = distill(verb, *words, *run)
        assert isinstance(done.exception, kind) and message in str(done.exception), (verb, done.exception)
    assert not (tmp_path / "run").exists() and not (tmp_path / "new").exists()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """How many threads add up a sum decides on its last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_to_the_weights_of_one_that_was_not(tmp_path: Path, store: Path) -> None:
    """Bit for bit, and with the divergence it was started with."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ["--store", str(store), "--divergence", "reverse", "steps=40", "checkpoint.every_steps=4"]
    assert distill("logits", *words, f"run_dir={whole}").exception is None
    command = [sys.executable, "-m", "rlvr.cli", "distill", "logits", *SETTINGS, *words, f"run_dir={killed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/step-??????")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint to be killed after"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "policy").exists(), "killed before its end"
    resumed = CliRunner().invoke(app, ["distill", "logits", "--resume", f"run_dir={killed}"])
    assert resumed.exception is None, resumed.output
    assert metrics(killed, "learner/divergence") == metrics(whole, "learner/divergence")
    one, other = (load_file(run / "policy" / "model.safetensors") for run in (whole, killed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    record = read_provenance(killed / "policy")
    assert record is not None and record.licences() == ["llama3.1"] and record.made_by == "distill logits"


def test_a_run_of_another_verb_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: tiny\ndata: none\n")
    done = CliRunner().invoke(app, ["distill", "sft", "--resume", f"run_dir={tmp_path}"])
    assert isinstance(done.exception, CommandError) and "not a run of `rlvr distill sft`" in str(done.exception)
