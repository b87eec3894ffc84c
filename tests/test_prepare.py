"""What can be known before an engine is started is said then."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from rlvr.api import train
from rlvr.config import Config, RewardSpec
from rlvr.config_loading import ConfigError, check, load_config, merge, to_yaml
from rlvr.data import DataError
from rlvr.plugins import PluginError
from rlvr.prepare import Job, PreparationError, bind, load_reward, open_run, prepare, stop_token_ids
from rlvr.reward_function import LinearWeight, Reward, reward
from rlvr.rollout.scoring import RewardError
from rlvr.run_folder import RunFolderError

MakeConfig = Callable[..., Config]

REWARDS = """
def right(completion, answer, strict=False):
    return float(completion == answer)

def needs_solution(completion, solution):
    return 1.0

NOT_A_FUNCTION = 3

class Game:
    def __init__(self, level):
        self.level = level
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model's folder without weights: nothing here may need them."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return folder


@pytest.fixture
def make_config(tmp_path: Path, model: Path) -> MakeConfig:
    """A config that can be run, with changes."""
    (tmp_path / "rewards.py").write_text(REWARDS)
    rows = [{"prompt": "2+2?", "answer": "4"}, {"prompt": "3*3?", "answer": "9"}]
    for name in ("train.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(*words: str, **settings: Any) -> Config:
        base = {"model": str(model), "data": str(tmp_path / "train.jsonl"), "reward": f"{tmp_path}/rewards.py:right"}
        return load_config([], words, merge(base, settings))

    return make


def test_a_config_that_fits_is_a_job(make_config: MakeConfig, tmp_path: Path) -> None:
    job = prepare(make_config(evaluation={"data": str(tmp_path / "held_out.jsonl")}))
    assert [r.name for r in job.rewards] == ["right"]
    assert len(job.tasks.tasks) == 2 and job.held_out is not None and len(job.held_out.tasks) == 2
    assert job.make_env() is not job.make_env(), "an env of its own for every episode"
    assert job.sampling().temperature == 1.0 and job.evaluation_sampling().temperature == 0.0
    assert job.sampling().stop_token_ids == (job.tokenizer.eos_token_id,)


def test_rewards_given_as_objects_take_the_place_of_those_named(make_config: MakeConfig) -> None:
    given = reward(name="mine")(lambda completion: 1.0)
    assert prepare(make_config(), [given]).rewards == [given]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model": "{tmp}"}, PreparationError, ["model.name={tmp}", "no config.json"]),
        ({"data": "{tmp}/none.jsonl"}, DataError, ["no file at {tmp}/none.jsonl"]),
        ({"evaluation": {"data": "{tmp}/none.jsonl"}}, DataError, ["no file at {tmp}/none.jsonl"]),
        ({"reward": {"functions": []}}, PreparationError, ["reward: must be set", "math_answer"]),
        ({"reward": "{tmp}/rewards.py:wrong"}, PluginError, ["has no 'wrong'"]),
        ({"reward": "{tmp}/rewards.py:NOT_A_FUNCTION"}, PreparationError, ["expected a function, found a int"]),
        ({"reward": "{tmp}/rewards.py:needs_solution"}, RewardError, ["takes solution", "prompt, answer"]),
        (
            {"reward": {"functions": [{"use": "{tmp}/rewards.py:right", "arguments": {"strct": True}}]}},
            PreparationError,
            ["takes no strct", "it takes completion, answer, strict"],
        ),
        (
            {"reward": {"functions": [{"use": "{tmp}/rewards.py:right", "weight": 0}]}},
            RewardError,
            ["weight other than 0"],
        ),
        ({"reward": ["{tmp}/rewards.py:right", "{tmp}/rewards.py:right"]}, RewardError, ["names of their own"]),
        ({"env": "no_such_env"}, PluginError, ["no env named 'no_such_env'", "single_turn"]),
        ({"env": "{tmp}/rewards.py:NOT_A_FUNCTION"}, PreparationError, ["env.use", "expected a class"]),
        ({"env": "{tmp}/rewards.py:Game"}, PreparationError, ["env.arguments", "level"]),
        (
            {"env": {"use": "single_turn", "arguments": {"tools": 3}}},
            PreparationError,
            ["env.arguments", "unexpected keyword argument 'tools'"],
        ),
        ({"sampling": {"stop": ["two"]}}, PreparationError, ["sampling.stop: 'two' is 3 tokens", "exactly one"]),
    ],
)
def test_what_does_not_fit_is_refused(
    make_config: MakeConfig, tmp_path: Path, settings: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    settings = json.loads(json.dumps(settings).replace("{tmp}", str(tmp_path)))
    with pytest.raises(error) as caught:
        prepare(make_config(**settings))
    assert [w for w in words if w.replace("{tmp}", str(tmp_path)) not in str(caught.value)] == [], caught.value


def test_held_out_tasks_must_have_what_a_reward_takes(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "2+2?", "answer": "4", "solution": "4"}) + "\n")
    settings = {"reward": f"{tmp_path}/rewards.py:needs_solution", "evaluation": {"data": f"{tmp_path}/held_out.jsonl"}}
    with pytest.raises(RewardError, match="takes solution"):
        prepare(make_config(**settings))


