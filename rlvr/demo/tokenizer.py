"""The demo's tokenizer: byte-level BPE with 512 tokens, as a Hugging Face fast tokenizer.

Its merges are learned from the word problems and a page of school English, so problems are short; its
alphabet is the 256 bytes, so any other text can be encoded too, at about two characters of English a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlvr.demo.problems import Split
from rlvr.demo.subjects import MATH, Subject

VOCABULARY_SIZE = 512
LONGEST_SEQUENCE = 2048  # tokens; room for a GSM8K question in this small vocabulary, and its answer

PAD = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
# Not special: decoding with skip_special_tokens=True keeps them, and that is the text a reward reads.
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# ChatML. The template of every Qwen model, without tools and without a default system message.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# What a merge may not cross. A digit stands alone, because a model reads 12 + 9 more easily digit by digit;
# a word takes the space before it, and the line break after it (`assistant\n` opens every answer).
PIECES = Regex(r" ?\d| ?[A-Za-z]+\n?|[^\sA-Za-z\d]+|\n+ *| +")

PROBLEMS_IN_CORPUS = 6000
# Without this page the merges that the word problems leave over would be spent on nothing, and a question
# from another dataset would cost one token per letter.
SCHOOL_ENGLISH = """
A farmer has a basket with twelve eggs and sells half of them at the market for two dollars each.
How much money does she make every day? If a train travels sixty miles in one hour, how many hours will it
take to go the rest of the way? There are more students in the first class than in the second class.
Each box has the same number of pencils, and their teacher wants to give three pencils to each of her
friends. What is the total cost of the tickets? He was paid for his work each week, and then spent some
of what he had left on food. How many minutes are there between them? They would need twice as many as
before, so the price is less than that of the other. How old will she be in ten years? When it was over,
there were only a few of these left for all the people who came. What percent of this do you have to pay?
"""
ENGLISH_REPEATS = 40  # weighs the page against the problems, whose every word should be one token


def build_tokenizer(subjects: Sequence[Subject[Any]] = (MATH,)) -> PreTrainedTokenizerFast:
    """Learn the tokenizer of these subjects. The same on every call: it takes no seed."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(TAGS),
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(subjects), trainer)
    bpe.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=[TURN_START],
        padding_side="left",
        model_max_length=LONGEST_SEQUENCE,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _corpus(subjects: Sequence[Subject[Any]]) -> Iterator[str]:
    """What merges are learned from. The tags are tokens anyway: no merge shall be spent on `think`."""
    for subject in subjects:
        for problem in islice(subject.problems(Split.TRAIN, 0), PROBLEMS_IN_CORPUS):
            yield "user\n" + problem.prompt
            yield "assistant\n" + _without_tags(subject.oracle_trace(problem))
    for _ in range(ENGLISH_REPEATS):
        yield "system\n" + SCHOOL_ENGLISH


def _without_tags(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, "")
    return text
