"""Numbers of a run: one JSON line per step and per evaluation, and the same for TensorBoard.

A line is `{"step": 12, "wall_s": 81.4, "reward/mean": 0.43, ...}`. NaN, a mean over nothing, is written as null;
infinities as the strings "Infinity" and "-Infinity". A step may have several lines: training and evaluation.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlvr.files import replacing
from rlvr.run_folder import RunFolder, RunFolderError


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """One line. `wall_s` counts seconds of running, without the time between an interruption and its resume."""

    step: int
    wall_s: float
    values: dict[str, float]


class MetricLog:
    """Appends to `metrics.jsonl`, and with `tensorboard` writes the same numbers for it.

    With `resume_step`, lines of later steps are cut off first: they belong to work that is done again. Without it
    the file must not exist. Raises RunFolderError.
    """

    def __init__(self, folder: RunFolder, *, tensorboard: bool = False, resume_step: int | None = None) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            spent_s = _cut_after(folder.metrics, resume_step)
        elif folder.metrics.exists():
            raise RunFolderError(f"{folder.metrics} holds the metrics of another run: resume it, or name a new folder")
        else:
            spent_s = 0.0
        self._began = time.perf_counter() - spent_s
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._tensorboard = TensorBoardWriter(folder.tensorboard, resume_step) if tensorboard else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line; it is with the operating system when this returns, so a crash of the run keeps it."""
        record = MetricRecord(step, time.perf_counter() - self._began, dict(metrics))
        self._file.write(_to_line(record))
        self._file.flush()
        if self._tensorboard is not None:
            self._tensorboard.log(step, metrics)

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class TensorBoardWriter:
    """Scalars for TensorBoard, through its own small writer: torch is not loaded.

    With `resume_step`, TensorBoard is told to forget the later steps that earlier files hold.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

        self._writer = EventFileWriter(str(folder))
        if resume_step is not None:
            forget_from = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=resume_step + 1, session_log=forget_from))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_metrics(path: Path) -> list[MetricRecord]:
    """All lines, in order of writing. A last line that a crash cut short is left out.

    Raises RunFolderError when there is no such file, or another line is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunFolderError(f"{path} does not exist: no step is finished yet, or the run is elsewhere") from None
    whole, _, _ = text.rpartition("\n")
    return [_from_line(line, f"{path}, line {number}") for number, line in enumerate(whole.splitlines(), 1)]


def _cut_after(path: Path, step: int) -> float:
    """Keep the lines up to `step`. Returns the seconds of running that they tell of."""
    if not path.exists():
        return 0.0
    kept = [record for record in read_metrics(path) if record.step <= step]
    with replacing(path) as partial:
        partial.write_text("".join(map(_to_line, kept)), encoding="utf-8")
    return kept[-1].wall_s if kept else 0.0


def _to_line(record: MetricRecord) -> str:
    values = {name: _to_json(value) for name, value in record.values.items()}
    return json.dumps({"step": record.step, "wall_s": round(record.wall_s, 3)} | values, allow_nan=False) + "\n"


def _from_line(line: str, where: str) -> MetricRecord:
    try:
        fields: dict[str, Any] = json.loads(line)
        step, wall_s = int(fields.pop("step")), float(fields.pop("wall_s"))
        return MetricRecord(step, wall_s, {name: _from_json(value) for name, value in fields.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{where}: not a line of metrics ({error}): {line[:80]!r}") from None


def _to_json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(value)


def _from_json(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
