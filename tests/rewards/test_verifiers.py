"""The verifiers that need no algebra: what each calls right, wrong, or cannot decide."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from jsonschema import SchemaError

from rlvr.reward_function import Reward
from rlvr.rewards.choice import multiple_choice
from rlvr.rewards.json_schema import json_schema
from rlvr.rewards.language import language_reward
from rlvr.rewards.numeric import numeric
from rlvr.rewards.pattern import regex
from rlvr.rewards.repetition import repetition
from rlvr.rewards.text import exact_text, normalised_text
from rlvr.types import Outcome, Score


def value(reward: Reward, *arguments: Any, **named: Any) -> float | None:
    result = reward(*arguments, **named)
    return result.value if isinstance(result, Score) else result


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("completion", "target", "exact", "normalised"),
    [
        ("Paris", "Paris", 1, 1),
        (" Paris\n", "Paris", 1, 1),
        ("<think>London?</think>Paris", "Paris", 1, 1),
        ("<think>x</think><answer> Paris </answer>", "Paris", 1, 1),
        ("paris.", "Paris", 0, 1),
        ("The Eiffel Tower!", "eiffel tower", 0, 1),
        ("Ｐａｒｉｓ", "Paris", 0, 1),  # fullwidth letters
        ("1,234", "1234", 0, 1),
        ("well-known", "well known", 0, 1),
        ("London", "Paris", 0, 0),
        ("Paris or London", "Paris", 0, 0),
        ("-5", "5", 0, 0),
        ("1.5", "15", 0, 0),
        ("5%", "5", 0, 0),
        ("C#", "C", 0, 0),
        ("", "Paris", 0, 0),
        ("<think>Paris", "Paris", 0, 0),  # reasoning that never ended holds no answer
        ("Rome", ["Roma", "Rome"], 1, 1),
        ("the", "The", 0, 0),  # nothing but an article: compared as it is
    ],
)
def test_text(completion: str, target: object, exact: float, normalised: float) -> None:
    assert value(exact_text, completion, target) == exact
    assert value(normalised_text, completion, target) == normalised


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("completion", "target", "right"),
    [
        (r"\boxed{42}", 42, 1),
        ("#### 1,234", "1234", 1),
        (r"\boxed{3/4}", "0.75", 1),
        (r"\boxed{1.2 \times 10^3}", 1200, 1),
        (r"\boxed{1e3}", 1000, 1),
        (r"\boxed{\$5}", "5", 1),
        (r"\boxed{-7}", -7, 1),
        (r"\boxed{12 cm}", 12, 1),
        (r"\boxed{3.1415}", "3.14159265", 0),
        (r"\boxed{41}", 42, 0),
        (r"\boxed{-42}", 42, 0),
        (r"\boxed{42, 43}", 42, 0),
        (r"\boxed{1/0}", 42, 0),
        (r"\boxed{10^{-30}}", "1e-20", 0),
        ("I do not know", 42, 0),
    ],
)
def test_numeric(completion: str, target: object, right: float) -> None:
    assert value(numeric, completion, target) == right


def test_numeric_tolerances() -> None:
    assert value(numeric, r"\boxed{3.14}", "3.14159", relative=1e-2) == 1
    assert value(numeric, r"\boxed{0.001}", "0") == 0
    assert value(numeric, r"\boxed{0.001}", "0", absolute=0.01) == 1
    assert numeric(r"\boxed{1}", "a dozen").outcome is Outcome.NO_VERDICT


# ---------------------------------------------------------------------- multiple choice


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("B", 1),
        ("(B)", 1),
        ("b", 1),
        ("B) Paris", 1),
        ("The answer is (B).", 1),
        ("Answer: B", 1),
        (r"So \boxed{B}", 1),
        (r"\boxed{\text{B}}", 1),
        ("<think>A? no.</think><answer>B</answer>", 1),
        ("A is wrong because it is hot.\nThe answer is B because it is cold.", 1),
        ("The answer is A.\nWait. The answer is B.", 1),
        ("**B**", 1),
        ("A", 0),
        ("A or B", 0),
        ("The answer is A or B.", 0),
        (r"\boxed{A, B}", 0),
        ("B and C", 0),
        ("A cat sat on the mat", 0),
        ("Because", 0),
        ("<think>The answer is B", 0),
        ("", 0),
    ],
)
def test_multiple_choice(completion: str, right: float) -> None:
    assert value(multiple_choice, completion, "B") == right


def test_multiple_choice_by_text_and_by_index() -> None:
    choices = ["London", "Paris", "Rome"]
    assert value(multiple_choice, "The answer is Paris.", 1, choices) == 1
    assert value(multiple_choice, "Rome", "B", choices) == 0
    assert value(multiple_choice, "D", "B", choices) == 0
    assert multiple_choice("B", 7, choices).outcome is Outcome.NO_VERDICT
    assert multiple_choice("B", "Paris is it", choices).outcome is Outcome.NO_VERDICT


# ---------------------------------------------------------------------- patterns and schemas


def test_regex_looks_at_the_answer_alone() -> None:
    assert value(regex, "<think>no digits</think>call 555-1234", r"\b\d{3}-\d{4}\b") == 1
    assert value(regex, "<think>555-1234</think>none", r"\b\d{3}-\d{4}\b") == 0
    assert value(regex, "<think>555-1234", r"\d") == 0
    assert not regex.is_async  # it may take for ever, so it runs where it can be killed


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("completion", "right", "detail"),
    [
        ('{"name": "Ada", "age": 36}', 1, ""),
        ('Here it is:\n```json\n{"name": "Ada", "age": 36}\n```', 1, ""),
        ('```json\n{"name": 1}\n```\nNo, rather:\n```\n{"name": "Ada", "age": 36}\n```', 1, ""),
        ('{"name": "Ada", "age": -1}', 0, "$.age"),
        ('{"name": "Ada"}', 0, "'age' is a required property"),
        ('{"name": "Ada", "age": 36, "x": 1}', 0, "'x' was unexpected"),
        ('{"name": "Ada", "age": NaN}', 0, "no JSON"),
        ('{"name": "Ada", "age": 1e999}', 0, "no JSON"),
        ("Ada is 36", 0, "no JSON"),
        ("[" * 100_000, 0, ""),
        ('<think>{"name": "Ada", "age": 36}', 0, "reasoning never ended"),
    ],
)
def test_json_schema(completion: str, right: float, detail: str) -> None:
    score = json_schema(completion, PERSON)
    assert score.value == right and detail in score.detail
    assert json_schema(completion, json.dumps(PERSON)).value == right


def test_a_schema_that_is_none_is_refused_and_none_is_fetched() -> None:
    with pytest.raises(SchemaError):
        json_schema("{}", {"type": "objekt"})
    with pytest.raises(Exception, match=r"Unresolvable|example\.invalid"):
        json_schema("{}", {"$ref": "http://example.invalid/schema.json"})


# ---------------------------------------------------------------------- language and repetition


@pytest.mark.parametrize(
    ("completion", "language", "low", "high"),
    [
        ("We have the number of apples, and then it is three.", "en", 1.0, 1.0),
        ("As we also do it on the way, there is no more to come.", "en", 1.0, 1.0),
        ("Wir haben die Zahl der Äpfel, und dann ist es auch nicht mehr.", "de", 1.0, 1.0),
        ("Wir haben die Zahl der Äpfel, und dann ist es auch nicht mehr.", "en", 0.0, 0.1),
        ("首先我们计算苹果的数量。", "zh", 1.0, 1.0),
        ("首先我们计算苹果的数量。", "en", 0.0, 0.0),
        ("We add the 苹果 and the 香蕉 to get the sum of them.", "en", 0.6, 0.95),
        ("Сначала посчитаем яблоки.", "ru", 1.0, 1.0),
        ("$x^2 + 3 = 7$ ```python\nfor x in y: print(x)\n```", "zh", 1.0, 1.0),  # no words
        ("", "en", 1.0, 1.0),
    ],
)
def test_language(completion: str, language: str, low: float, high: float) -> None:
    assert low <= value(language_reward, completion, language) <= high  # type: ignore[operator]


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="'klingon' is not known; choose one of ar, bg"):
        language_reward("nuqneH", "klingon")


def test_repetition_against_its_definition() -> None:
    assert value(repetition, "one two three four five") == 0
    # a b c a b c: trigrams abc bca cab abc, of which three are distinct
    assert value(repetition, "a b c A B c") == pytest.approx(-0.25)
    assert value(repetition, "x " * 50, n=2, worst=-2.0) == pytest.approx(-2.0 * (1 - 1 / 49))
    assert value(repetition, "two words") == 0
    with pytest.raises(ValueError, match="n of at least 1"):
        repetition("x", n=0)


# ---------------------------------------------------------------------- hostile text


@pytest.mark.parametrize(
    "text",
    [
        "A" * 100_000,
        "(" * 100_000,
        "1," * 50_000,
        " " * 100_000,
        "```" * 30_000,
        "<answer>" * 12_000,
        "$" * 100_000,
        "\\boxed{" * 14_000,
        "answer is " * 10_000,
        "-" * 100_000,
        "A or " * 20_000,
        "١" * 100_000,
    ],
    ids=lambda text: text[:10],
)
def test_those_that_run_on_the_event_loop_take_linear_time(text: str) -> None:
    """100,000 characters in under half a second of this thread's time each: a quadratic one would take minutes."""
    for verifier in (exact_text, normalised_text, numeric, multiple_choice, repetition):
        assert verifier.is_async
        started = time.thread_time()
        verifier(text, "B") if verifier is not repetition else verifier(text)
        assert time.thread_time() - started < 0.5, verifier.name
    started = time.thread_time()
    language_reward(text, "en")
    assert time.thread_time() - started < 0.5
