"""The shipped base: what it is made of, and that it is as poor, and as promising, as docs/demo.md says."""

from __future__ import annotations

import json
import re
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlvr.demo import BASE
from rlvr.demo.problems import Problem, Split, problems

HELD_OUT = 64
SAMPLES = 8
SEED = 1


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(BASE)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def tests() -> list[Problem]:
    return list(islice(problems(Split.HELD_OUT, SEED), HELD_OUT))


def answer(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, tests: list[Problem], samples: int
) -> list[list[str]]:
    """`samples` answers to each problem; the single one is greedy."""
    chats = [[{"role": "user", "content": p.prompt}] for p in tests]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    sampled = {"do_sample": True, "top_k": 0, "num_return_sequences": samples} if samples > 1 else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        output = model.generate(**inputs, max_new_tokens=44, **sampled)
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def solves(text: str, problem: Problem) -> bool:
    return re.findall(r"\\boxed\{(\d+)\}", text) == [problem.answer]


def test_the_architecture(model: Qwen3ForCausalLM) -> None:
    # Embedding; in each layer attention, its two norms of heads, feed-forward, two norms; the last norm.
    layer = 4 * 96 * 96 + 2 * 32 + 3 * 96 * 256 + 2 * 96
    assert sum(p.numel() for p in model.parameters()) == 512 * 96 + 3 * layer + 96 == 381_792
    assert isinstance(model, Qwen3ForCausalLM)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.max_position_embeddings == 2048


def test_model_and_tokenizer_agree(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert model.config.vocab_size == len(tokenizer) == 512
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id
        assert config.bos_token_id is None
    assert tokenizer.model_max_length == model.config.max_position_embeddings


def test_the_folder_is_small_and_names_no_place() -> None:
    files = {path.name: path for path in BASE.iterdir()}
    assert set(files) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert sum(path.stat().st_size for path in files.values()) < 1_700_000
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        values = json.loads(files[name].read_text())
        assert not [v for v in values.values() if isinstance(v, str) and "/" in v], name


def test_greedy_is_poor_and_not_hopeless(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, tests: list[Problem]
) -> None:
    answers = answer(model, tokenizer, tests, samples=1)
    right = [solves(texts[0], problem) for texts, problem in zip(answers, tests, strict=True)]
    assert 0.12 <= sum(right) / HELD_OUT <= 0.45


def test_sampling_finds_what_greedy_does_not(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, tests: list[Problem]
) -> None:
    answers = answer(model, tokenizer, tests, SAMPLES)
    right = [[solves(text, problem) for text in texts] for texts, problem in zip(answers, tests, strict=True)]
    pass_at_1 = sum(map(sum, right)) / (HELD_OUT * SAMPLES)
    pass_at_8 = sum(map(any, right)) / HELD_OUT
    mixed = sum(any(r) and not all(r) for r in right) / HELD_OUT
    assert 0.18 <= pass_at_1 <= 0.40
    assert pass_at_8 >= 0.70
    assert mixed >= 0.70, "groups whose scores differ are those that RL learns from"
    texts = [text for group in answers for text in group]
    assert sum("\\boxed{" in text for text in texts) >= 0.95 * len(texts), "the base knows the form"
    thinks = sum("<think></think>" not in text for text in texts) / len(texts)
    assert 0.4 <= thinks <= 0.65, "the base thinks in about half of its answers"


def test_a_long_prompt_fits(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    question = "Weng earns $12 an hour for babysitting. " * 60
    inputs = tokenizer(question, return_tensors="pt")
    assert 1024 < inputs["input_ids"].shape[1] < 2048
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()
