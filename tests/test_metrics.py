"""Lines are read here with `json` alone, TensorBoard files with TensorBoard's own reader."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlvr.events import EventKind, append_event, read_events
from rlvr.metrics import MetricLog, read_metrics
from rlvr.run_folder import RunFolder, RunFolderError


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def log_steps(folder: RunFolder, steps: range, resume_step: int | None = None, *, tensorboard: bool = False) -> None:
    with MetricLog(folder, resume_step=resume_step, tensorboard=tensorboard) as log:
        for step in steps:
            log.log(step, {"reward/mean": step / 10})


def lines(folder: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_a_line_is_flat_json_and_on_disk_at_once(folder: RunFolder) -> None:
    log = MetricLog(folder)
    log.log(3, {"reward/mean": 0.5, "answer/mean_tokens": 12})
    (line,) = lines(folder)
    log.close()
    assert line.pop("wall_s") >= 0
    assert line == {"step": 3, "reward/mean": 0.5, "answer/mean_tokens": 12.0}


def test_numbers_that_json_lacks_come_back(folder: RunFolder) -> None:
    with MetricLog(folder) as log:
        log.log(1, {"nothing": math.nan, "up": math.inf, "down": -math.inf, "plain": 1e-30})
    strict = json.loads(folder.metrics.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (strict["nothing"], strict["up"], strict["down"]) == (None, "Infinity", "-Infinity")
    values = read_metrics(folder.metrics)[0].values
    assert math.isnan(values.pop("nothing"))
    assert values == {"up": math.inf, "down": -math.inf, "plain": 1e-30}


def test_a_resume_cuts_what_is_done_again(folder: RunFolder) -> None:
    log_steps(folder, range(1, 8))
    log_steps(folder, range(6, 9), resume_step=5)
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_clock_goes_on_where_the_kept_lines_end(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.metrics.write_text('{"step": 1, "wall_s": 50.0}\n{"step": 2, "wall_s": 90.0}\n')
    log_steps(folder, range(2, 3), resume_step=1)
    assert 50.0 <= lines(folder)[-1]["wall_s"] < 90.0


def test_a_line_that_a_crash_cut_short_is_left_out_and_cut_off(folder: RunFolder) -> None:
    log_steps(folder, range(1, 4))
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "wall_s": 1.0, "rewa')
    assert [record.step for record in read_metrics(folder.metrics)] == [1, 2, 3]
    log_steps(folder, range(4, 5), resume_step=3)
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4]


def test_a_failing_cut_leaves_the_old_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    log_steps(folder, range(1, 4))
    before = folder.metrics.read_bytes()

    def full_disk(self: Path, *arguments: object, **settings: object) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        MetricLog(folder, resume_step=1)
    assert folder.metrics.read_bytes() == before
    assert [path.name for path in folder.path.iterdir()] == ["metrics.jsonl"]


def test_a_damaged_line_is_named(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.metrics.write_text('{"step": 1, "wall_s": 1.0}\nnonsense\n{"step": 2, "wall_s": 2.0}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 2: .*'nonsense'"):
        read_metrics(folder.metrics)


def test_a_second_run_in_the_same_folder_is_refused(folder: RunFolder) -> None:
    log_steps(folder, range(1, 2))
    with pytest.raises(RunFolderError, match="another run"):
        MetricLog(folder)


def test_no_file_is_a_clear_error(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        read_metrics(folder.metrics)


def test_tensorboard_shows_the_same_numbers_and_forgets_what_a_resume_cut(folder: RunFolder) -> None:
    log_steps(folder, range(1, 8), tensorboard=True)
    log_steps(folder, range(6, 9), resume_step=5, tensorboard=True)
    shown = EventAccumulator(str(folder.tensorboard))
    shown.Reload()
    scalars = [(event.step, event.value) for event in shown.Scalars("reward/mean")]
    assert scalars == [(step, pytest.approx(step / 10)) for step in range(1, 9)]


def test_tensorboard_needs_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from rlvr.metrics import TensorBoardWriter
writer = TensorBoardWriter(Path({str(tmp_path)!r}))
writer.log(1, {{"a": 1.0}})
writer.close()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(tmp_path.iterdir())


def test_events_come_back_in_order_and_hold_any_text(folder: RunFolder) -> None:
    assert read_events(folder) == []
    append_event(folder, 4, EventKind.WARNING, 'two\nlines, "quotes", \u2028 and ünïcode')
    append_event(folder, 5, EventKind.FAILURE, "stopped")
    with folder.events.open("a") as file:
        file.write('{"step": 6, "ki')
    first, second = read_events(folder)
    assert (first.step, first.kind, first.text) == (4, EventKind.WARNING, 'two\nlines, "quotes", \u2028 and ünïcode')
    assert (second.step, second.kind, second.text) == (5, EventKind.FAILURE, "stopped")
    append_event(folder, 4, EventKind.NOTE, "resumed")
    assert [event.text for event in read_events(folder)] == [first.text, "stopped", "resumed"]
