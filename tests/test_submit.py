"""What a submitted job is told: it starts in a folder of its own, and reads this machine's files where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.config_loading import load_config
from rlvr.submit import _absolute


def test_local_paths_are_made_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.jsonl").write_text("{}")
    (tmp_path / "model").mkdir()
    words = ["model=model", "data=tasks.jsonl", "env.use=my_env.py:Tool", "run_dir=run"]
    functions = "reward.functions=[mine.py:right, format, package.module:other]"
    config = _absolute(load_config([], [*words, functions, "evaluation.data=openai/gsm8k"]))
    here = str(tmp_path)
    assert (config.model.name, config.data.path, str(config.run_dir)) == (
        f"{here}/model",
        f"{here}/tasks.jsonl",
        f"{here}/run",
    )
    assert config.env.use == f"{here}/my_env.py:Tool"
    assert [f.use for f in config.reward.functions] == [f"{here}/mine.py:right", "format", "package.module:other"]
    assert config.evaluation.data is not None and config.evaluation.data.path == "openai/gsm8k"
