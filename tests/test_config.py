"""Configs: what is merged over what, what is refused and how it is said, and that every setting explains itself."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.fields import FieldInfo

from rlvr.config import Config, DataConfig, Engine, Section
from rlvr.config_loading import ConfigError, load_config, merge, to_yaml

LEAST = {"model": "m", "data": "d.jsonl"}
MOST_SETTINGS = 82


def config(*words: str, **settings: Any) -> Config:
    return load_config([], words, LEAST | settings)


def refusal(*words: str, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(*words, **settings)
    return str(caught.value)


# -------------------------------------------------------------------- merging


def test_words_lie_over_files_and_keywords_over_words(tmp_path: Path) -> None:
    low, high = tmp_path / "low.yaml", tmp_path / "high.yaml"
    low.write_text("model: m\ndata: d.jsonl\nsteps: 1\nseed: 1\nrollout: {group_size: 3, groups_per_step: 3}\n")
    high.write_text("seed: 2\nrollout: {group_size: 4}\n")
    merged = load_config(
        [low, high], ["rollout.group_size=5", "checkpoint.keep=5", "steps=5"], {"rollout": {"group_size": 6}}
    )
    assert (merged.model.name, merged.seed, merged.steps, merged.checkpoint.keep) == ("m", 2, 5, 5)
    assert (merged.rollout.group_size, merged.rollout.groups_per_step) == (6, 3)
    assert merged.rollout.max_staleness == Config(**LEAST).rollout.max_staleness  # type: ignore[arg-type]


def test_merging_changes_neither_tree() -> None:
    base, over = {"rollout": {"group_size": 3}}, {"rollout": {"group_size": 4}}
    merge(base, over)
    assert (base, over) == ({"rollout": {"group_size": 3}}, {"rollout": {"group_size": 4}})


def test_a_bare_value_is_its_sections_main_setting() -> None:
    short = config(reward="math_answer", env="single_turn", algorithm="grpo", evaluation={"data": "held.jsonl"})
    assert (short.model.name, short.data.path) == ("m", "d.jsonl")
    assert [function.use for function in short.reward.functions] == ["math_answer"]
    assert (short.env.use, short.algorithm.preset) == ("single_turn", "grpo")
    assert short.evaluation.data == DataConfig(path="held.jsonl")


def test_one_reward_or_several_with_weights() -> None:
    functions = config(reward=["math_answer", {"use": "format", "weight": 0.2}]).reward.functions
    assert [(function.use, function.weight) for function in functions] == [("math_answer", None), ("format", 0.2)]


def test_a_bare_value_and_other_settings_of_its_section_go_together() -> None:
    both = config("reward.deadline_s=3", "model.lora.rank=4", reward="math_answer")
    assert (both.reward.functions[0].use, both.reward.deadline_s) == ("math_answer", 3.0)
    assert (both.model.name, both.model.lora.rank) == ("m", 4)
    other_way = load_config([], ["model.lora.rank=4", "model=n", "data=d"], {})
    assert (other_way.model.name, other_way.model.lora.rank) == ("n", 4)


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("learner.learning_rate=1e-5", ("learner", "learning_rate"), 1e-5),
        ("learner.learning_rate=0.00001", ("learner", "learning_rate"), 1e-5),
        ("learner.betas=[0.8, 0.9]", ("learner", "betas"), (0.8, 0.9)),
        ("rollout.drop_zero_variance=false", ("rollout", "drop_zero_variance"), False),
        ("data.system=", ("data", "system"), ""),
        ("data.system=a=b", ("data", "system"), "a=b"),
        ("data.system=one", ("data", "system"), "one"),
        ("data.limit=null", ("data", "limit"), None),
        ("generator.engine=vllm", ("generator", "engine"), Engine.VLLM),
    ],
)
def test_words_are_read_as_people_write_them(word: str, path: tuple[str, str], value: object) -> None:
    section, name = path
    assert dict(config(word))[section].model_dump()[name] == value


# -------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("learner.lerning_rate=1", ["learner.lerning_rate: no such setting", "did you mean learner.learning_rate?"]),
        ("learner.lr=1", ["learner.lr: no such setting", "did you mean learner.learning_rate?"]),
        ("group_size=4", ["group_size: no such setting", "did you mean rollout.group_size?"]),
        ("model.lora.rnk=4", ["model.lora.rnk", "did you mean model.lora.rank?", "known here: rank, alpha, targets"]),
        ("zzz.qqq=4", ["zzz: no such setting; known here: model, data, reward"]),
        ("evaluation.data.pth=x", ["evaluation.data.pth: no such setting", "did you mean evaluation.data.path?"]),
    ],
)
def test_an_unknown_setting_is_named_with_the_nearest_and_the_known(word: str, words: list[str]) -> None:
    message = refusal(word)
    assert [w for w in words if w not in message] == [], message


def test_an_unknown_setting_in_a_list_is_named_with_its_place() -> None:
    assert "reward.functions.1.wait: no such setting; did you mean" in refusal(reward=["a", {"use": "b", "wait": 1}])


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("steps=many", ["steps: ", "valid integer", "got 'many'"]),
        ("steps=0", ["steps: ", "greater than or equal to 1", "got 0"]),
        ("algorithm.preset=grppo", ["algorithm.preset: ", "'dr_grpo'", "did you mean grpo?"]),
        ("generator.engine=vlm", ["generator.engine: ", "did you mean vllm?"]),
        ("learner=fast", ["learner: ", "got 'fast'"]),
        ("learner.betas=[0.9, 1.0]", ["learner.betas.1: ", "less than 1"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(word: str, words: list[str]) -> None:
    message = refusal(word)
    assert [w for w in words if w not in message] == [], message


def test_what_must_be_set_is_named_with_what_it_is() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([], [], {})
    assert "model: must be set" in str(caught.value) and "data: must be set" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data.path: must be set \(a .jsonl or .parquet file"):
        load_config([], [], {"model": "m", "data": {"limit": 3}})


def test_all_faults_are_told_at_once() -> None:
    message = refusal("steps=0", "seed=-1", "learner.lr=1")
    assert all(path in message for path in ("steps:", "seed:", "learner.lr:"))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["sampling.top_p=0.9"], ["sampling.top_p", "cannot reproduce"]),
        (["sampling.top_k=50"], ["sampling.top_k", "cannot reproduce"]),
        (["model.lora.publish=adapter"], ["model.lora.publish=adapter", "model.lora.rank"]),
        (["learner.optimizer=muon", "model.lora.rank=4"], ["learner.optimizer=adamw", "model.lora.rank=4"]),
        (["learner.updates_per_step=4", "rollout.groups_per_step=2"], ["learner.updates_per_step=4"]),
        (["model.lora.quantize=true"], ["model.lora.rank above 0"]),
        (["model.lora={rank: 8, quantize: true}", "learner.ranks=2"], ["learner.ranks=1"]),
        (["cluster.backend=local", "learner.ranks=2"], ["cluster.backend=ray"]),
        (["cluster.backend=local", "learner.offload=true"], ["learner.offload=false"]),
        (["cluster.backend=local", "generator.count=2"], ["generator.count=1", "cluster.backend=ray"]),
        (["sampling.max_new_tokens=9000"], ["learner.token_budget=8192", "= 10024 tokens", "raise it to 10024"]),
    ],
)
def test_what_cannot_be_together_is_refused_with_what_to_do(words: list[str], names: list[str]) -> None:
    message = refusal(*words)
    assert [name for name in names if name not in message] == [], message


@pytest.mark.parametrize(
    ("text", "word"),
    [("steps: [", "is not valid YAML"), ("- a\n- b", "expected settings as `key: value`, found a list")],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=word) as caught:
        load_config([file])
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_and_a_word_without_a_value_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config file at .*none.yaml"):
        load_config([tmp_path / "none.yaml"])
    assert "'steps' is not of the form key=value" in refusal("steps")
    assert "cannot read the value" in refusal("data.system=[a")


def test_a_checked_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().steps = 3  # type: ignore[misc]


# -------------------------------------------------------------------- writing


def test_a_config_that_is_written_reads_back_equal(tmp_path: Path) -> None:
    written = config(
        "learner.learning_rate=3e-6",
        reward=["math_answer", {"use": "my.module:f", "weight": 0.5, "arguments": {"limit": 3}}],
        model={"name": "m", "dtype": "bfloat16", "lora": {"rank": 8, "targets": ["q_proj"]}},
        evaluation={"data": {"path": "é.jsonl", "limit": 5}},
        run_dir="runs/one",
    )
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(written), encoding="utf-8")
    assert load_config([file]) == written


def test_every_setting_is_written_out() -> None:
    tree = yaml.safe_load(to_yaml(config("evaluation.data=held.jsonl")))
    for path, _ in all_settings(Config):
        value: Any = tree
        for name in path.split("."):
            assert name in value, path
            value = value[name]


# -------------------------------------------------------------------- every setting explains itself


def section_of(field: FieldInfo) -> type[Section] | None:
    choices = typing.get_args(field.annotation) if isinstance(field.annotation, types.UnionType) else ()
    for choice in (field.annotation, *choices):
        if isinstance(choice, type) and issubclass(choice, Section):
            return choice
    return None


def all_settings(section: type[Section], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner is None:
            yield f"{before}{name}", field
        else:
            yield from all_settings(inner, f"{before}{name}.")


SETTINGS = dict(all_settings(Config))


def test_there_are_few_settings() -> None:
    held_out = [path for path in SETTINGS if path.startswith("evaluation.data.")]  # those of `data`, a second time
    assert len(SETTINGS) - len(held_out) <= MOST_SETTINGS


@pytest.mark.parametrize("path", SETTINGS)
def test_a_setting_has_a_word_of_why_and_a_range(path: str) -> None:
    field = SETTINGS[path]
    assert field.description, "no description"
    choices = typing.get_args(field.annotation) or (field.annotation,)
    if any(choice in (int, float) for choice in choices):
        assert field.metadata, "a number without a range"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"learner": 5}, "learner: a section of settings, got 5; known in it: optimizer,"),
        ({"learner": None}, "learner: a section of settings, got nothing; leave it out; known in it: optimizer,"),
        ({"reward": {"functions": [3]}}, "reward.functions.0: a section of settings, got 3; known in it: use,"),
        ({"evaluation": {"data": 3}}, "evaluation.data: a section of settings, got 3; known in it: path,"),
    ],
)
def test_what_is_no_section_is_told_what_one_holds(settings: dict[str, Any], told: str) -> None:
    assert told in refusal(**settings)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.yaml is not valid YAML"):
        load_config([tmp_path / "a.yaml"])
