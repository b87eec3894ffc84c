"""Spans: the same text in two tokenizers' tokens, and what a teacher says of it in its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import accumulate, islice, pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlvr.data import render_prompt
from rlvr.demo.problems import Split, oracle_trace, problems
from rlvr.distill.readings import OtherTokenizer, UnreadableRow
from rlvr.distill.signals import Signal, SignalKind
from rlvr.distill.spans import TokenBytes, UnreadableTokenizer, span_sums, spans, whole_characters
from rlvr.types import Message, RLStream, Row, Task, TokenScores

from .conftest import BASE

TEXT = "Tom has 12 books,\nbuys 3 – naïve “café” 你好 🙂 <answer>15</answer>"
TEMPLATE = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}A:{% endif %}"


def demo() -> PreTrainedTokenizerBase:
    """The student's: byte-level BPE of 512 tokens, learned from word problems."""
    return AutoTokenizer.from_pretrained(BASE)


def words() -> PreTrainedTokenizerFast:
    """As Llama's: words begin with a low line, and what is no word is spelled in bytes."""
    learned = Tokenizer(models.BPE())
    corpus = ["▁" + one.prompt.replace(" ", "▁") for one in islice(problems(Split.TRAIN, 7), 300)]
    learned.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(learned.to_str())["model"]
    vocabulary = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [tuple(pair) for pair in model["merges"]]
    bpe = Tokenizer(
        models.BPE({token: id_ for id_, token in enumerate(vocabulary)}, merges, byte_fallback=True, unk_token="<unk>")
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    built = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", clean_up_tokenization_spaces=False)
    built.chat_template = TEMPLATE
    return built


def byte_by_byte() -> PreTrainedTokenizerFast:
    """One token a byte, in an order of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    core = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    built = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", clean_up_tokenization_spaces=False)
    built.chat_template = TEMPLATE
    return built


@pytest.fixture(scope="module")
def ours() -> PreTrainedTokenizerBase:
    return demo()


@pytest.fixture(scope="module", params=[words, byte_by_byte])
def theirs(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.param()


def task(prompt: str = "How many?") -> Task:
    return Task("t", (Message(role="user", content=prompt),), (1, 2, 3), None, {})


def answer(ids: list[int], seed: int = 0) -> Row:
    """A row of a prompt of three tokens and these, with made-up log-probabilities of the sampler."""
    source = random.Random(seed)
    logprobs = [-3 * source.random() for _ in ids]
    stream = RLStream([0.0] * (3 + len(ids)), [0.0] * 3 + logprobs, [0] * (3 + len(ids)))
    return Row(0, [1, 2, 3, *ids], [False] * 3 + [True] * len(ids), stream)


def said(places: int, seed: int = 1) -> TokenScores:
    """A teacher's made-up log-probabilities."""
    logprobs = -3 * np.random.default_rng(seed).random(places)
    return TokenScores(logprobs.astype(np.float32), np.empty((places, 0), np.int32), np.empty((places, 0)), 0)


# -------------------------------------------------------------------- tokens as bytes


@pytest.mark.parametrize("make", [demo, words, byte_by_byte])
def test_tokens_add_up_to_their_text(make: Callable[[], PreTrainedTokenizerBase]) -> None:
    tokenizer = make()
    read = TokenBytes(tokenizer, "it").of_text(TEXT.encode())
    assert read is not None and read.ids == tokenizer.encode(TEXT, add_special_tokens=False)
    assert b"".join(read.pieces).decode() == TEXT
    compared = 0
    for count in range(1, len(read.ids) + 1):
        if (ours := whole_characters(read.pieces[:count])) is not None and len(ours) == count:
            assert tokenizer.decode(read.ids[:count]) == b"".join(ours).decode()
            compared += 1
    assert compared > 20


def test_a_tokenizer_that_loses_something_is_refused(ours: PreTrainedTokenizerBase) -> None:
    lossy = words()
    lossy.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Prepend("▁")])
    with pytest.raises(UnreadableTokenizer, match=r"teacher lossy.*loses nothing"):
        OtherTokenizer(ours, [1], lossy, "lossy")


def test_a_character_that_was_cut_off_is_left_out() -> None:
    assert whole_characters([b"a", "é".encode()[:1]]) == [b"a"]
    assert whole_characters([b"a", *(bytes([byte]) for byte in "🙂".encode()[:3])]) == [b"a"]
    assert whole_characters([b"a"]) == [b"a"] and whole_characters([]) == []
    assert whole_characters([b"\xff", b"abc", b"d", b"e", b"f"]) is None


# -------------------------------------------------------------------- spans


def test_spans_end_where_tokens_of_both_end() -> None:
    # ab|c|de|f and a|bc|d|e|f: common ends are 3, 5 and 6 bytes
    at = spans([2, 1, 2, 1], [1, 2, 1, 1, 1])
    assert at.ours.tolist() == [2, 3, 4] and at.theirs.tolist() == [2, 4, 5]
    assert span_sums(np.array([1.0, 2.0, 4.0, 8.0]), at.ours).tolist() == [3.0, 4.0, 8.0]
    empty = spans([0, 2, 0, 1], [2, 1])  # tokens of no bytes are of the span before, or of the first
    assert empty.ours.tolist() == [3, 4] and empty.theirs.tolist() == [1, 2]


