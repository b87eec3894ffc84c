from __future__ import annotations

from itertools import islice

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlvr.demo import BASE
from rlvr.demo.problems import Split, oracle_trace, problems
from rlvr.demo.tokenizer import build_tokenizer

GSM8K_LIKE = (
    "Josie's $1,250.75 budget (after a 12.5% cut) must last 3 weeks.\n"
    "If she spends 2/5 of it in week one, how much is left?\n#### 750.45"
)
TEXTS = [
    "",
    " ",
    "Tom has 6 books, buys 3, gives 2. How many books?",
    GSM8K_LIKE,
    "  two spaces,\ttab,\r\n\n\n  blank lines, end \n",
    "naïve café, Привет, 漢字かな, مرحبا, ½ ≠ ², 🙂👩‍👩‍👧",
    "\x00\x07\u200b\ufeff control",
    "<think>12+9=21</think>\n\\boxed{21} <answer>x</answer> <Think> <|im_end|>",
    "def f(xs):\n    return [2*x for x in xs if x<0]",
]


@pytest.fixture(scope="module")
def built() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def shipped() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_as_it_was(shipped: PreTrainedTokenizerFast, text: str) -> None:
    ids = shipped(text).input_ids
    assert shipped.decode(ids) == text
    assert all(0 <= i < 512 for i in ids)


def test_all_bytes_can_be_encoded(shipped: PreTrainedTokenizerFast) -> None:
    everything = "".join(map(chr, [*range(0x800), *range(0x1000, 0x1100), *range(0x1F300, 0x1F400)]))
    assert shipped.decode(shipped(everything).input_ids) == everything


def test_digits_are_always_single(shipped: PreTrainedTokenizerFast) -> None:
    for token_id in range(512):
        assert sum(c.isdigit() for c in shipped.decode([token_id])) <= 1
    text = "1234567890 00 12.5 3,000 x9y 77"
    pieces = [shipped.decode([i]) for i in shipped(text).input_ids]
    assert [p.strip() for p in pieces if any(c.isdigit() for c in p)] == [c for c in text if c.isdigit()]


def test_tags_are_one_token_each_and_survive_decoding(shipped: PreTrainedTokenizerFast) -> None:
    text = "<think>1+1=2</think>\n<answer>2</answer>"
    ids = shipped(text + "<|im_end|>").input_ids
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert shipped(tag).input_ids == [shipped.convert_tokens_to_ids(tag)]
        assert shipped.convert_tokens_to_ids(tag) in ids
        assert tag not in shipped.all_special_tokens
    assert shipped.decode(ids, skip_special_tokens=True) == text


def test_the_special_tokens(shipped: PreTrainedTokenizerFast) -> None:
    assert (shipped.pad_token, shipped.pad_token_id) == ("<|endoftext|>", 0)
    assert (shipped.eos_token, shipped.eos_token_id) == ("<|im_end|>", 2)
    assert shipped.bos_token is None
    assert set(shipped.all_special_ids) == {0, 1, 2}
    assert len(shipped) == 512


def test_the_chat_template_is_chatml(shipped: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1+1?"}]
    open_turn = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert shipped.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == open_turn
    answered = [*chat, {"role": "assistant", "content": "2"}]
    assert shipped.apply_chat_template(answered, tokenize=False) == open_turn + "2<|im_end|>\n"
    ids = shipped.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids == shipped(open_turn).input_ids
    assert shipped.decode(ids) == open_turn


def test_problems_and_answers_are_short(shipped: PreTrainedTokenizerFast) -> None:
    """Every word of a problem is one token, and a right answer fits the limit that docs/demo.md names."""
    for problem in islice(problems(Split.HELD_OUT, seed=2), 500):
        words = problem.prompt.replace(",", " ,").replace(".", " .").replace("?", " ?").split()
        assert len(shipped(problem.prompt).input_ids) == len(words)
        assert len(shipped(oracle_trace(problem)).input_ids) + 1 <= 44


def test_another_datasets_question_fits(shipped: PreTrainedTokenizerFast) -> None:
    assert len(shipped(GSM8K_LIKE).input_ids) < len(GSM8K_LIKE)


def test_the_shipped_tokenizer_is_what_the_code_builds(
    built: PreTrainedTokenizerFast, shipped: PreTrainedTokenizerFast
) -> None:
    assert built.get_vocab() == shipped.get_vocab()
    assert built.chat_template == shipped.chat_template
    assert [built(t).input_ids for t in TEXTS] == [shipped(t).input_ids for t in TEXTS]
