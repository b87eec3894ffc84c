"""Which answers count as equal to a reference, and which do not: the pairs of `math_pairs.txt`, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.rewards.math import MathVerifier
from rlvr.types import Outcome

SIGNS = {"==": 1.0, "!=": 0.0}


def pairs() -> list[tuple[str, str, str]]:
    lines = (Path(__file__).parent / "math_pairs.txt").read_text(encoding="utf-8").split("\n")
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            reference, sign, answer = line.replace("  ==  ", "\t==\t").replace("  !=  ", "\t!=\t").split("\t")
            found.append((reference, sign, answer))
    return found


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    # A generous deadline: these tests are about verdicts, and the machine may be busy.
    verifier = MathVerifier(workers=1, deadline_s=10.0)
    yield verifier
    verifier.close()


@pytest.mark.parametrize(("reference", "sign", "answer"), pairs())
def test_verdict(verifier: MathVerifier, reference: str, sign: str, answer: str) -> None:
    score = verifier.score_blocking(rf"So it is $\boxed{{{answer}}}$.", reference)
    assert (score.value, score.outcome) == (SIGNS[sign], Outcome.SCORED), score.detail


def test_tolerance_is_relative_to_the_reference(verifier: MathVerifier) -> None:
    assert verifier.score_blocking(r"\boxed{3.16}", "3.14", tolerance=0.01).value == 1.0
    assert verifier.score_blocking(r"\boxed{3.18}", "3.14", tolerance=0.01).value == 0.0
    assert verifier.score_blocking(r"\boxed{3.16}", "3.14").value == 0.0
    with pytest.raises(ValueError, match="tolerance"):
        verifier.score_blocking(r"\boxed{1}", "1", tolerance=1.0)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"\sqrt{2}", "1.414"),
        (r"\frac{1}{3}", "0.333"),
        (r"(\frac{1}{3}, \pi)", "(0.333, 3.14)"),
        (r"\begin{pmatrix}\frac{1}{3}\\2\end{pmatrix}", r"\begin{pmatrix}0.333\\2\end{pmatrix}"),
        (r"(\frac{8}{3}, \infty)", r"(2.667, \infty)"),
        ("5.02 cm", "50 mm"),
    ],
)
def test_tolerance_holds_in_every_part(verifier: MathVerifier, reference: str, answer: str) -> None:
    assert verifier.score_blocking(rf"\boxed{{{answer}}}", reference, tolerance=0.01).value == 1.0
    assert verifier.score_blocking(rf"\boxed{{{answer}}}", reference).value == 0.0


def test_any_of_several_references_will_do(verifier: MathVerifier) -> None:
    assert verifier.score_blocking(r"\boxed{2x}", ["x+1", "x+x"]).value == 1.0
    assert verifier.score_blocking(r"\boxed{3x}", ["x+1", "x+x"]).value == 0.0
    assert verifier.score_blocking(r"\boxed{2}", [1, 2.0]).value == 1.0
    assert verifier.score_blocking(r"\boxed{2}", []).outcome is Outcome.NO_VERDICT
