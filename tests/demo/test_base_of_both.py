"""The second shipped base: made as the first, with a tokenizer for both subjects, poor and promising in both."""

from __future__ import annotations

from itertools import islice

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlvr.demo import BASE, BASE_OF_BOTH
from rlvr.demo.evaluate_base import evaluate
from rlvr.demo.problems import Split
from rlvr.demo.subjects import CODE, MATH, Subject
from rlvr.demo.tokenizer import CHAT_TEMPLATE, build_tokenizer


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(BASE_OF_BOTH)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(BASE_OF_BOTH)


def test_it_is_the_first_base_but_for_weights_and_merges(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    first = AutoModelForCausalLM.from_pretrained(BASE)
    assert model.config.to_diff_dict() == first.config.to_diff_dict()
    assert {name: p.shape for name, p in model.named_parameters()} == {n: p.shape for n, p in first.named_parameters()}
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id) == (512, 0, 2)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert {path.name for path in BASE_OF_BOTH.iterdir()} == {path.name for path in BASE.iterdir()}
    assert sum(path.stat().st_size for path in BASE_OF_BOTH.iterdir()) < 1_700_000


def test_its_tokenizer_is_what_the_code_builds(tokenizer: PreTrainedTokenizerFast) -> None:
    assert build_tokenizer((MATH, CODE)).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("subject", [MATH, CODE], ids=lambda subject: subject.name)
def test_right_answers_fit(subject: Subject, tokenizer: PreTrainedTokenizerFast) -> None:
    for problem in islice(subject.problems(Split.HELD_OUT, 2), 500):
        answer = subject.oracle_trace(problem)
        ids = tokenizer(answer).input_ids
        assert tokenizer.decode(ids) == answer
        assert len(ids) + 1 <= subject.max_new_tokens
        assert len(tokenizer(problem.prompt).input_ids) < 48


@pytest.mark.parametrize("subject", [MATH, CODE], ids=lambda subject: subject.name)
def test_it_is_poor_at_one_try_and_good_at_many(
    subject: Subject, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = evaluate(model, tokenizer, count=64, samples=8, seed=1, subject=subject)
    assert 0.05 <= found.greedy <= 0.45
    assert 0.18 <= found.pass_at_1 <= 0.50
    assert found.pass_at_n >= 0.70
