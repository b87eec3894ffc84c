"""The page of settings in the docs is what the program prints."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from rlvr.cli import app


def test_the_docs_have_the_settings_as_they_are() -> None:
    printed = CliRunner().invoke(app, ["settings"])
    assert printed.exit_code == 0
    assert (Path(__file__).parents[1] / "docs" / "settings.md").read_text() == printed.stdout, (
        "docs/settings.md is old: write it anew with `rlvr settings > docs/settings.md`"
    )
