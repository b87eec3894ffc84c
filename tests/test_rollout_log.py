"""Files are opened here with pyarrow alone, so that the column names and types are part of what is promised."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_run import make_run

from rlvr.rollout.ledger import Fate
from rlvr.rollout_log import prompt_text, read_groups, read_rollouts, write_evaluation, write_rollouts
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.types import FinishReason, Group, Outcome, Score, Task, TokenFate, Trajectory

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`\\ \x00\r\n\u2028 語 🙂 " + "x" * 100_000


def trajectory(score: Score | None, text: str = "4", tokens: tuple[int, ...] = (5, 6, 7)) -> Trajectory:
    """Its middle token was read, not sampled: what a tool said."""
    return Trajectory(
        prompt_ids=(1, 2),
        token_ids=list(tokens),
        sampled=[i != 1 for i in range(len(tokens))],
        logprobs=[float(np.float32(-0.1 * i)) if i != 1 else 0.0 for i in range(len(tokens))],
        versions=[3 + i if i != 1 else -1 for i in range(len(tokens))],
        finish=FinishReason.STOP,
        text=text,
        score=score,
        generate_s=1.5,
        score_s=0.25,
    )


def group(group_id: int, *scores: Score | None) -> Group:
    prompt = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"})
    task = Task(f"task-{group_id}", prompt, (1, 2), {"value": 4}, {"level": 3, "tags": ["sum"]})
    return Group(group_id, task, [trajectory(score) for score in scores])


RIGHT = Score(1.0, parts={"exact": 1.0}, detail="4 is 4")
WRONG = Score(0.0, parts={"exact": 0.0})
LATE = Score(None, Outcome.TIMEOUT, detail="no answer in 10 s")


def rows(path: Path) -> list[dict[str, object]]:
    return pq.read_table(path).to_pylist()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_groups_come_back_equal(folder: RunFolder) -> None:
    trained, filtered = [group(0, RIGHT, WRONG), group(1, RIGHT, LATE, None)], group(2, WRONG, WRONG)
    path = write_rollouts(folder, 7, trained, [(filtered, Fate.ZERO_VARIANCE)])
    assert path == folder.path / "rollouts" / "step-000007.parquet"
    assert read_groups(path) == [*trained, filtered]


def test_the_experts_of_what_was_trained_come_back(folder: RunFolder) -> None:
    trained, filtered = group(0, RIGHT, WRONG), group(1, WRONG)
    wide = np.array([[[300, 2]], [[1, 7]], [[0, 5]]], np.uint16)  # tokens, layers, top_k
    trained.trajectories[0].experts = filtered.trajectories[0].experts = wide
    path = write_rollouts(folder, 1, [trained], [(filtered, Fate.ZERO_VARIANCE)])
    (first, second), (third,) = (g.trajectories for g in read_groups(path))
    assert first.experts is not None and first.experts.dtype == np.uint16
    assert np.array_equal(first.experts, wide)
    assert second.experts is None and third.experts is None


def test_a_step_that_was_read_can_be_written_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2, of_steps=2)
    groups = read_groups(run.rollouts(2))
    assert sum(len(g.trajectories) for g in groups) == 32
    assert read_groups(write_rollouts(run, 9, groups, [])) == groups


def test_a_row_says_what_became_of_a_trajectory_and_why(folder: RunFolder) -> None:
    path = write_rollouts(
        folder,
        1,
        [group(0, RIGHT, LATE, WRONG)],
        [(group(1, WRONG, WRONG), Fate.ZERO_VARIANCE), (group(2, LATE, None), Fate.TOO_FEW_VALID)],
        advantages=[[0.5, -0.5]],
    )
    told = [(row["group_id"], row["score"], row["outcome"], row["advantage"], row["fate"]) for row in rows(path)]
    assert told == [
        (0, 1.0, "scored", 0.5, "trained"),
        (0, None, "timeout", None, "timeout"),
        (0, 0.0, "scored", -0.5, "trained"),
        (1, 0.0, "scored", None, "zero_variance"),
        (1, 0.0, "scored", None, "zero_variance"),
        (2, None, "timeout", None, "timeout"),
        (2, None, None, None, "env_failed"),
    ]


def test_each_sampled_token_of_a_trained_answer_has_its_fate(folder: RunFolder) -> None:
    trained = group(4, RIGHT, WRONG)
    trained.trajectories[0].sampled = [True, False, True]
    trained.trajectories[0].token_ids = [5, 6, 7]
    path = write_rollouts(folder, 1, [trained], [], token_fates={(4, 0): bytes([TokenFate.TRAINED, TokenFate.BOUNDED])})
    assert [row["token_fates"] for row in rows(path)] == [["trained", None, "bounded"], None]


def test_columns_for_readers(folder: RunFolder) -> None:
    row = rows(write_rollouts(folder, 1, [group(0, RIGHT, WRONG)], []))[0]
    assert row["prompt"] == "system: Be brief.\n\nuser: 2 + 2?"
    assert json.loads(str(row["target"])) == {"value": 4}
    assert json.loads(str(row["parts"])) == {"exact": 1.0}
    assert (row["tokens"], row["oldest_version"], row["newest_version"]) == (2, 3, 5)
    assert (row["answer"], row["detail"], row["finish"]) == ("4", "4 is 4", "stop")
    assert (row["generate_s"], row["score_s"], row["advantage"]) == (1.5, 0.25, None)
    (logged, _) = read_rollouts(folder.rollouts(1))
    assert (logged.score, logged.parts, logged.outcome, logged.fate) == (1.0, {"exact": 1.0}, "scored", "trained")


def test_held_out_answers_have_no_fate(folder: RunFolder) -> None:
    path = write_evaluation(folder, 0, [group(0, RIGHT)])
    assert path == folder.path / "evaluations" / "step-000000.parquet"
    assert [row["fate"] for row in rows(path)] == [None]


def test_hostile_text_comes_back_and_broken_text_does_not_stop_a_run(folder: RunFolder) -> None:
    hostile = group(0, Score(1.0, detail="half a pair: \ud83d"), WRONG)
    hostile.trajectories[0].text = HOSTILE
    write_rollouts(folder, 1, [hostile], [])
    first = read_rollouts(folder.rollouts(1))[0]
    assert first.answer == HOSTILE
    assert first.detail == "half a pair: ?"


def test_targets_that_json_lacks_are_kept_as_text(folder: RunFolder) -> None:
    task = Task("t", ({"role": "user", "content": "when?"},), (1,), date(2026, 1, 2), {"day": date(2026, 1, 2)})
    write_rollouts(folder, 1, [Group(0, task, [trajectory(RIGHT)])], [])
    assert read_groups(folder.rollouts(1))[0].task.target == "2026-01-02"


def test_an_answer_without_tokens(folder: RunFolder) -> None:
    nothing = group(0, None, RIGHT)
    nothing.trajectories[0] = trajectory(None, "", ())
    write_rollouts(folder, 1, [nothing], [])
    row = rows(folder.rollouts(1))[0]
    assert (row["tokens"], row["oldest_version"], row["newest_version"]) == (0, None, None)
    assert read_groups(folder.rollouts(1)) == [nothing]


def test_a_resumed_run_replaces_the_file_of_its_step(folder: RunFolder) -> None:
    write_rollouts(folder, 3, [group(0, RIGHT, WRONG)], [])
    write_rollouts(folder, 3, [group(5, WRONG, RIGHT)], [])
    assert [row["group_id"] for row in rows(folder.rollouts(3))] == [5, 5]
    assert folder.rollout_steps() == [3]


def test_a_step_without_groups_is_an_empty_file(folder: RunFolder) -> None:
    assert read_groups(write_rollouts(folder, 1, [], [])) == []


def test_a_failing_write_leaves_the_old_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rollouts(folder, 1, [group(0, RIGHT, WRONG)], [])
    before = path.read_bytes()

    def dies_half_way(table: object, where: Path, **settings: object) -> None:
        where.write_bytes(b"PAR1 half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", dies_half_way)
    with pytest.raises(OSError, match="no space"):
        write_rollouts(folder, 1, [group(1, RIGHT, WRONG)], [])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_is_not_a_log_is_named(tmp_path: Path) -> None:
    other = tmp_path / "step-000001.parquet"
    with pytest.raises(RunFolderError, match=r"step-000001\.parquet"):
        read_rollouts(other)
    other.write_bytes(b"not parquet at all")
    with pytest.raises(RunFolderError, match=r"step-000001\.parquet"):
        read_rollouts(other)


def test_a_single_user_message_is_its_own_text() -> None:
    assert prompt_text([{"role": "user", "content": "2 + 2?"}]) == "2 + 2?"
