"""`rlvr export`: a folder that holds exactly the policy of a checkpoint, in the forms that others load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.config import Config
from rlvr.config_loading import to_yaml
from rlvr.export import ExportError
from rlvr.learn.learner import Learner
from rlvr.types import Row

from .conftest import make_rows

MakeConfig = Callable[..., Config]


def run_with(config: Config, folder: Path, steps: int = 2) -> tuple[Path, list[list[float]]]:
    """A run's folder with a checkpoint after each step, and what the last one's policy says of some rows."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(config))
    learner = Learner(config)
    learner.start()
    for step in range(1, steps + 1):
        learner.train(make_rows())
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        learner.save(checkpoint / "learner")
        learner.saved()
        (checkpoint / "state.json").write_text(f'{{"step": {step}, "version": {step}}}')
    return folder, learner.logprobs(make_rows())


def logprobs(network: nn.Module, row: Row) -> list[float]:
    ids = torch.tensor([row.token_ids])
    with torch.no_grad():
        given = network(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return [0.0, *given.gather(1, ids[0, 1:, None]).squeeze(1).tolist()]


def assert_says(network: nn.Module, expected: list[list[float]]) -> None:
    for row, of_row in zip(make_rows(), expected, strict=True):
        assert logprobs(network.eval(), row) == pytest.approx(of_row, abs=1e-4)


def export(*words: str) -> str:
    done = CliRunner().invoke(app, ["export", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("family", ["llama", "olmoe"])
@pytest.mark.parametrize("lora", [0, 2])
def test_the_folder_is_the_newest_checkpoints_policy(
    config: MakeConfig, tmp_path: Path, family: str, lora: int
) -> None:
    settings = config(family, model={"lora": {"rank": lora}} if lora else {})
    run, expected = run_with(settings, tmp_path / "run")
    told = export(str(run), "--out", str(tmp_path / "out"))
    assert "policy of version 2" in told
    assert_says(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "w1"


@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_an_adapter_fits_its_base_in_peft(config: MakeConfig, tmp_path: Path, family: str) -> None:
    settings = config(family, model={"lora": {"rank": 2}})
    run, expected = run_with(settings, tmp_path / "run")
    assert "adapter of version 2" in export(str(run), "--out", str(tmp_path / "out"), "--adapter")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(settings.model.name)
    assert_says(peft.PeftModel.from_pretrained(base, str(tmp_path / "out")), expected)


def test_one_checkpoint_and_a_number_format_can_be_named(config: MakeConfig, tmp_path: Path) -> None:
    run, newest = run_with(config("llama"), tmp_path / "run")
    first = run / "checkpoints" / "step-000001"
    assert "version 1" in export(str(first), "--out", str(tmp_path / "out"), "--dtype", "bfloat16")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert exported.dtype == torch.bfloat16
    assert logprobs(exported.float().eval(), make_rows()[0]) != pytest.approx(newest[0], abs=1e-2)


def test_what_cannot_be_exported_is_said(config: MakeConfig, tmp_path: Path) -> None:
    run, _ = run_with(config("llama"), tmp_path / "run", steps=1)

    def refused(*words: str) -> str:
        done = CliRunner().invoke(app, ["export", *words])
        assert isinstance(done.exception, ExportError)
        return str(done.exception)

    out = str(tmp_path / "out")
    assert "trained all parameters" in refused(str(run), "--out", out, "--adapter")
    assert "neither a run's folder" in refused(str(tmp_path), "--out", out)
    assert "is there already" in refused(str(run), "--out", str(run))
    (run / "checkpoints" / "step-000001" / "state.json").unlink()
    assert "neither a run's folder" in refused(str(run / "checkpoints" / "step-000001"), "--out", out)
    (run / "checkpoints").rename(run / "elsewhere")
    assert "no complete checkpoint" in refused(str(run), "--out", out)
    assert not Path(out).exists()


def test_a_base_in_four_bits_is_merged_on_a_gpu_alone(config: MakeConfig, tmp_path: Path) -> None:
    run, _ = run_with(config("llama", model={"lora": {"rank": 2}}), tmp_path / "run", steps=1)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("quantize: false", "quantize: true"))
    done = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ExportError)
    assert "merging needs that base" in str(done.exception)
    assert "adapter of version 1" in export(str(run), "--out", str(tmp_path / "out"), "--adapter")