def test_prompts_that_are_left_out_are_told(make_config: MakeConfig, tmp_path: Path) -> None:
    assert prepare(make_config()).notices() == []
    row = {"prompt": "2+2? " * 99, "answer": "4"}
    for name in ("train.jsonl", "held_out.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write(json.dumps(row) + "\n")
    held_out = {"path": str(tmp_path / "held_out.jsonl"), "max_prompt_tokens": 64}
    job = prepare(make_config("data.max_prompt_tokens=65", evaluation={"data": held_out}))
    assert job.notices() == [
        "1 prompts of data are longer than its max_prompt_tokens=65 and left out; 2 remain",
        "1 prompts of evaluation.data are longer than its max_prompt_tokens=64 and left out; 2 remain",
    ]


def test_held_out_prompts_that_generators_have_no_room_for_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    """Generators are started for the training data's longest prompt."""
    (tmp_path / "held_out.jsonl").write_text(json.dumps({"prompt": "2+2? " * 99, "answer": "4"}) + "\n")
    config = make_config("data.max_prompt_tokens=64", evaluation={"data": str(tmp_path / "held_out.jsonl")})
    with pytest.raises(PreparationError, match=r"data\.max_prompt_tokens=64: raise that to \d+, or set evaluation"):
        prepare(config)


def test_an_engine_that_is_not_installed_is_told_with_how_to_install_it(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PreparationError, match=r"python -m rlvr.install_cpu_engine.*generator.engine=transformers"):
        prepare(make_config("generator.engine=vllm"))


def test_an_optimizer_that_is_not_installed_is_told_where_the_learner_runs_here(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PreparationError, match="pip install bitsandbytes"):
        prepare(make_config("learner.optimizer=adamw_8bit"))
    prepare(make_config("learner.optimizer=adamw_8bit", "cluster.address=ray://elsewhere:10001"))


def test_a_base_in_4_bits_is_refused_where_it_cannot_be(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["model.lora={rank: 8, quantize: true}", "learner.device=cpu"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PreparationError, match="pip install bitsandbytes"):
        prepare(make_config(*words))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(PreparationError, match="needs a GPU"):
        prepare(make_config(*words))


@pytest.mark.parametrize("word", ["learner.router.balance_loss=0.1", "learner.router.frozen=true"])
def test_settings_of_routers_are_refused_for_a_dense_model(make_config: MakeConfig, word: str) -> None:
    with pytest.raises(PreparationError, match=r"is for a mixture of experts, and model\.name=.* is dense"):
        prepare(make_config(word))


# -------------------------------------------------------------------- parts


def test_a_named_reward_gets_its_weight_and_its_fixed_arguments() -> None:
    def near(completion: str, tolerance: float = 0.0) -> float:
        return tolerance

    bound = bind(Reward(near, "near"), RewardSpec(use="near", weight=0.5, arguments={"tolerance": 0.25}))
    assert (bound.name, bound.weight, bound("x")) == ("near", 0.5, 0.25)
    assert bound.required == ["completion"]


def test_a_short_name_is_a_reward_with_its_weight() -> None:
    assert load_reward(RewardSpec(use="math_answer", weight=0.5)).weight == 0.5


def test_what_ends_a_turn_is_the_tokenizers_the_models_and_the_users(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>", "#"])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids[0], ids[1]]}))
    assert stop_token_ids(tokenizer, ["#"], str(tmp_path)) == tuple(sorted(ids))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids[1]}))
    assert stop_token_ids(tokenizer, [], str(tmp_path)) == tuple(sorted(ids[:2]))


# -------------------------------------------------------------------- the run's folder


@pytest.fixture
def open_at(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Any]:
    return functools.partial(open_run, make_config(run_dir=str(tmp_path / "run")))


def test_a_new_run_makes_its_folder(open_at: Callable[..., Any], tmp_path: Path) -> None:
    folder, checkpoint = open_at(resume=False)
    assert folder.path == tmp_path / "run" and folder.path.is_dir() and checkpoint is None


def test_two_runs_are_never_mixed(open_at: Callable[..., Any]) -> None:
    folder, _ = open_at(resume=False)
    folder.metrics.write_text("{}\n")
    with pytest.raises(RunFolderError, match="already holds a run: go on with --resume"):
        open_at(resume=False)


def test_a_resume_without_a_checkpoint_is_refused(open_at: Callable[..., Any]) -> None:
    open_at(resume=False)
    with pytest.raises(PreparationError, match="holds no checkpoint"):
        open_at(resume=True)