def test_a_span_has_the_sum_of_its_tokens_on_either_side(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerFast
) -> None:
    """Against spans found by hand: all prefixes of the text that both tokenizers have as a whole number of tokens."""
    ids = [*ours.encode(TEXT), ours.eos_token_id]
    row = answer(ids)
    asked = Signal(SignalKind.SPANS).question(row, 1.0)
    question = OtherTokenizer(ours, [ours.eos_token_id], theirs, "theirs").question(row, task(), asked)
    prompt = render_prompt(theirs, task().prompt)
    their_ids = theirs.encode(TEXT, add_special_tokens=False)
    assert question.request.token_ids == (*prompt, *their_ids, theirs.eos_token_id)
    assert question.request.first == len(prompt)

    scores = said(len(their_ids) + 1)
    seen = question.of_the_row(scores).logprobs
    assert row.rl is not None and len(seen) == len(ids)
    own = np.array(row.rl.sampler_logprobs[3:])

    def lengths(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> dict[int, int]:
        pieces = TokenBytes(tokenizer, "").of(tokens)
        if b"".join(pieces).startswith(b" "):
            pieces[0] = pieces[0][1:]
        return {end: count for count, end in enumerate(accumulate(map(len, pieces)), 1)}

    our_counts, their_counts = lengths(ours, ids[:-1]), lengths(theirs, their_ids)
    common = sorted(our_counts.keys() & their_counts.keys())
    assert 5 < len(common) < max(len(ids), len(their_ids)), "the tokenizers differ, and share some ends"
    at = [(0, 0), *((our_counts[end], their_counts[end]) for end in common), (len(ids), len(their_ids) + 1)]
    for (a, b), (c, d) in pairwise(at):
        assert (seen - own)[a : c - 1] == pytest.approx(0, abs=1e-6)
        assert (seen - own)[c - 1] == pytest.approx(scores.logprobs[b:d].sum() - own[a:c].sum(), abs=1e-5)


def test_with_one_tokenizer_it_is_the_sampled_signal(ours: PreTrainedTokenizerBase) -> None:
    """Bit for bit, prompt and all."""
    asked_task = Task("t", (Message(role="user", content="How many?"),), (), None, {})
    prompt = render_prompt(ours, asked_task.prompt)
    text = oracle_trace(next(problems(Split.TRAIN, 3)))
    ids = [*ours.encode(text), ours.eos_token_id]
    logprobs = np.random.default_rng(5).uniform(-4, 0, len(ids)).tolist()
    stream = RLStream([0.5] * (len(prompt) + len(ids)), [0.0] * len(prompt) + logprobs, [0] * (len(prompt) + len(ids)))
    row = Row(0, [*prompt, *ids], [False] * len(prompt) + [True] * len(ids), stream)
    sampled, on_spans = Signal(SignalKind.SAMPLED, reward=0.3), Signal(SignalKind.SPANS, reward=0.3)
    plain = sampled.question(row, 0.8)
    question = OtherTokenizer(ours, [ours.eos_token_id], ours, "same").question(
        row, asked_task, on_spans.question(row, 0.8)
    )
    assert (question.request.token_ids, question.request.first) == (plain.token_ids, plain.first)
    assert question.request.temperature == 0.8
    scores = said(len(ids))
    assert on_spans.taught(row, question.of_the_row(scores)) == sampled.taught(row, scores)


def test_an_answer_that_was_cut_off_has_no_end(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerFast) -> None:
    """And the part of a character that it ends with gets no signal."""
    whole = ours.encode("3 🙂", add_special_tokens=False)
    ids = whole[:-1]
    row = answer(ids)
    reading = OtherTokenizer(ours, [ours.eos_token_id], theirs, "theirs")
    question = reading.question(row, task(), Signal(SignalKind.SPANS).question(row, 1.0))
    assert theirs.decode(question.request.token_ids[question.request.first :]).strip() == "3"
    assert row.rl is not None
    seen = question.of_the_row(said(question.request.places)).logprobs
    text = TokenBytes(ours, "").of(ids)
    of_text = len(whole_characters(text) or [])
    assert 0 < of_text < len(ids)
    assert seen[of_text:] == pytest.approx(row.rl.sampler_logprobs[3 + of_text :], abs=1e-6)


def test_what_cannot_be_read_is_told(ours: PreTrainedTokenizerBase) -> None:
    reading = OtherTokenizer(ours, [ours.eos_token_id], byte_by_byte(), "bytes")
    two_turns = Row(0, [1, 2, 3, 4, 5], [False, True, False, True, True], RLStream([0.0] * 5, [0.0] * 5, [0] * 5))
    nothing = answer(ours.encode("é", add_special_tokens=False)[:1])
    no_token = answer([len(ours) + 3, *ours.encode("a 1 b 2 c 3")])
    for row in (two_turns, nothing, no_token):
        with pytest.raises(UnreadableRow):
            reading.question(row, task(), Signal(SignalKind.SPANS).question(row, 1.0))
