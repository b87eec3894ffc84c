"""Supervised fine-tuning: examples are what a policy would sample, the loss is cross-entropy, resume is exact."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Qwen3MoeConfig
from typer.testing import CliRunner

import rlvr
from rlvr.cli import app
from rlvr.config import Config, DataConfig
from rlvr.config_loading import load_config
from rlvr.data import DataError, render_prompt
from rlvr.events import read_events
from rlvr.metrics import read_metrics
from rlvr.prepare import PreparationError
from rlvr.run_folder import RunFolder
from rlvr.supervised.examples import examples_of, load_examples
from rlvr.supervised.run import prepare_sft
from rlvr.types import Message

TINY = Config(model="tiny", data="none").model.name
CHATML = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
FORGETS = CHATML.replace("m['content']", "(m['content'].split('/')[-1] if m['role'] == 'assistant' else m['content'])")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(TINY)


def sums(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions as in the demo with one right answer, in words of its vocabulary."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = source.randint(1, 9), source.randint(1, 9)
        rows.append({"prompt": f"Ann has {a} pens, finds {b}. How many pens?", "completion": f"\\boxed{{{a + b}}}"})
    return rows


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "run_dir": str(folder),
        "learner": {"learning_rate": 2e-3, "warmup_steps": 2},
        "sft": {"rows_per_step": 16},
        "tensorboard": False,
    } | more


# ---------------------------------------------------------------------- refused before the model is loaded


@pytest.mark.parametrize("word", ["learner.optimizer=adamw_8bit", "model.lora={rank: 8, quantize: true}"])
def test_what_bitsandbytes_is_needed_for_is_told_where_it_cannot_be(word: str) -> None:
    with pytest.raises(PreparationError, match=r"bitsandbytes|needs a GPU"):
        prepare_sft(load_config([], ["model=tiny", "data=none", "learner.device=cpu", word]))


def test_a_loss_on_experts_that_no_example_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"learner\.router\.balance_loss is for a mixture of experts"):
        prepare_sft(load_config([], ["model=tiny", "data=none", "learner.router.balance_loss=0.1"]))
    Qwen3MoeConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(PreparationError, match=r"balance_loss needs the experts .* set it to 0"):
        prepare_sft(load_config([], [f"model={tmp_path}", "data=none", "learner.router.balance_loss=0.1"]))


def test_held_out_prompts_that_generators_have_no_room_for_are_refused(tmp_path: Path) -> None:
    for name, repeats in (("train", 1), ("held_out", 30)):
        row = {"prompt": "How many pens? " * repeats, "completion": "3", "answer": "3"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    paths = [f"data.path={tmp_path / 'train.jsonl'}", f"evaluation.data.path={tmp_path / 'held_out.jsonl'}"]
    config = load_config([], ["model=tiny", "data.max_prompt_tokens=32", "reward=exact_text", *paths])
    with pytest.raises(PreparationError, match=r"data\.max_prompt_tokens=32: raise that to \d+, or set evaluation"):
        prepare_sft(config)


# ---------------------------------------------------------------------- examples


def test_a_completion_is_learned_up_to_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = Message(role="user", content="How many pens?")
    (example,) = examples_of([prompt, Message(role="assistant", content="\\boxed{4}")], [1], tokenizer)
    start = render_prompt(tokenizer, [prompt])
    answer = [*tokenizer.encode("\\boxed{4}", add_special_tokens=False), tokenizer.eos_token_id]
    assert example.token_ids == start + answer
    assert example.learned == [False] * len(start) + [True] * len(answer)
    assert example.row(3).ce == [0.0] * len(start) + [1.0] * len(answer)


def test_an_end_that_stands_in_the_text_is_not_doubled(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = Message(role="user", content="How many pens?")
    once, twice = (
        examples_of([prompt, Message(role="assistant", content=text)], [1], tokenizer)
        for text in ("4", f"4{tokenizer.eos_token}")
    )
    assert once == twice


def conversation(*contents: str) -> list[Message]:
    return [Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(contents)]


def test_turns_of_a_conversation_are_one_example(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = CHATML
    messages = conversation("How many?", "3", "And now?", "4")
    (example,) = examples_of(messages, [1, 3], tokenizer)
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert example.token_ids == whole
    learned = [token for token, flag in zip(example.token_ids, example.learned, strict=True) if flag]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in ("3", "4")]
    assert learned == [*ids[0], tokenizer.eos_token_id, *ids[1], tokenizer.eos_token_id]


def test_a_template_that_shortens_earlier_turns_makes_one_example_a_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    """Each is read as it would be when it is sampled: the turn with its thought, its past without."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = FORGETS
    messages = conversation("How many?", "1+2=/3", "And now?", "3+1=/4")
    first, second = examples_of(messages, [1, 3], tokenizer)
    for example, place in ((first, 1), (second, 3)):
        turn = [*tokenizer.encode(messages[place]["content"], add_special_tokens=False), tokenizer.eos_token_id]
        prompt = render_prompt(tokenizer, messages[:place])
        assert example.token_ids == prompt + turn
        assert example.learned == [False] * len(prompt) + [True] * len(turn)


