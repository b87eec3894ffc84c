"""`rlvr reward check`: a verdict on each row, agreement with labels, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.data import DataError
from rlvr.prepare import PreparationError
from rlvr.reward_check import Checked, Columns, check_file, show
from rlvr.reward_function import Reward
from rlvr.rollout.scoring import RewardError
from rlvr.types import Outcome

COLUMNS = Columns("completion", "answer", None)
LABELLED = Columns("completion", "answer", "label")


async def equal(completion: str, answer: str) -> float | None:
    return None if completion == "?" else float(completion == answer)


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def row(completion: str, answer: str = "4", **more: Any) -> dict[str, Any]:
    return {"completion": completion, "answer": answer} | more


async def check(file: Path, columns: Columns = COLUMNS, **keywords: Any) -> list[Checked]:
    arguments: dict[str, Any] = {"limit": None, "deadline_s": 5.0} | keywords
    return await check_file(file, arguments.pop("reward", Reward(equal, "equal")), columns, **arguments)


async def test_each_row_has_a_verdict_in_its_order(tmp_path: Path) -> None:
    checked = await check(write(tmp_path, row("4"), row("5"), row("?")))
    assert [c.row for c in checked] == [1, 2, 3]
    assert [c.score.value for c in checked] == [1.0, 0.0, None]
    assert checked[2].score.outcome is Outcome.NO_VERDICT


async def test_a_verdict_agrees_with_its_label_or_not_or_is_none(tmp_path: Path) -> None:
    labels = [True, False, 1, 0, 0.5, -1, True]
    completions = ["4", "4", "4", "5", "5", "5", "?"]
    rows = [row(text, label=label) for text, label in zip(completions, labels, strict=True)]
    checked = await check(write(tmp_path, *rows), LABELLED)
    assert [c.agrees for c in checked] == [True, False, True, True, False, True, None]


async def test_half_a_point_is_not_right(tmp_path: Path) -> None:
    async def half(completion: str) -> float:
        return 0.5

    rows = [row("4", label=True), row("4", label=False)]
    checked = await check(write(tmp_path, *rows), LABELLED, reward=Reward(half, "half"))
    assert [c.agrees for c in checked] == [False, True], "as in a gate, in GDPO and in an evaluation"


async def test_without_labels_nothing_agrees_or_differs(tmp_path: Path) -> None:
    (checked,) = await check(write(tmp_path, row("4")))
    assert (checked.label, checked.agrees) == (None, None)


async def test_the_weight_of_a_reward_does_not_change_its_verdict(tmp_path: Path) -> None:
    (checked,) = await check(write(tmp_path, row("4")), reward=Reward(equal, "equal", weight=0.0))
    assert checked.score.value == 1.0


async def test_other_columns_reach_the_reward(tmp_path: Path) -> None:
    async def by_level(completion: str, prompt: str, level: int) -> float:
        return float(level) if prompt == "2+2?" else -1.0

    file = write(tmp_path, row("4", prompt="2+2?", level=3))
    assert [c.score.value for c in await check(file, reward=Reward(by_level, "it"))] == [3.0]


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        (Columns("text", "answer", None), "row 1 has no column 'text'; it has completion, answer, label"),
        (Columns("completion", "answer", "sure"), "row 1 has no column 'sure'"),
        (LABELLED, "row 2 has no column 'label'"),
    ],
)
async def test_a_column_that_is_not_there_is_named(tmp_path: Path, columns: Columns, word: str) -> None:
    with pytest.raises(DataError, match=word):
        await check(write(tmp_path, row("4", label=1), row("5")), columns)


async def test_a_label_that_is_no_number_is_refused_and_not_taken_as_true(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2: the label must be a bool or a number, found 'false'"):
        await check(write(tmp_path, row("4", label=True), row("5", label="false")), LABELLED)


async def test_no_rows_and_a_reward_that_asks_for_more_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        await check(write(tmp_path))
    with pytest.raises(RewardError, match="takes solution"):
        await check(write(tmp_path, row("4")), reward=Reward(lambda completion, solution: 1.0, "it"))


async def test_a_row_that_crashes_the_reward_is_an_outcome_among_others(tmp_path: Path) -> None:
    async def picky(completion: str) -> float:
        return 1 / (len(completion) - 1)

    checked = await check(write(tmp_path, row("4"), row("444")), reward=Reward(picky, "picky"))
    assert [c.score.outcome for c in checked] == [Outcome.CRASHED, Outcome.SCORED]


async def test_what_is_shown_names_shares_agreement_and_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row("4", label=1), row("[/red] is no markup", label=1), row("5", label=0), row("?", label=1)]
    show(await check(write(tmp_path, *rows), LABELLED))
    shown = capsys.readouterr().out
    assert "4 answers" in shown and "no_verdict" in shown
    assert "50.0%" in shown and "25.0%" in shown
    assert "agreement with labels: 2 of 3 (66.67%)" in shown
    assert "the first of 1 that differ" in shown


def test_the_command_fixes_arguments(tmp_path: Path) -> None:
    file = write(tmp_path, row("abc-12", answer=""), row("12", answer=""))
    command = ["reward", "check", str(file), "--reward", "regex"]
    result = CliRunner().invoke(app, [*command, "--set", r"pattern=^\d+$"])
    assert result.exit_code == 0, result.output
    assert "the slowest" in result.output and result.output.count("50.0%") == 2
    with pytest.raises(RewardError, match="takes pattern"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    with pytest.raises(PreparationError, match="--set pattern: expected key=value"):
        CliRunner().invoke(app, [*command, "--set", "pattern"], catch_exceptions=False)
