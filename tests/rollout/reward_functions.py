"""Rewards as users write them, good and bad. Worker processes import this file: it costs them nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path


def equal(completion: str, answer: str) -> bool:
    return completion == answer


def raises(completion: str) -> float:
    raise KeyError(completion)


def dies(completion: str) -> float:
    os._exit(7)


def sleeps_on_bad(completion: str) -> float:
    if completion == "bad":
        time.sleep(600)
    return 1.0


def loops_on_bad(completion: str) -> float:
    while completion == "bad":
        pass
    return 1.0


def dies_on_bad(completion: str) -> float:
    if completion == "bad":
        os._exit(7)
    return 1.0


def dies_once(completion: str, marks: str) -> float:
    """`marks` is a folder: one file for each call."""
    calls = len(list(Path(marks).iterdir()))
    (Path(marks) / f"{completion}-{calls}").touch()
    if calls == 0:
        os._exit(7)
    return 1.0


def always_dies_and_counts(completion: str, marks: str) -> float:
    (Path(marks) / str(len(list(Path(marks).iterdir())))).touch()
    os._exit(7)
