"""Where the final answer of a completion and of a reference is found."""

from __future__ import annotations

import pytest

from rlvr.rewards.math import MathVerifier
from rlvr.rewards.math.extract import Source, final_answer, reference_answer


@pytest.mark.parametrize(
    ("completion", "answer", "source"),
    [
        (r"So $\boxed{7}$.", "7", Source.BOXED),
        (r"\boxed{8}, no wait, \boxed{7}", "7", Source.BOXED),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}", Source.BOXED),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", Source.BOXED),
        (r"\fbox{7}", "7", Source.BOXED),
        (r"\boxed 7", "7", Source.BOXED),
        (r"Put it in \boxed please. $\boxed{5}$", "5", Source.BOXED),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "1, 2, 3", Source.BOXED),
        (r"\boxed{1} papers and \boxed{2} bins", "1, 2", Source.BOXED),
        (r"I think \boxed{3} or \boxed{5}", "3, 5", Source.BOXED),
        (r"\boxed{5}, that is \boxed{5}", "5", Source.BOXED),
        ("<think>\\boxed{1}</think> It is \\boxed{2}", "2", Source.BOXED),
        ("reasoning</think>\\boxed{2}", "2", Source.BOXED),
        ("2 + 2 = <<2+2=4>>4\n#### 4", "4", Source.HASHES),
        ("#### 3\n#### 1,234\n", "1,234", Source.HASHES),
        ("<answer> 42 </answer>", "42", Source.ANSWER_TAG),
        ("2 * 9 = 18\nA: 18", "18", Source.ANSWER_LINE),
        ("The answer is 18.", "18.", Source.ANSWER_LINE),
        ("A: 12\nB: 15\nThe answer is B", "B", Source.ANSWER_LINE),
        ("Final Answer: The final answer is $x^2$. I hope it is correct.", "$x^2$", Source.ANSWER_LINE),
        (r"\boxed{5}. Final Answer: The final answer is $6$. I hope it is correct.", "$6$", Source.ANSWER_LINE),
        ("**Final Answer:** 73", "73", Source.ANSWER_LINE),
        ("**Final Answer**\n\n73", "73", Source.ANSWER_LINE),
        ("The answer is not 7.", "not 7.", Source.ANSWER_LINE),
        ("First 3, then 18 dollars remain.", r"18\text{ dollars}", Source.LAST_VALUE),
        ("She spends $5 and $7, in all $12.", "$12", Source.LAST_VALUE),
        ("It weighs 1,000.99m²", "1,000.99", Source.LAST_VALUE),
        ("That leaves -0.5, and so 7 3/4 cups", r"7 3/4\text{ cups}", Source.LAST_VALUE),
        ("The roots are $1$, $2$ and $3$.", "1, 2, 3", Source.LAST_VALUE),
        ("The point is (3, 4).", "(3, 4)", Source.LAST_VALUE),
        ("The answer is 8, not 7.", "8", Source.ANSWER_LINE),
        ("The answer is at most 7.", "at most 7.", Source.ANSWER_LINE),
        ("The correct option is B", "B", Source.ANSWER_LINE),
        (r"Therefore $x \geq 5$ is the solution.", r"x \geq 5", Source.LAST_VALUE),
        ("The minimum is −4.", "−4", Source.LAST_VALUE),
        ("The period is 2π/3.", "2π/3", Source.LAST_VALUE),
        ("The side is 3√2 cm.", "3√2 cm", Source.LAST_VALUE),
        ("We divide by x - 1. The quotient is x + 2.", "x + 2", Source.LAST_VALUE),
        ("The domain is [3, ∞), which is closed.", "[3, ∞)", Source.LAST_VALUE),
        ("So the winner is Evelyn.", "Evelyn", Source.LAST_VALUE),
        ("Option C is correct", "C", Source.ANSWER_LINE),
        ("After checking, option **D** is correct.", "D", Source.ANSWER_LINE),
        ("Thus (C) is the correct answer.", "C", Source.ANSWER_LINE),
        ("I would choose D.", "D", Source.ANSWER_LINE),
        ("I choose B. A is wrong.", "B", Source.ANSWER_LINE),
        ("Option C is not correct.", "Option C is not correct.", Source.LAST_VALUE),
        ("Either C or D is correct.", "Either C or D is correct.", Source.LAST_VALUE),
        ("Either B or option C is correct.", "Either B or option C is correct.", Source.LAST_VALUE),
        ("I would choose C or D.", "I would choose C or D.", Source.LAST_VALUE),
        ("Answer: 12 (or 13)", "12 (or 13)", Source.ANSWER_LINE),
        ("Answer: 12 (one for each month)", "12", Source.ANSWER_LINE),
        ("Answer: 7 (if n is odd) or 8", "7 (if n is odd) or 8", Source.ANSWER_LINE),
        ("Answer: 7 (if both ends count)", "7", Source.ANSWER_LINE),
        ("Answer: 3 to 2", "3 to 2", Source.ANSWER_LINE),
        ("Answer: 15n for every integer n", "15n", Source.ANSWER_LINE),
        ("So x > 2.", "x > 2", Source.LAST_VALUE),
        ("Thus we get 1 < x ≤ 3.", "1 < x ≤ 3", Source.LAST_VALUE),
        ("5 inches", r"5\text{ inches}", Source.LAST_VALUE),
        ("It takes him 5 seconds to run there.", r"5\text{ seconds}", Source.LAST_VALUE),
        ("There are 18 in total, and 12 in a box.", "12", Source.LAST_VALUE),
        ("He has 5 apples.", "5", Source.LAST_VALUE),
        ("Is it 12?", "Is it 12?", Source.LAST_VALUE),
        ("So he has 12. Shall we go on?", "12", Source.LAST_VALUE),
        ("No: 12 does not satisfy the equation.", "No: 12 does not satisfy the equation.", Source.LAST_VALUE),
        (
            "Suppose x = 12. This leads to a contradiction.",
            "Suppose x = 12. This leads to a contradiction.",
            Source.LAST_VALUE,
        ),
        ("Let x be his apples; then x = 12.", "12", Source.LAST_VALUE),
        ("I cannot answer question 12.", "I cannot answer question 12.", Source.LAST_VALUE),
        ("We get 12 in step 3.", "12", Source.LAST_VALUE),
        ("The value cannot be 5.", "The value cannot be 5.", Source.LAST_VALUE),
        ("So in all it is 7 * 200 = 1400", "1400", Source.LAST_VALUE),
        ("The answer is 5 (see step 4).", "5", Source.ANSWER_LINE),
        ("The answer is π/3 radians.", r"π/3\text{ radians}", Source.ANSWER_LINE),
        (
            r"\begin{align*} x &= 2 \\ &= 3 \end{align*}",
            r"\begin{align*} x &= 2 \\ &= 3 \end{align*}",
            Source.LAST_VALUE,
        ),
        ("Ответ: 7.", "7.", Source.ANSWER_LINE),
        ("La respuesta es 7.", "7.", Source.ANSWER_LINE),
        ("We see that 7 is not possible.", "We see that 7 is not possible.", Source.LAST_VALUE),
        ("答えは7ではない。", "7ではない。", Source.ANSWER_LINE),
        ("La respuesta no es 7.", "La respuesta no es 7.", Source.LAST_VALUE),
        ("정답은 7입니다.", "7", Source.ANSWER_LINE),
        ("答えは7です。", "7", Source.ANSWER_LINE),
        ("答案是8，不是7。", "8", Source.ANSWER_LINE),
        ("故选：A", "A", Source.ANSWER_LINE),
        ("共有12种方法。", "12", Source.LAST_VALUE),
        (r"\boxed{1}和\boxed{2}", "1, 2", Source.BOXED),
        (r"With 3 tries, \(\frac{1}{2}\) is left", r"\frac{1}{2}", Source.LAST_VALUE),
    ],
)
def test_final_answer(completion: str, answer: str, source: Source) -> None:
    found = final_answer(completion)
    assert found is not None
    assert (found.text, found.source) == (answer, source)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "   \n ",
        r"\boxed{}",
        r"$\boxed{7$",
        r"\boxed{7} and then \boxed{8",
        "<think>It is 7",
        r"<think>It is \boxed{7}</think>",
        "<think>one</think> <think>7",
        "####",
        "I do not know, and so I give up on this long and winding question, which has kept me busy all day long. " * 3,
    ],
)
def test_no_final_answer(completion: str) -> None:
    assert final_answer(completion) is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("18", "18"),
        (" 18 \n", "18"),
        (18, "18"),
        (0.5, "0.5"),
        ("She has 9 * 2 = <<9*2=18>>18\n#### 18", "18"),
        ("She has 18\nA: 18", "18"),
        (r"Then $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"$x^2 + 1$", r"$x^2 + 1$"),
    ],
)
def test_reference_answer(answer: str | float, text: str) -> None:
    assert reference_answer(answer) == text


