"""A teacher that is the moving average of the policy's versions: its weights, what it says, and that it is resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from typer.testing import CliRunner

from rlvr.checkpoint import CheckpointError
from rlvr.cli import app
from rlvr.config import Config, DType
from rlvr.config_loading import check
from rlvr.data import render_prompt
from rlvr.demo.problems import Split, problems
from rlvr.distill.average import AveragedPolicy, averaged_policy
from rlvr.distill.opd import OPDOptions, run_opd
from rlvr.distill.provenance import read_provenance
from rlvr.distill.teachers import TeacherError
from rlvr.export import export_policy
from rlvr.generate.pool import StaleGenerator
from rlvr.types import ScoreRequest
from rlvr.weights.transport import publish_file
from rlvr.weights.update import WeightReceipt, WeightUpdate

from .conftest import BASE
from .test_opd import metrics, opd

Weights = dict[str, torch.Tensor]
TEXT = (5, 17, 200, 31, 8, 40, 41, 42)


def config(**settings: object) -> Config:
    return check(
        {
            "model": {"name": "tiny"},
            "data": {"path": "unused.jsonl", "prompt": "question", "max_prompt_tokens": 128},
            "sampling": {"max_new_tokens": 44},
            "cluster": {"backend": "local"},
            "generator": {"engine": "transformers"},
        }
        | settings
    )


def base() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def versions(number: int) -> Iterator[Weights]:
    """The base model, and what it might have become."""
    random = torch.Generator().manual_seed(0)
    weights = load_file(BASE / "model.safetensors")
    for _ in range(number):
        yield {name: tensor.clone() for name, tensor in weights.items()}
        weights = {n: t + 0.02 * torch.randn(t.shape, generator=random) for n, t in weights.items()}


def mean(of: list[Weights], rate: float) -> Weights:
    """The closed form, in float64: version v of n counts rate (1 - rate)^(n - v), the first what is left."""
    n = len(of) - 1
    shares = [(1 - rate) ** n, *(rate * (1 - rate) ** (n - v) for v in range(1, n + 1))]
    assert sum(shares) == pytest.approx(1)
    return {name: sum(share * one[name].double() for share, one in zip(shares, of, strict=True)) for name in of[0]}


def logprobs(weights: Weights, text: tuple[int, ...] | list[int], first: int) -> torch.Tensor:
    """What a model with these weights says of each token of the text from the first on."""
    model = base()
    left = model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    assert left.unexpected_keys == [] and set(left.missing_keys) <= {"lm_head.weight"}
    with torch.no_grad():
        said = model(torch.tensor([text])).logits[0, first - 1 : -1].log_softmax(-1)
    return said.gather(1, torch.tensor(text[first:])[:, None])[:, 0]


def saved(teacher: AveragedPolicy, folder: Path) -> Weights:
    folder.mkdir()
    teacher.state()(folder)
    return load_file(folder / "average.safetensors")


def largest(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


async def test_after_each_version_it_is_their_average_and_answers_with_it(tmp_path: Path) -> None:
    of, rate = list(versions(4)), 0.3
    teacher, goes_on = averaged_policy(config(), rate), averaged_policy(config(), rate)
    await teacher.start()
    for version, weights in enumerate(of[:3]):
        update = publish_file(tmp_path, version, weights, DType.FLOAT32)
        await teacher.published(update)
        await teacher.published(update)  # as a resumed run does; it counts once
    scores = await teacher.score(ScoreRequest(TEXT, 3))
    assert scores.version == 2
    said = torch.tensor(scores.logprobs)
    assert (said - logprobs(mean(of[:3], rate), TEXT, 3)).abs().max() < 1e-4
    assert (said - logprobs(of[2], TEXT, 3)).abs().max() > 1e-2, "it is not the policy"

    write = teacher.state()
    last = publish_file(tmp_path, 3, of[3], DType.FLOAT32)
    await teacher.published(last)
    (tmp_path / "then").mkdir()
    write(tmp_path / "then")  # what was there when it was asked for
    assert largest(load_file(tmp_path / "then" / "average.safetensors"), mean(of[:3], rate)) < 1e-6
    whole = saved(teacher, tmp_path / "whole")
    assert largest(whole, mean(of, rate)) < 1e-6
    assert {tensor.dtype for tensor in whole.values()} == {torch.float32}

    await goes_on.start()
    await goes_on.load(tmp_path / "then")
    assert (await goes_on.score(ScoreRequest(TEXT, 3))).logprobs.tolist() == scores.logprobs.tolist()
    await goes_on.published(last)
    resumed = saved(goes_on, tmp_path / "resumed")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole), "bit for bit"
    await teacher.close()
    await goes_on.close()


async def test_what_bfloat16_would_swallow_adds_up(tmp_path: Path) -> None:
    """A policy that moves by one step of its number format: of that, a version adds a twentieth."""
    first = {name: tensor.bfloat16().float() for name, tensor in next(versions(1)).items()}
    then = {name: torch.where(t.abs() > 1e-3, t * (1 + 2**-7), t).bfloat16().float() for name, t in first.items()}
    teacher = averaged_policy(config(generator={"engine": "transformers", "dtype": "bfloat16"}), 0.05)
    await teacher.start()
    for version in range(41):
        await teacher.published(publish_file(tmp_path, version, then if version else first, DType.BFLOAT16))
    average = saved(teacher, tmp_path / "saved")
    await teacher.close()
    assert largest(average, mean([first] + 40 * [then], 0.05)) < 1e-6
    assert largest(average, then) < 0.2 * largest(first, then)


@pytest.fixture
def greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator's random numbers begin again with its process: where they matter no two runs are alike."""
    monkeypatch.setattr("rlvr.generate.transformers.draw", lambda logprobs, samplings, random: logprobs.argmax(-1))


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    file, stream = tmp_path / "train.jsonl", problems(Split.TRAIN, 3)
    made = [(next(stream), tag) for tag in ("a", "b") * 8]
    rows = [{"question": problem.prompt, "answer": problem.answer, "tag": tag} for problem, tag in made]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_run_that_goes_on_is_taught_by_the_same_average(
    tmp_path: Path, tagged: Path, teacher: Path, greedy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One average teaches two tags, beside another teacher. Of the run's own versions it is the closed form."""
    made: list[AveragedPolicy] = []

    def make(*args: object) -> AveragedPolicy:
        made.append(averaged_policy(*args))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr("rlvr.distill.opd.averaged_policy", make)
    run, killed = tmp_path / "run", tmp_path / "killed"
    words: list[str | Path] = ["--teacher", "a=ema", "--teacher", "b=ema", "--teacher", f"c={teacher}"]
    words += ["--ema-rate", "0.4", "--teacher-prompt", "{answer} {prompt}", f"data.path={tagged}"]
    words += ["rollout.groups_per_step=1"]  # which answers share a batch, and so their last bits, is always the same
    words += ["learner.learning_rate=1e-2", "checkpoint.every_steps=1", "checkpoint.keep=9", "steps=4"]
    words += ["--signal", "sampled", f"run_dir={run}"]
    done = opd(*words)
    assert done.exception is None, done.output
    assert len(made) == 1
    record = read_provenance(run / "policy")
    assert record is not None and record.licences() == ["llama3.1"], "the student is no teacher of itself"

    for step in range(1, 5):
        export_policy(run / "checkpoints" / f"step-{step:06d}", tmp_path / f"v{step}")
    folders = [BASE, *(tmp_path / f"v{step}" for step in range(1, 5))]
    of = [load_file(folder / "model.safetensors") for folder in folders]
    assert largest(of[0], of[4]) > 1e-3
    average = load_file(run / "checkpoints" / "step-000004" / "teaching" / "average.safetensors")
    assert largest(average, mean(of, 0.4)) < 1e-6
    told = [value for line in metrics(run) for name, value in line.items() if name.endswith("/reverse_kl")]
    assert told[3] == pytest.approx(gap_at_the_last_step(run, tagged, mean(of[:4], 0.4)), abs=1e-5)
    assert abs(told[3] - gap_at_the_last_step(run, tagged, of[3])) > 1e-3, "it is not the policy"

    shutil.copytree(run, killed)
    for later in (killed / "policy", *(killed / "checkpoints").glob("step-00000[34]")):
        shutil.rmtree(later)
    resumed = CliRunner().invoke(app, ["distill", "opd", "--resume", f"run_dir={killed}"])
    assert resumed.exception is None, resumed.output
    for file in ("policy/model.safetensors", "checkpoints/step-000004/teaching/average.safetensors"):
        assert (killed / file).read_bytes() == (run / file).read_bytes()
    assert [timeless(line) for line in metrics(killed)] == [timeless(line) for line in metrics(run)]


def gap_at_the_last_step(run: Path, tagged: Path, teacher: Weights) -> float:
    """Nats a token, from the sampler to a teacher with these weights that reads the answer before the question."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)

    def prompt(text: str) -> list[int]:
        return list(render_prompt(tokenizer, [{"role": "user", "content": text}]))

    (row, _) = pq.read_table(run / "rollouts" / "step-000004.parquet").to_pylist()
    tasks = [json.loads(line) for line in tagged.read_text().splitlines()]
    (task,) = [task for task in tasks if prompt(task["question"]) == row["prompt_ids"]]
    reads = prompt(f"{task['answer']} {task['question']}")
    said = logprobs(teacher, reads + row["token_ids"], len(reads))
    return (torch.tensor(row["logprobs"]) - said).mean().item()


def timeless(line: dict[str, float]) -> dict[str, float]:
    """The numbers that do not depend on how fast a machine is."""
    kinds = ("step", "teacher/", "policy/", "learner/")
    return {name: value for name, value in line.items() if name.startswith(kinds) and not name.endswith("/seconds")}


def test_it_begins_as_the_policy_and_differs_from_it_on_the_same_prompt(tmp_path: Path, data: Path) -> None:
    words = ["--teacher", "ema", f"data.path={data}", "steps=2", f"run_dir={tmp_path / 'run'}", "reward=math_answer"]
    done = opd(*words, "--reward-weight", "1", "learner.learning_rate=1e-2", "rollout.groups_per_step=8")
    assert done.exception is None, done.output
    first, second = (abs(line["teacher/all/reverse_kl"]) for line in metrics(tmp_path / "run"))
    assert first < 1e-4 and second > 1e-2


async def test_what_cannot_be_averaged_is_refused_before_anything_is_made(tmp_path: Path, data: Path) -> None:
    def run(rate: float = 0.05, **lora: object) -> None:
        of_data = {"path": str(data), "prompt": "question", "max_prompt_tokens": 128}
        settings = config(data=of_data, run_dir=str(tmp_path / "run"), model={"name": "tiny", "lora": lora})
        run_opd(settings, OPDOptions(("ema",), ema_rate=rate))

    for rate in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(TeacherError, match=r"--ema-rate .*above 0 and at most 1"):
            run(rate)
    with pytest.raises(TeacherError, match=r"set model\.lora\.publish=merged"):
        run(rank=4, publish="adapter")
    averaged_policy(config(model={"name": "tiny", "lora": {"rank": 4}}), 0.05)  # merged, the default
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match=r"average\.safetensors, the average of the policy's versions"):
        await averaged_policy(config(), 0.05).load(tmp_path)


class Forgets:
    """A generator that says it has taken an update, and holds something else."""

    async def update_weights(self, update: WeightUpdate) -> WeightReceipt:
        return WeightReceipt("teacher-0", update.version, update.checksum + 1, 0.0)


async def test_an_engine_that_holds_other_weights_than_the_average_stops_the_run(tmp_path: Path) -> None:
    teacher = AveragedPolicy(Forgets(), DType.FLOAT32, 0.5)  # type: ignore[arg-type]
    with pytest.raises(StaleGenerator, match="teacher-0 holds other weights"):
        await teacher.published(publish_file(tmp_path, 0, next(versions(1)), DType.FLOAT32))
