"""No answer can freeze the verifier, and none makes the next verdict wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rlvr.rewards.math import MathVerifier, math_answer, shared_verifier
from rlvr.types import Outcome, Score

DEADLINE_S = 1.0
GRACE_S = 0.5

# Told from 7 and from x^2 + 1 without computing them.
LARGE = [
    r"9^{9^{9^9}}", r"9^{9^9}", r"2^{10^{10}}", r"10^{-99999999}", r"(10^9)!", "99999999!", r"\binom{10^9}{10^8}",
    r"(x+y+z+1)^{500}", "((2000!)^{9000})", "9" * 900, "3!!!!!!!!!!!!",
]  # fmt: skip
NO_ANSWER = [
    "9" * 100_000,
    "(" * 5000 + "1" + ")" * 5000,
    r"\frac{1}{" * 300 + "1" + "}" * 300,
    "{" * 24 + "7" + "}" * 24,
]
UNDECIDED = [
    r"\sum_{k=1}^{100000000} k^2", r"\left|" * 40 + "x" + r"\right|" * 40, "7^" * 40 + "7", "√" * 900,
]  # fmt: skip
HOSTILE = [
    *LARGE, *NO_ANSWER, *UNDECIDED, "x=y=" * 200 + "1", r"\prod_{k=1}^{999} k^{k^2}", r"\tan(10^{3000})",
    r"\int_0^{10} \sin(\cos(e^{x^2})) dx",
    "1e99999999", "A " * 400 + "!", "A, " * 300 + "and", "1 " * 400, "2 hours " * 100, "answer is" + " " * 50_000 + "8",
    "1/" * 200 + "1", "a, " * 300, "1 or " * 190 + "2", r"\pm" * 300, r"\boxed{" * 20_000, "$" * 50_000,
    r"\( " * 30_000,
    "0." + r"\overline{" + "9" * 900 + "}", r"\text{" * 200, "1,000" * 180, "-" * 901 + "7", "\\" * 999,
    r"\sinh" * 110 + "x", r"\sin " * 160 + "x", r"\sinh 9" * 60, "9{,}999" * 140, "x>0, " * 180, r"\phantom{" * 110,
    "So it is " * 4000, r"\begin{align}x&=1\\" * 50, r"\begin{align}" * 3000, "答案是" * 9000, "Is A. " * 8000,
]  # fmt: skip


def short(text: str) -> str:
    return f"{text[:24]}({len(text)})"


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(workers=1, deadline_s=DEADLINE_S)
    verifier.warm_up()
    yield verifier
    verifier.close()


def asked_until_decided(judge: Callable[[], Score]) -> Score:
    """On a busy machine a verdict may time out; it is not remembered, and can be asked for again."""
    for _ in range(10):
        if (score := judge()).outcome is not Outcome.TIMEOUT:
            return score
    raise AssertionError("ten timeouts in a row")


def assert_next_verdicts_are_right(verifier: MathVerifier) -> None:
    equal = asked_until_decided(lambda: verifier.score_blocking(r"\boxed{(1+i)^2}", "2i"))
    assert equal.value == 1.0
    assert verifier.score_blocking(r"\boxed{8}", "7").value == 0.0


@pytest.mark.parametrize("answer", HOSTILE, ids=short)
@pytest.mark.parametrize("reference", ["7", "x^2+1"])
def test_a_hostile_answer_is_over_by_its_deadline(verifier: MathVerifier, answer: str, reference: str) -> None:
    for completion in (rf"\boxed{{{answer}}}", answer):
        start = time.monotonic()
        score = verifier.score_blocking(completion, reference)
        assert time.monotonic() - start < DEADLINE_S + GRACE_S
        assert score.value in (0.0, None)
        assert score.outcome in (Outcome.SCORED, Outcome.NO_VERDICT, Outcome.TIMEOUT)
        assert score.value != 0.0 or score.outcome is Outcome.SCORED
    assert_next_verdicts_are_right(verifier)


@pytest.mark.parametrize("answer", LARGE, ids=short)
def test_numbers_that_nobody_can_write_out_are_told_apart(verifier: MathVerifier, answer: str) -> None:
    for reference in ("7", "x^2+1"):
        score = verifier.score_blocking(rf"\boxed{{{answer}}}", reference)
        assert (score.value, score.outcome) == (0.0, Outcome.SCORED)


@pytest.mark.parametrize("answer", NO_ANSWER, ids=short)
def test_length_and_nesting_are_no_way_around_a_zero(verifier: MathVerifier, answer: str) -> None:
    score = verifier.score_blocking(rf"\boxed{{{answer}}}", "x^2+1")
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED)
    assert "no final answer" in score.detail


@pytest.mark.parametrize("answer", UNDECIDED, ids=short)
def test_what_is_too_costly_to_decide_has_no_verdict(verifier: MathVerifier, answer: str) -> None:
    for reference, completion in (("x^2+1", rf"\boxed{{{answer}}}"), (answer, r"\boxed{x^2+1}")):
        score = verifier.score_blocking(completion, reference)
        assert (score.value, score.outcome) == (None, Outcome.NO_VERDICT)
        assert "too costly" in score.detail
    assert verifier.score_blocking(rf"\boxed{{{answer}}}", answer).value == 1.0


def test_a_missing_reference_has_no_verdict(verifier: MathVerifier) -> None:
    assert verifier.score_blocking(r"\boxed{3}", "").outcome is Outcome.NO_VERDICT
    assert verifier.score_blocking(r"\boxed{3}", "9" * 2000).outcome is Outcome.NO_VERDICT


async def test_on_a_loop_hostile_answers_leave_the_others_alone() -> None:
    verifier = MathVerifier(workers=2, deadline_s=DEADLINE_S)
    await asyncio.to_thread(verifier.warm_up)
    longest_pause = 0.0

    async def watch() -> None:
        nonlocal longest_pause
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest_pause = max(longest_pause, time.monotonic() - before)

    watcher = asyncio.create_task(watch())
    hostile = [asyncio.create_task(verifier.score(rf"\boxed{{{answer}}}", "7")) for answer in HOSTILE]
    right = [await verifier.score(rf"\boxed{{{n}}}", str(n)) for n in range(200)]
    assert all(score.value == 1.0 for score in right)
    assert all(score.value in (0.0, None) for score in await asyncio.gather(*hostile))
    watcher.cancel()
    assert longest_pause < 1.0, "the event loop stood still"
    await asyncio.to_thread(assert_next_verdicts_are_right, verifier)
    verifier.close()


def test_in_a_thread_that_is_not_the_main_one() -> None:
    scores: list[Score] = []

    def judge() -> None:
        scores.append(math_answer(r"\boxed{9^{9^{9^9}}}", "7"))
        scores.append(asked_until_decided(lambda: math_answer(r"\boxed{x(x+1)}", "x^2+x")))
        scores.append(asked_until_decided(lambda: asyncio.run(math_answer.function(r"\boxed{x(x+2)}", "x^2+2x"))))

    shared_verifier().warm_up()
    thread = threading.Thread(target=judge)
    thread.start()
    thread.join(30)
    assert [score.value for score in scores] == [0.0, 1.0, 1.0]
    shared_verifier().close()


def test_a_verdict_says_what_was_found() -> None:
    assert math_answer(r"\boxed{9}", "7") == Score(0.0, detail="boxed 9, expected 7")
    assert math_answer(completion=r"\boxed{7}", answer=7).value == 1.0
    assert math_answer("no idea", "7").value == 0.0
    assert math_answer.is_async and math_answer.required == ["completion", "answer"]


def test_a_timeout_is_not_a_wrong_answer() -> None:
    verifier = MathVerifier(workers=1, deadline_s=0.001)
    score = verifier.score_blocking(r"\boxed{\int_0^{10} \sin(\cos(e^{x^2})) dx}", "7")
    assert (score.value, score.outcome) == (None, Outcome.TIMEOUT)
    verifier.close()
