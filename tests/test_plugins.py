"""Names in a config: where they lead, and what is said when they lead nowhere."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rlvr import plugins
from rlvr.envs.single_turn import SingleTurn
from rlvr.plugins import PluginError, load, short_names


def refusal(use: str) -> str:
    with pytest.raises(PluginError) as caught:
        load("rlvr.rewards", use)
    return str(caught.value)


def test_short_names_of_this_package_lead_to_objects() -> None:
    assert load("rlvr.envs", "single_turn") is SingleTurn
    assert {"math_answer", "format", "length"} <= set(short_names("rlvr.rewards"))


def test_every_short_name_loads() -> None:
    for name in short_names("rlvr.rewards"):
        assert callable(load("rlvr.rewards", name)), name


def test_an_unknown_short_name_is_answered_with_the_nearest_and_the_known() -> None:
    message = refusal("math_anser")
    assert message.startswith("no reward named 'math_anser'. Did you mean 'math_answer'? Known names: ")
    assert "package.module:name or path/to/file.py:name" in message


def test_a_short_name_whose_module_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("broken", "no_such_package.module:f", "rlvr.rewards")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    assert refusal("broken").startswith("broken is no_such_package.module:f, which cannot be loaded: ")


def test_a_module_leads_to_its_object() -> None:
    assert load("rlvr.envs", "rlvr.envs.single_turn:SingleTurn") is SingleTurn


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("no_such_package.module:f", ["cannot import 'no_such_package.module'", "PYTHONPATH"]),
        ("rlvr.envs.single_turn:SingleTurns", ["has no 'SingleTurns'", "did you mean 'SingleTurn'?"]),
        ("no_such_file.py:f", ["no file at no_such_file.py", "looked from"]),
        (":f", ["expected package.module:name or path/to/file.py:name"]),
        ("rlvr.envs.single_turn:", ["expected package.module:name"]),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_where_it_was_looked_for(use: str, words: list[str]) -> None:
    message = refusal(use)
    assert [word for word in words if word not in message] == [], message


def test_a_file_leads_to_its_function(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def right(completion):\n    return 1.0\n")
    assert load("rlvr.rewards", f"{file}:right")("x") == 1.0
    assert "did you mean 'right'?" in refusal(f"{file}:rigt")


def test_what_a_users_file_raises_is_raised_as_it_is(tmp_path: Path) -> None:
    """It is the user's own code: the traceback shows the line."""
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load("rlvr.rewards", f"{file}:right")
