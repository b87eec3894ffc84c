"""A recipe that is killed in two real stages. All stages of a shipped one: `python tests/distill/kill_recipe.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from rlvr.demo.problems import Split, write_jsonl

HERE = Path(__file__).parent


def test_killed_in_real_stages_it_goes_on_from_checkpoints_and_leaves_nothing(tmp_path: Path) -> None:
    """Supervised fine-tuning, then reinforcement learning under Ray."""
    write_jsonl(tmp_path / "tasks.jsonl", Split.TRAIN, 64, 0)
    data = {"path": "${tasks}", "prompt": "question", "max_prompt_tokens": 128}
    common = {"tensorboard": False, "checkpoint": {"every_steps": 2}, "learner": {"token_budget": 1024}}
    learn = {"model": "tiny", "data": data | {"completion": "answer"}, "sft": {"rows_per_step": 8}, "steps": 12}
    reason = {
        "model": "${learn}",
        "data": data,
        "reward": "math_answer",
        "sampling": {"max_new_tokens": 44},
        "rollout": {"group_size": 4, "groups_per_step": 4},
        "generator": {"engine": "transformers"},
        "steps": 8,
    }
    recipe = {
        "name": "killed",
        "inputs": {"tasks": "tasks.jsonl"},
        "stages": {
            "learn": {"verb": "sft", "settings": learn | common},
            "reason": {"verb": "train", "settings": reason | common},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    words = [sys.executable, str(HERE / "kill_recipe.py"), "recipe.yaml", "--folder", "killed"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^killed in learn +after step \d+, checkpoint of \d+ ", ended.stdout, re.MULTILINE), ended.stdout
    assert re.search(r"^killed in reason +after step \d+, checkpoint of \d+ ", ended.stdout, re.MULTILINE), ended.stdout
    assert "[1/2] learn: done before" in ended.stdout
    assert "[2/2] reason: train, from its checkpoint of step" in ended.stdout