@pytest.mark.parametrize("answer", [None, True, ["18"]])
def test_a_reference_of_another_type_is_refused(answer: object) -> None:
    with pytest.raises(TypeError, match="expected a string or a number"):
        reference_answer(answer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("completion", "reference", "value"),
    [
        ("5 inches", r"5\text{ cm}", 0.0),
        ("It takes 5 seconds.", r"5\text{ minutes}", 0.0),
        ("It takes 300 seconds.", r"5\text{ minutes}", 1.0),
        ("It takes 5 minutes.", "5", 1.0),
        ("The answer is π/3 radians.", r"\frac{\pi}{3}", 1.0),
        ("The answer is π/3 radians.", r"60^\circ", 1.0),
        ("Sorry, I cannot answer question 12.", "12", 0.0),
        ("We cannot find more than these, so the number is 12.", "12", 1.0),
        ("It took 2 hours and 30 minutes.", "2.5 hours", 1.0),
        ("It took 2 hours and 30 minutes.", "30", 0.0),
        ("It took 2 hours, and 30 apples were left.", "30", 1.0),
        ("It weighs 2 pounds 3 ounces.", r"35\text{ ounces}", 1.0),
        ("Answer: from 3 to 5", "5", 0.0),
        ("Answer: 12 (or 13)", "12", 0.0),
        (r"The probability is $\frac{3}{4}$, or 75%.", r"\frac{3}{4}", 1.0),
        (r"The probability is $\frac{3}{4}$, or 57%.", r"\frac{3}{4}", 0.0),
    ],
)
def test_what_is_found_is_compared_as_it_was_said(completion: str, reference: str, value: float) -> None:
    assert MathVerifier(workers=1).score_blocking(completion, reference).value == value
