"""What reaches a pipe and a terminal, read as text."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console as RichConsole

from rlvr.console import Console
from rlvr.readable import count, duration, number

METRICS = {
    "reward/mean": 0.4321,
    "staleness/mean": 1.25,
    "staleness/max": 2.0,
    "throughput/answers_per_s": 85.2,
    "throughput/sampled_tokens_per_s": 12_345.0,
    "time/generator_busy_share": 0.92,
    "time/learner_busy_share": 0.71,
    "ledger/issued": 3072.0,
    "ledger/trained": 2800.0,
    "ledger/in_flight": 128.0,
    "ledger/filtered/zero_variance": 120.0,
    "ledger/filtered/too_few_valid": 8.0,
    "ledger/failed/timeout": 16.0,
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pipe() -> RichConsole:
    return RichConsole(file=io.StringIO(), width=80, highlight=False)


def screen(width: int = 110) -> RichConsole:
    return RichConsole(file=io.StringIO(), force_terminal=True, width=width, height=30, _environ={"TERM": "xterm"})


def written(out: RichConsole) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def lines(out: RichConsole) -> list[str]:
    return written(out).splitlines()


def test_a_pipe_gets_one_plain_line_with_all_numbers() -> None:
    out = pipe()
    with Console(120, out) as console:
        console.stage("wait_rollouts")
        console.step(1, METRICS)
    (line,) = lines(out)
    assert "\x1b" not in line
    for told in ("step 1/120", "reward 0.432", "staleness 1.25", "85.2 answers/s", "12.3k tokens/s", "92%", "71%"):
        assert told in line
    assert "issued 3,072 = trained 2,800 + filtered 128 + failed 16 + in flight 128" in line


def test_a_pipe_gets_a_line_every_few_seconds_and_always_the_last() -> None:
    out, clock = pipe(), Clock()
    with Console(20, out, clock) as console:
        for step in range(1, 21):
            console.step(step, METRICS)
            clock.now += 1.0
    assert [int(line.split()[1].split("/")[0]) for line in lines(out)] == [1, 6, 11, 16, 20]


def test_the_time_left_follows_the_pace_of_later_steps() -> None:
    out, clock = pipe(), Clock()
    with Console(11, out, clock) as console:
        clock.now = 100.0  # the first step pays for warming up
        console.step(1, METRICS)
        clock.now += 6.0
        console.step(2, METRICS)
    first, second = lines(out)
    assert first.endswith("left –")
    assert second.endswith("left 54 s")


def test_evaluations_and_notes_are_lines() -> None:
    out = pipe()
    with Console(3, out) as console:
        console.note("starting generators [bold]and[/bold] learner")
        console.evaluation(0, {"evaluation/pass@1": 0.27})
    assert lines(out) == [
        "starting generators [bold]and[/bold] learner",
        "step 0: held-out accuracy 0.270",
    ]


def test_what_is_not_measured_is_a_dash() -> None:
    out = pipe()
    with Console(2, out) as console:
        console.step(1, {"reward/mean": float("nan")})
    assert "reward –" in lines(out)[0]
    assert "issued –" in lines(out)[0]


@pytest.mark.parametrize("width", [110, 60])
def test_a_terminal_gets_a_live_panel_and_is_left_clean(width: int) -> None:
    out = screen(width)
    with Console(120, out) as console:
        console.evaluation(0, {"evaluation/pass@1": 0.27})
        console.evaluation(25, {"evaluation/pass@1": 0.61})
        console.stage("learn")
        console.step(30, METRICS)
        console.note("checkpoint written")
    assert written(out).rstrip().endswith("\x1b[?25h"), "the cursor is back"
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written(out))
    assert "step 30 of 120" in text
    assert "checkpoint written" in text
    for told in ("reward 0.432", "held-out 0.27 → 0.61", "generator busy 92%", "learner busy 71%", "stage learn"):
        assert told in text
    assert max(map(len, text.replace("\r", "\n").splitlines())) <= width
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert written(out).count(hide) == written(out).count(show) == 1


def test_the_cursor_comes_back_when_the_run_fails() -> None:
    out = screen()
    with pytest.raises(RuntimeError, match="stalled"), Console(120, out):
        raise RuntimeError("stalled")
    assert written(out).rstrip().endswith("\x1b[?25h")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (0.0, "0"),
        (0.12345, "0.123"),
        (999.4, "999"),
        (999.9, "1,000"),
        (1234.5, "1,234"),
        (12_345.0, "12.3k"),
        (999_999.0, "1M"),
        (2.5e6, "2.5M"),
        (-0.5, "-0.5"),
        (2.5e-5, "2.50e-05"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


def test_counts_and_durations() -> None:
    assert count(1234567.0) == "1,234,567"
    assert [duration(s) for s in (4.26, 45, 59.7, 192, 7500, 100_800)] == [
        "4.3 s",
        "45 s",
        "1 min 0 s",
        "3 min 12 s",
        "2 h 5 min",
        "1 d 4 h",
    ]
