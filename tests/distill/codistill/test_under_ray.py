"""Two peers as Ray actors on one machine, of which a generator is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from rlvr.demo import BASE
from rlvr.demo.problems import Split, write_jsonl
from rlvr.distill.codistill.plan import peer_folder

PEERS = ("a", "b")


def test_killing_one_peers_generator_lets_the_other_finish(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", Split.TRAIN, 256, 0)
    tree = {
        "model": str(BASE),
        "data": {"path": str(tmp_path / "train.jsonl"), "prompt": "question", "max_prompt_tokens": 128},
        "reward": "math_answer",
        "sampling": {"max_new_tokens": 44},
        "rollout": {"group_size": 8, "groups_per_step": 4, "max_staleness": 1},
        "learner": {"learning_rate": 3e-4, "token_budget": 4096},
        "generator": {"engine": "transformers"},
        "tensorboard": False,
        "steps": 12,
        "peers": {name: {"seed": seed} for seed, name in enumerate(PEERS)},
    }
    run, file = tmp_path / "run", tmp_path / "codistill.yaml"
    file.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "rlvr.cli", "codistill", str(file), f"run_dir={run}"]
    with (tmp_path / "out.txt").open("w") as out:
        driver = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    _wait_for_steps(run, 2, driver)
    _kill_a_generator(driver.pid)
    assert driver.wait(timeout=400) == 1
    printed = (tmp_path / "out.txt").read_text()
    dead = [name for name in PEERS if f"{name} died: " in printed]
    (alive,) = set(PEERS) - set(dead)
    assert len(dead) == 1, printed
    assert _steps(run, alive) == list(range(1, 13))
    assert (peer_folder(run, alive) / "policy" / "model.safetensors").is_file()
    assert not (peer_folder(run, dead[0]) / "policy").exists()


def _steps(run: Path, peer: str) -> list[int]:
    file = peer_folder(run, peer) / "metrics.jsonl"
    lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    return [json.loads(line)["step"] for line in lines]


def _wait_for_steps(run: Path, step: int, driver: subprocess.Popen[bytes], limit_s: float = 300) -> None:
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        assert driver.poll() is None, "the run ended before one of its peers could be killed"
        if all(step in _steps(run, peer) for peer in PEERS):
            return
        time.sleep(0.1)
    raise AssertionError(f"not both peers came to step {step} in {limit_s} s")


def _kill_a_generator(driver: int) -> None:
    generators = [pid for pid in _descendants(driver) if b"GeneratorActor" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(generators) == len(PEERS)
    os.kill(generators[0], signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    direct = [int(child) for child in children.read_text().split()] if children.exists() else []
    return direct + [below for child in direct for below in _descendants(child)]
