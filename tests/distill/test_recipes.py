"""The recipes that are shipped: each can be run as far as can be known without running it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.demo import BASE_OF_BOTH
from rlvr.distill.pipeline.checks import check_stages, on_trust
from rlvr.distill.pipeline.cost import gpu_hours
from rlvr.distill.pipeline.place import Place
from rlvr.distill.pipeline.recipe import read_recipe
from rlvr.plan.accelerators import GPUS
from rlvr.rewards.code import code

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
LARGE = ("r1", "qwen3-small", "mopd", "codistill")


def place_of(name: str, folder: Path) -> Place:
    return Place(read_recipe(RECIPES / f"{name}.yaml"), folder)


def test_every_recipe_has_a_tiny_variant() -> None:
    names = {file.stem for file in RECIPES.glob("*.yaml")}
    assert {*LARGE} <= names
    assert {f"{name}-tiny" for name in names if not name.endswith("-tiny")} <= names


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_is_run_dry_without_a_network(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr("socket.socket.connect", nobody)
    done = CliRunner().invoke(app, ["pipeline", "run", str(file), "--dry-run", "--folder", str(tmp_path / "x")])
    assert done.exception is None, done.output
    assert done.output.count(": to run: ") == len(read_recipe(file).stages)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_says_what_it_takes_on_trust_and_fits_eight_gpus(name: str, tmp_path: Path) -> None:
    place = place_of(name, tmp_path)
    assert "Qwen/Qwen3-" in " ".join(on_trust(place))
    told = [gpu_hours(place, stage, GPUS["h100"]) for stage in place.recipe.stages]
    assert sum(" GPU-hours on 8 h100" in one for one in told) >= 2
    assert not any("does not fit" in one for one in told)


@pytest.mark.parametrize("name", [f"{name}-tiny" for name in LARGE])
def test_a_tiny_recipe_needs_nothing_but_the_package(name: str, tmp_path: Path) -> None:
    place = place_of(name, tmp_path)
    check_stages(place)
    assert on_trust(place) == []


def written(tmp_path: Path, script: str, *words: str) -> list[dict[str, Any]]:
    out = tmp_path / "rows.jsonl"
    subprocess.run([sys.executable, str(RECIPES / script), str(out), *words], check=True)
    return [json.loads(line) for line in out.read_text().splitlines()]


async def test_the_demos_problems_are_solved_by_their_solutions(tmp_path: Path) -> None:
    rows = written(tmp_path, "demo_problems.py", "--task", "mixed", "--count", "6", "--solved")
    assert [row["tag"] for row in rows] == ["math", "code"] * 3
    for row in rows:
        if row["tag"] == "math":
            assert rf"\boxed{{{row['answer']}}}" in row["completion"]
        else:
            assert (await code.function(row["completion"], row["answer"])).value == 1.0


def test_the_base_of_a_recipe_is_the_packages(tmp_path: Path) -> None:
    assert place_of("mopd-tiny", tmp_path).output("base") == Path(BASE_OF_BOTH).resolve()


async def test_questions_of_the_hub_become_rows_that_can_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))
    import hub_questions  # type: ignore[import-not-found]

    (row,) = hub_questions.rows_of("code", [{"text": "Add two.", "test_list": ["assert add(1, 2) == 3"]}])
    assert row["question"].splitlines()[-1] == "assert add(1, 2) == 3" and row["tag"] == "code"
    for operation, value in (("+", 1.0), ("-", 0.0)):
        answer = f"```python\ndef add(a, b):\n    return a {operation} b\n```"
        assert (await code.function(answer, row["answer"])).value == value
    (row,) = hub_questions.rows_of("math", [{"problem": "1+1?", "answer": 2}])
    assert (row["question"].splitlines()[0], row["answer"]) == ("1+1?", "2")