def test_columns_and_messages_are_both_taken(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    question, answer = "How many pens?", "\\boxed{4}"
    rows = [
        {"prompt": question, "completion": answer},
        {"prompt": conversation(question), "completion": [Message(role="assistant", content=answer)]},
        {"prompt": conversation(question, answer)},
        {"prompt": question * 99, "completion": answer},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_examples(DataConfig(path=str(file)), tokenizer, longest=60)
    assert len(found.examples) == 3 and found.too_long == 1
    assert found.examples[0] == found.examples[1] == found.examples[2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "How many?"}, "has nothing to learn"),
        ({"question": "How many?", "completion": "3"}, "data.prompt=prompt: .* has no such column; it has question"),
        ({"prompt": "How many?", "completion": 3}, "column completion: expected text, found 3"),
        ({"prompt": "How many?" * 99, "completion": "3"}, "every example is longer than learner.token_budget=60"),
    ],
)
def test_rows_that_cannot_be_learned_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], message: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        load_examples(DataConfig(path=str(file)), tokenizer, longest=60)


# ---------------------------------------------------------------------- runs


def plain_cross_entropy(model: Path, rows: list[dict[str, Any]]) -> float:
    """Mean over the tokens of all answers, each example alone, by torch's own function."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    losses = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True, return_dict=False
        )
        answer = [*tokenizer.encode(row["completion"], add_special_tokens=False), tokenizer.eos_token_id]
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none"))
    return float(torch.cat(losses).mean())


def test_the_tiny_model_learns_to_imitate(tmp_path: Path) -> None:
    held_out = sums(64, seed=1)
    result = rlvr.sft(
        "tiny",
        sums(480, seed=0),
        evaluation_data=held_out,
        **settings(tmp_path / "run", sft={"epochs": 1, "rows_per_step": 16}),
    )
    assert result.steps == 30
    assert result.loss_before == pytest.approx(plain_cross_entropy(Path(TINY), held_out), rel=1e-4)
    assert result.loss_after == pytest.approx(plain_cross_entropy(result.policy, held_out), rel=1e-4)
    assert result.loss_before is not None and result.loss_after is not None
    assert result.loss_after < 0.5 * result.loss_before
    page = result.report.read_text()
    assert "Held-out cross-entropy" in page and "16 examples" in page and "A supervised run samples none." in page
    records = read_metrics(result.folder / "metrics.jsonl")
    assert [r.step for r in records] == [0, *range(1, 31), 30]
    assert records[30].values["sft/epoch"] == 1
    (end,) = [event.text for event in read_events(RunFolder(result.folder)) if event.text.startswith("the end took")]
    assert all(f"{stage} " in end for stage in ("evaluate", "checkpoint", "export"))


def test_the_first_steps_loss_is_the_cross_entropy_of_its_examples(tmp_path: Path) -> None:
    rows = sums(16, seed=3)
    result = rlvr.sft("tiny", rows, **settings(tmp_path / "run", steps=1, sampling={"temperature": 0.5}))
    (record,) = read_metrics(result.folder / "metrics.jsonl")
    assert record.values["learner/cross_entropy"] == pytest.approx(plain_cross_entropy(Path(TINY), rows), rel=1e-4)
    assert (result.loss_before, result.loss_after) == (None, None)


def test_resume_is_exact(tmp_path: Path) -> None:
    rows, held_out = sums(40, seed=0), sums(8, seed=1)
    whole = rlvr.sft("tiny", rows, evaluation_data=held_out, **settings(tmp_path / "whole", steps=6))
    rlvr.sft("tiny", rows, evaluation_data=held_out, **settings(tmp_path / "cut", steps=3))
    cut = rlvr.sft("tiny", rows, evaluation_data=held_out, resume=True, **settings(tmp_path / "cut", steps=6))
    assert (cut.loss_before, cut.loss_after) == (whole.loss_before, whole.loss_after)
    one, other = (load_file(r.policy / "model.safetensors") for r in (whole, cut))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    steps = [
        [
            (r.step, r.values["learner/loss"])
            for r in read_metrics(x.folder / "metrics.jsonl")
            if "learner/loss" in r.values
        ]
        for x in (whole, cut)
    ]
    assert steps[0] == steps[1]


def test_a_resume_with_other_steps_is_refused(tmp_path: Path) -> None:
    """The examples seen are counted in steps: some would be skipped."""
    rows = sums(40, seed=0)
    rlvr.sft("tiny", rows, **settings(tmp_path, steps=1))
    more = settings(tmp_path, steps=2, sft={"rows_per_step": 20})
    with pytest.raises(PreparationError, match=r"sft\.rows_per_step=20: .*resume with sft\.rows_per_step=16"):
        rlvr.sft("tiny", rows, resume=True, **more)
    assert rlvr.sft("tiny", rows, resume=True, **settings(tmp_path, steps=2)).steps == 2


def test_ranks_learn_what_one_learner_does(tmp_path: Path) -> None:
    """As Ray actors, and with no generator beside them."""
    rows, held_out = sums(24, seed=0), sums(8, seed=1)
    alone = rlvr.sft("tiny", rows, evaluation_data=held_out, **settings(tmp_path / "alone", steps=2))
    learner = {"learning_rate": 2e-3, "warmup_steps": 2, "ranks": 2}
    shared = rlvr.sft("tiny", rows, evaluation_data=held_out, **settings(tmp_path / "two", steps=2, learner=learner))
    assert (shared.loss_before, shared.loss_after) == pytest.approx((alone.loss_before, alone.loss_after), rel=1e-3)


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in sums(8, seed=0)))
    words = [
        "sft",
        "model=tiny",
        f"data.path={file}",
        f"evaluation.data.path={file}",
        "steps=2",
        f"run_dir={tmp_path}/run",
    ]
    done = CliRunner().invoke(app, [*words, "sft.rows_per_step=4", "tensorboard=false"])
    assert done.exit_code == 0, done.output
    assert "held-out cross-entropy " in done.output and "step 2/2  loss " in done.output
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
