"""Which answers count as equal to a reference, and which do not, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlvr.rewards.math import MathVerifier
from rlvr.types import Outcome

# Reference, answer.
EQUAL = [
    # numbers
    ("18", "18"), ("18", "18.0"), ("18", "+18"), ("18", "018"), ("18", "$18.00"), ("18", "18,"), ("1000", "1,000"),
    ("1000", "1 000"), ("14916", "14{,}916"), ("11111111100", r"11,\! 111,\! 111,\! 100"), ("5", "--5"), ("12", "１２"),
    ("1.5e3", "1500"), (r"1.5\times10^3", "1500"), (r"6.02\times 10^{23}", "6.02e23"), ("0.5", ".5"),
    ("1.22", "1,22"),
    ("2432902008176640000", "20!"), ("1024", "2^{10}"), ("-4", "-2^2"), ("4", "(-2)^2"), ("10", r"\binom{5}{2}"),
    # fractions and decimals
    ("1/3", r"0.\overline{3}"), ("1", r"0.\overline{9}"), (r"\frac{3}{4}", "0.75"), (r"-\frac34", r"\frac{-3}{4}"),
    (r"\frac{1}{12}", "0.0833333333333333"), ("7 3/4", "7.75"), (r"7\frac{3}{4}", "31/4"), ("-7 3/4", "-7.75"),
    # percent, units, money
    (r"50\%", "0.5"), (r"50\%", "50"), ("0.18", "18%"), (r"28\%", "28 percent"), ("5 million", "5000000"),
    (r"5\text{ cm}", r"50\text{ mm}"), (r"5\text{ m}^2", r"50000\text{ cm}^2"), ("5 hours", "300 min"),
    (r"10\text{ inches}", "10"), (r"90^\circ", "90"), ("18", r"18\text{ dollars}"), ("1 foot", "12 inches"),
    # roots, logarithms, complex numbers
    ("-2", r"\sqrt[3]{-8}"), ("-2", "(-8)^{1/3}"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"e^{i\pi}", "-1"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"), (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}"), ("3+4i", "4i+3"),
    (r"2\sqrt{3}", "3.4641016151377544"), (r"\arctan 1", r"\frac{\pi}{4}"), ("3", r"\log_2 8"),
    # expressions and equations
    ("x^2+2x+1", "(x+1)^2"), (r"\sin^2 x", r"1-\cos^2 x"), (r"\ln(xy)", r"\ln x+\ln y"),
    ("x^2-5x+6=0", "2x^2-10x+12=0"),
    ("2x+4y-3=0", r"y = -\frac{1}{2}x + \frac{3}{4}"), (r"\sqrt{1/n}", r"\frac{1}{\sqrt{n}}"), ("x=5", "5"),
    ("5", "x=5"),
    (r"k\pi, k\in\mathbb{Z}", r"n\pi, n\in\mathbb{Z}"), (r"\frac{\pi}{2}", "pi/2"), ("f(x)=x^2", "x^2"),
    # sets, intervals, tuples, lists, matrices
    (r"\{1,2,3\}", "3,2,1"), ("1,-2", "-2,1"), (r"\pm 2", "2,-2"), ("3,4,5", "3, 4, and 5"), ("1,2", "1 或 2"),
    ("[1,2]", "1≤x≤2"), (r"x<-1\text{ or }x>1", r"(-\infty,-1)\cup(1,\infty)"), ("x>2", r"(2,\infty)"),
    ("x>2", "2<x"),
    ("-x<-2", "x>2"), (r"\mathbb{R}", r"(-\infty,\infty)"), (r"[-1,0]\cup[0,1]", "[-1,1]"),
    (r"\emptyset", r"\varnothing"),
    (r"\emptyset", r"\{\}"), (r"\langle1,2\rangle", "(1,2)"), ("(1,2),(3,4)", "(3,4),(1,2)"), ("a=1,b=2", "b=2,a=1"),
    ("p=5,q=2;p=7,q=2", "(5,2),(7,2)"), (r"(1,\frac{9}{2})", "(1,4.5)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
    (r"\begin{pmatrix}\frac12&0\\0&1\end{pmatrix}", r"\begin{bmatrix}0.5&0\\0&1\end{bmatrix}"),
    # congruences, ratios, bases, words
    (r"n\equiv 3\pmod 7", r"n\equiv 10\pmod 7"), ("3:4", "6:8"), ("52_8", "52_{8}"), ("12:00", "12:00"),
    (r"\text{Evelyn}", "evelyn"), (r"\text{an apple}", r"\text{apple}"), (r"\text{(A)}", "A"), (r"\text{Yes}", "yes"),
]  # fmt: skip
DIFFERENT = [
    # what Math-Verify takes for equal
    ("10^{-20}", "10^{-30}"), ("0.0000001", "0.0000002"), ("1-1/e", "1+1/e"),
    (r"n\equiv 3\pmod 7", r"n\equiv 4\pmod 7"),
    ("7", "5=7"), ("1,1,2", "1,2"), ("CAB", "ABC"), ("(1,2)", r"\{1,2\}"), ("5 cm", "5 m"),
    ("10^{100}", "10^{100}+1"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"), (r"\sqrt{2}", r"\sqrt{2+10^{-18}}"), ("2 hours", "2 minutes"),
    # numbers
    ("7", "8"), ("99999999999999999", "10^{17}"), ("12345678901234567890", "12345678901234567891"), ("7 3/4", "73/4"),
    ("73/4", "7 3/4"), (r"2\frac{1}{3}", r"\frac{2}{3}"), (r"\frac13", "0.33"), (r"\pi", "3.14159265"),
    ("33.3", r"\frac{100}{3}"),
    (r"\frac{\sqrt2}{2}", "0.70710678"), (r"50\%", "5"), (r"50\%", "5000"), ("0", "0.0000004"),
    ("1000", "1.000"), ("4", "-2^2"),
    # several answers for one
    ("7", "7 or 8"), ("7", "1,2,3,4,5,6,7,8,9"), ("7", "not 7"), ("7", r"7\text{ or more}"),
    ("3", r"\pm 3"), (r"\pm 3", "3"),
    ("7", "x<7"), ("7", r"x\ne 7"), ("7", "7x"), ("7", r"\text{the answer}"), ("7", ""), ("7", "7!"),
    # expressions and equations
    ("2x", "2y"), ("|x|", "x"), (r"\sqrt{x^2}", "x"), (r"\cos 2x", r"1+2\sin^2 x"),
    ("x^2+y^2=1", "x^2-y^2=1"), ("2x+z=1", "1"),
    ("a=1,b=2", "a=2,b=1"), ("f(x)=x^2", "f(x)=x^3"), ("3+4i", "3-4i"), ("(-1)^n", "-1"), ("x^2", "x2"),
    # sets, intervals, tuples, lists, matrices
    ("x>5", "x<5"), ("x>2", r"x\ge 2"), ("x<1", "x>-1"), ("(1,2]", "[1,2)"), ("(1,2)", "(2,1)"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("(1,2),(3,4)", "(1,3),(2,4)"), (r"(0,9)\cup(9,36)", "(0,36)"), ("5", r"\infty"), (r"\infty", r"-\infty"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    # ratios, bases, words
    ("3:4", "4:3"), ("12:00", "1:00"), ("52_8", "528"), ("52_8", "42"), (r"\text{Monday}", r"\text{Sunday}"),
    (r"\text{Alice}", r"\text{Celia}"), (r"\text{ab}", r"\text{ba}"), ("A", "B"),
]  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    # A generous deadline: these tests are about verdicts, and the machine may be busy.
    verifier = MathVerifier(workers=1, deadline_s=10.0)
    yield verifier
    verifier.close()


@pytest.mark.parametrize(("reference", "answer"), EQUAL)
def test_equal(verifier: MathVerifier, reference: str, answer: str) -> None:
    score = verifier.score_blocking(rf"So it is $\boxed{{{answer}}}$.", reference)
    assert (score.value, score.outcome) == (1.0, Outcome.SCORED), score.detail


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_different(verifier: MathVerifier, reference: str, answer: str) -> None:
    score = verifier.score_blocking(rf"So it is $\boxed{{{answer}}}$.", reference)
    assert (score.value, score.outcome) == (0.0, Outcome.SCORED), score.detail


def test_tolerance_is_relative_to_the_reference() -> None:
    verifier = MathVerifier(tolerance=0.01)
    assert verifier.score_blocking(r"\boxed{3.16}", "3.14").value == 1.0
    assert verifier.score_blocking(r"\boxed{3.18}", "3.14").value == 0.0
    with pytest.raises(ValueError, match="tolerance"):
        MathVerifier(tolerance=1.0)
