"""`rlvr reward reverify`: another reward over a run's rollouts, offline."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_run import make_run
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.prepare import PreparationError
from rlvr.reward_function import Reward
from rlvr.reward_reverify import Reverified, reverify, reverify_run, write
from rlvr.rollout.scoring import RewardError, Scorer
from rlvr.rollout_log import write_rollouts
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.types import FinishReason, Group, Outcome, Score, Task, Trajectory


async def starts_with_a(completion: str) -> float | None:
    return None if completion == "?" else float(completion.startswith("a"))


def answer(text: str, score: Score | None) -> Trajectory:
    return Trajectory((1,), [5], [True], [-0.5], [0], FinishReason.STOP, text, score)


def group(number: int, *answers: Trajectory) -> Group:
    task = Task(f"t{number}", ({"role": "user", "content": "?"},), (1,), "a", {"answer": "a"})
    return Group(number, task, list(answers))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Three groups: one that gains a gradient under the new reward, one that loses it, one with failures."""
    run = RunFolder(tmp_path / "run")
    write_rollouts(run, 1, [group(0, answer("a", Score(1.0)), answer("b", Score(1.0)))], [])
    failed = answer("a", Score(None, Outcome.ENV_FAILED, detail="the env broke"))
    late = answer("a", Score(None, Outcome.TIMEOUT))
    write_rollouts(
        run,
        2,
        [
            group(1, answer("ab", Score(0.25)), answer("ac", Score(1.0))),
            group(2, failed, late, answer("?", Score(1.0))),
        ],
        [],
    )
    return run


async def reverified(folder: RunFolder) -> Reverified:
    scorer = Scorer([Reward(starts_with_a, "a")], deadline_s=5.0, retries=0, workers=1)
    told: list[tuple[int, int]] = []
    try:
        result = await reverify(folder, folder.rollout_steps(), scorer, lambda done, total: told.append((done, total)))
    finally:
        scorer.close()
    assert told == [(0, 2), (1, 2), (2, 2)]
    return result


async def test_each_answer_has_both_verdicts(folder: RunFolder) -> None:
    result = await reverified(folder)
    assert [(a.step, a.group_id, a.place, a.old.value, a.new.value) for a in result.answers] == [
        (1, 0, 0, 1.0, 1.0),
        (1, 0, 1, 1.0, 0.0),
        (2, 1, 0, 0.25, 1.0),
        (2, 1, 1, 1.0, 1.0),
        (2, 2, 0, None, None),
        (2, 2, 1, None, 1.0),
        (2, 2, 2, 1.0, None),
    ]
    outcomes = [a.new.outcome for a in result.answers[4:]]
    assert outcomes == [Outcome.ENV_FAILED, Outcome.SCORED, Outcome.NO_VERDICT]
    assert (result.groups, result.gained, result.lost) == (3, 1, 1)


async def test_new_verdicts_are_written_beside_the_log_which_stays(folder: RunFolder) -> None:
    def digest() -> list[str]:
        return [hashlib.sha256(folder.rollouts(step).read_bytes()).hexdigest() for step in (1, 2)]

    before = digest()
    table = pq.read_table(write(folder.reverified("a"), (await reverified(folder)).answers)).to_pylist()
    assert [(row["score"], row["new_score"]) for row in table[:3]] == [(1.0, 1.0), (1.0, 0.0), (0.25, 1.0)]
    assert (table[6]["new_outcome"], table[6]["outcome"]) == ("no_verdict", "scored")
    assert digest() == before


def test_the_command_shows_what_would_have_changed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=3, of_steps=3)
    strict = tmp_path / "strict.py"
    strict.write_text("def never(completion, worth=0.0):\n    return worth\n")
    result = CliRunner().invoke(app, ["reward", "reverify", str(run.path), "--reward", f"{strict}:never"])
    assert result.exit_code == 0, result.output
    assert "1 to 1" in result.output and "3 to 3" in result.output
    assert "the answers that differ most" in result.output
    assert run.reverified("never").is_file()

    half = ["--set", "worth=0.5"]
    CliRunner().invoke(app, ["reward", "reverify", str(run.path), "--reward", f"{strict}:never", *half])
    rows = pq.read_table(run.reverified("never")).to_pylist()
    assert {row["new_score"] for row in rows} == {0.5}


async def test_what_cannot_be_reverified_says_why(tmp_path: Path, folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="holds no rollouts"):
        await reverify_run(tmp_path / "nothing", ["format"], [], 1.0, 1)
    with pytest.raises(PreparationError, match="expected key=value"):
        await reverify_run(folder.path, ["format"], ["worth"], 1.0, 1)
    with pytest.raises(PreparationError, match="for one --reward"):
        await reverify_run(folder.path, ["format", "math_answer"], ["a=1"], 1.0, 1)
    with pytest.raises(PreparationError, match="takes no nonsense"):
        await reverify_run(folder.path, ["format"], ["nonsense=1"], 1.0, 1)
    with pytest.raises(RewardError, match="takes pattern, which is neither a column of the data"):
        await reverify_run(folder.path, ["regex"], [], 1.0, 1)
    with pytest.raises(RewardError, match="takes is_correct"):
        await reverify_run(folder.path, ["kimi_length"], [], 1.0, 1)
    assert not (folder.path / "reverified").exists()