def test_a_resume_goes_on_from_the_newest_checkpoint(open_at: Callable[..., Any]) -> None:
    folder, _ = open_at(resume=False)
    for step in (5, 10):
        (folder.checkpoints / f"step-{step:06d}").mkdir(parents=True)
        (folder.checkpoints / f"step-{step:06d}" / "state.json").write_text(json.dumps({"step": step, "version": step}))
    _, checkpoint = open_at(resume=True)
    assert checkpoint.state.step == 10


def test_a_job_cannot_be_changed(make_config: MakeConfig) -> None:
    job: Job = prepare(make_config())
    with pytest.raises(AttributeError):
        job.rewards = []  # type: ignore[misc]


# -------------------------------------------------------------------- several rewards


def test_rewards_are_combined_as_the_config_says(make_config: MakeConfig, tmp_path: Path) -> None:
    ramp = {"start": 0.0, "end": 0.5, "from_step": 10, "to_step": 20}
    functions = [f"{tmp_path}/rewards.py:right", {"use": "format", "weight": ramp}]
    job = prepare(make_config(reward={"functions": functions, "combine": "gate"}))
    assert job.rewards[1].weight == LinearWeight(0.0, 0.5, from_step=10, to_step=20)
    assert job.verifier(job.tasks.tasks[0]) == "right"
    assert check(yaml.safe_load(to_yaml(job.config))) == job.config


TWO_KINDS = [
    {"use": "math_answer", "where": {"kind": "sum"}},
    {"use": "{folder}/rewards.py:needs_solution", "where": {"kind": "code"}},
]
SUM = {"prompt": "2+2?", "answer": "4", "kind": "sum"}
CODE = {"prompt": "f?", "answer": "", "kind": "code", "solution": "def f(): ..."}


def two_kinds(make_config: MakeConfig, folder: Path, *rows: dict[str, str]) -> Config:
    (folder / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    functions = [spec | {"use": str(spec["use"]).replace("{folder}", str(folder))} for spec in TWO_KINDS]
    return make_config(data=str(folder / "two.jsonl"), reward={"functions": functions})


def test_rows_of_two_kinds_have_a_reward_each(make_config: MakeConfig, tmp_path: Path) -> None:
    """A reward's columns are looked for in its own rows."""
    job = prepare(two_kinds(make_config, tmp_path, SUM, CODE))
    assert [job.verifier(task) for task in job.tasks.tasks] == ["math_answer", "needs_solution"]
    assert check(yaml.safe_load(to_yaml(job.config))) == job.config


@pytest.mark.parametrize(
    ("rows", "error", "word"),
    [
        ([SUM], PreparationError, "'needs_solution' judges the rows where kind='code', but the data has none"),
        ([SUM, CODE, {**SUM, "kind": "Sum"}], PreparationError, "no reward with a weight judges the row.*2\\+2"),
        ([SUM, {**SUM, "kind": "code"}], RewardError, "'needs_solution' takes solution"),
    ],
)
def test_rows_and_rewards_that_do_not_fit_are_refused(
    make_config: MakeConfig, tmp_path: Path, rows: list[dict[str, str]], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        prepare(two_kinds(make_config, tmp_path, *rows))


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"reward": {"functions": ["format"], "combine": "gate"}}, RewardError, "combine=gate is of two or more"),
        ({"reward": "kimi_length"}, RewardError, "'kimi_length' takes is_correct.*put the reward that says what"),
        (
            {"reward": {"functions": ["format"], "combine": "gdpo"}, "algorithm": {"advantage": "rloo"}},
            ConfigError,
            "reward.combine=gdpo divides.*advantage=rloo does not: leave algorithm.advantage unset",
        ),
        (
            {"reward": {"functions": [{"use": "format", "weight": {"start": 0, "end": 1, "to_step": 0}}]}},
            ConfigError,
            "expected 0 <= from_step < to_step",
        ),
        ({"reward": {"functions": [{"use": "format", "weight": {"start": 0, "to_step": 5}}]}}, ConfigError, "end"),
    ],
)
def test_rewards_that_do_not_go_together_are_refused(
    make_config: MakeConfig, settings: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        prepare(make_config(**settings))


def test_the_python_api_takes_what_a_config_takes(tmp_path: Path) -> None:
    """Up to the first thing that is missing, which is the model."""

    def right(completion: str, answer: str) -> float:
        return float(completion == answer)

    rows = [{"prompt": "2+2?", "answer": "4"}]
    with pytest.raises(RewardError, match="combine=gate is of two or more"):
        train("tiny", rows, {"functions": [right], "combine": "gate"}, run_dir=tmp_path / "one")
    ramp = LinearWeight(0.0, 0.2, to_step=100)
    rewards = {"functions": [right, reward(name="brief")(right).weighted(ramp)], "combine": "product", "retries": 7}
    with pytest.raises(ConfigError, match=r"reward\.retries"):
        train("tiny", rows, rewards, run_dir=tmp_path / "two")
