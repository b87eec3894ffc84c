"""Verdicts on real data, read from the folder that the environment variable RLVR_DATA names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlvr.rewards.math import MathVerifier

needs_data = pytest.mark.skipif("RLVR_DATA" not in os.environ, reason="RLVR_DATA names no folder with the data sets")

# Rows of the graded solutions, by number, where the verdict differs from the label, and who is right. There are none.
KNOWN_DIFFERENCES: dict[int, str] = {}

# Reference and answer of the hard pairs where the verdict differs from the label, and why it does.
_ONE_LINE = "labelled wrong because Math-Verify reads no math span of several lines; 9 is what it says"
_ROUNDED = "the label rounds to 2 or 4 digits; that is what `tolerance` is for"
WHY_DIFFERENT = {
    ("$9$", "Answer $ \n 9 \n $"): _ONE_LINE,
    ("$9$", "Answer \\( \n 9 \n \\)"): _ONE_LINE,
    (
        "$10/9$",
        "Answer $ \\frac{1}{2} \\$ = \\frac{10}{9} $",
    ): "1/2 = 10/9 is false, and a false statement has no value",
    ("$1 = \\zzz = x = 0$", "$0$"): "the reference says 1 = 0, which has no value either",
    (
        "$(\\begin{pmatrix}\\frac{1}{3}\\\\ \\frac{1}{5} \\end{pmatrix})$",
        "$\\begin{pmatrix}0.33\\\\0.2 \\end{pmatrix}$",
    ): _ROUNDED,
    ("$(\\frac{3}{5},\\frac{8}{3}]$", "$(0.6,2.6667]$"): _ROUNDED,
    ("$x \\in [-2,7]$", "$-2 \\\\le x \\\\le 7$"): "labelled wrong by a switch of Math-Verify; the two say the same",
    ("$\\\\boxed{35 cm} ++++++ \\\\boxed{4}$", "${35 cm,4}$"): "the last box of the reference counts, and holds 4",
    (
        "\\\\boxed{W(n) = 1 \\\\text{ and } W(n) = -1",
        "W(x)=1orW(x)=-1",
    ): "broken on the way: the reference's box is never closed, the answer's words have no spaces",
    ("$f(x)$", "$f(y)$"): "f of another unknown; labelled right by a switch of Math-Verify",
}


def rows_of(name: str) -> list[dict[str, Any]]:
    text = (Path(os.environ["RLVR_DATA"]) / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@needs_data
def test_every_reference_solution_of_gsm8k_is_accepted_as_it_stands() -> None:
    rows = rows_of("gsm8k_test.jsonl")
    assert len(rows) == 1319
    verifier = MathVerifier()
    refused = [row["answer"] for row in rows if verifier.score_blocking(row["answer"], row["answer"]).value != 1.0]
    assert refused == []


@needs_data
def test_verdicts_agree_with_the_labels_of_graded_solutions() -> None:
    rows = rows_of("gsm8k_graded_solutions.jsonl")
    assert len(rows) == 5276
    verifier = MathVerifier()
    differing = {
        number
        for number, row in enumerate(rows)
        if verifier.score_blocking(row["solution"], row["gold"]).value != float(row["is_correct"])
    }
    verifier.close()
    assert differing == set(KNOWN_DIFFERENCES)
    assert len(differing) <= 0.005 * len(rows)


@needs_data
def test_verdicts_on_hard_pairs() -> None:
    rows = rows_of("math_cases.jsonl")
    verifier = MathVerifier(workers=1, deadline_s=10.0)
    values = [verifier.score_blocking(row["pred"], row["gold"]).value for row in rows]
    verifier.close()
    differing = [(row, value) for row, value in zip(rows, values, strict=True) if value != float(row["equal"])]
    unexplained = [
        (row["gold"], row["pred"]) for row, _ in differing if (row["gold"], row["pred"]) not in WHY_DIFFERENT
    ]
    assert unexplained == []
    assert len(differing) <= 0.03 * len(rows)
    assert sum(value == 1.0 for _, value in differing) <= 0.01 * len(rows)
    assert None not in values


@pytest.mark.parametrize(
    ("solution", "correct"),
    [
        ("16 - 3 - 4 = <<16-3-4=9>>9 eggs are left.\n9 * 2 = $<<9*2=18>>18 a day.\nA: 18", True),
        ("16 - 3 = <<16-3=13>>13 eggs are left.\n13 * 2 = $<<13*2=26>>26\nA: 26", False),
        ("That makes $1,800 / 100 = $18.00.\n#### 18.00", True),
        ("She has 18 eggs and sells 2", False),
    ],
)
def test_solutions_in_the_style_of_gsm8k(solution: str, correct: bool) -> None:
    gold = "16 - 3 - 4 = <<16-3-4=9>>9\n9 * 2 = <<9*2=18>>18\n#### 18"
    assert MathVerifier().score_blocking(solution, gold).value == float(correct)
