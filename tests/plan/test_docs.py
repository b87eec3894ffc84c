"""What docs/planning.md shows is what the program prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlvr.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
SHOWN = [
    (command, output)
    for command, output in re.findall(r"```console\n\$ rlvr (.*?)\n(.*?)```", PAGE, re.DOTALL)
    if command.split()[0] in ("inspect", "plan")
]


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_the_page_shows_what_is_printed(command: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = CliRunner().invoke(app, command.split(), env={"COLUMNS": "100"}).stdout
    assert [line.rstrip() for line in printed.rstrip().splitlines()] == output.rstrip().splitlines(), (
        f"docs/planning.md is old: run `COLUMNS=100 rlvr {command}` and put in what it prints"
    )


def test_the_page_shows_both_commands() -> None:
    assert {command.split()[0] for command, _ in SHOWN} == {"inspect", "plan"}
