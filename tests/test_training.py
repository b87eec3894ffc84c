"""The main job, whole: the real engine under Ray, from the command line and from Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

import rlvr
from rlvr.demo.problems import Split, rows
from rlvr.events import read_events
from rlvr.run_folder import RunFolder
from rlvr.types import Group

RLVR = [sys.executable, "-m", "rlvr.cli"]
SMALL = ["rollout.groups_per_step=8", "evaluation.every_steps=0", "tensorboard=false"]


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().rpartition("\n")[0].splitlines()]


def _steps(run: Path) -> list[dict[str, float]]:
    return [line for line in _lines(run) if "ledger/issued" in line]


def _settled(line: dict[str, float]) -> float:
    return line["ledger/trained"] + sum(
        value for name, value in line.items() if name.startswith(("ledger/filtered/", "ledger/failed/"))
    )


def _assert_books_balance(run: Path) -> None:
    """From the log alone: counters against each other, and against the answers on disk."""
    on_disk = 0
    for line in _steps(run):
        assert line["ledger/issued"] == _settled(line) + line["ledger/in_flight"]
        on_disk += pq.read_metadata(run / "rollouts" / f"step-{int(line['step']):06d}.parquet").num_rows
        assert _settled(line) <= on_disk + line["ledger/in_flight"]
    assert on_disk >= _steps(run)[-1]["ledger/trained"]


def _assert_seconds_add_up(run: Path) -> None:
    """Of the stages, to no more than the step that they are in; and what comes after the last step is told."""
    for line in _steps(run):
        of_stages = [name for name in line if name.startswith("time/") and name.endswith("_s")]
        seconds = sum(line[name] for name in of_stages if name not in ("time/step_s", "time/update_stall_s"))
        assert 0.5 * line["time/step_s"] < seconds <= line["time/step_s"]
    (end,) = [event.text for event in read_events(RunFolder(run)) if event.text.startswith("the end took")]
    assert all(f"{stage} " in end for stage in ("record", "evaluate", "checkpoint", "export"))


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short demo from the command line, and what it printed."""
    run = tmp_path_factory.mktemp("demo") / "run"
    done = subprocess.run(
        [*RLVR, "demo", f"run_dir={run}", "steps=24", "evaluation.every_steps=0"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return run, done.stdout


def test_the_demo_trains_asynchronously_and_says_so(demo_run: tuple[Path, str]) -> None:
    run, printed = demo_run
    before, after = (line["evaluation/pass@1"] for line in _lines(run) if "evaluation/pass@1" in line)
    assert f"held-out accuracy {before:.2f} -> {after:.2f}" in printed
    assert after > before + 0.1
    assert str((run / "report.html").resolve()) in printed
    steps = _steps(run)
    assert [line["policy/version"] for line in steps] == list(range(1, 25))
    # Of some 600 sampled answers each, which chance moves less than the greedy answers to 256 problems.
    assert fmean(line["reward/mean"] for line in steps[-4:]) > fmean(line["reward/mean"] for line in steps[:4]) + 0.08
    assert max(line["staleness/max"] for line in steps) >= 1


def test_nothing_is_lost(demo_run: tuple[Path, str]) -> None:
    _assert_books_balance(demo_run[0])


def test_shares_of_time_add_up(demo_run: tuple[Path, str]) -> None:
    for line in _steps(demo_run[0]):
        generator = sum(line[f"time/generator_{part}_share"] for part in ("busy", "updating", "waiting"))
        assert generator == pytest.approx(1.0, abs=1e-6)
        assert line["time/learner_busy_share"] + line["time/learner_waiting_share"] == pytest.approx(1.0, abs=1e-6)


def test_what_was_sampled_is_what_is_trained(demo_run: tuple[Path, str]) -> None:
    """First step: the sampler's log-probs are those of the model it was given, computed here by transformers."""
    run, _ = demo_run
    model = AutoModelForCausalLM.from_pretrained(Path(rlvr.__file__).parent / "demo" / "base", dtype=torch.float32)
    worst, tokens = 0.0, 0
    for row in pq.read_table(run / "rollouts" / "step-000001.parquet").to_pylist():
        if set(row["versions"]) != {0}:
            continue
        ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0].double(), -1)
        start = len(row["prompt_ids"])
        expected = logprobs[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]
        worst = max(worst, (expected - torch.tensor(row["logprobs"], dtype=torch.float64)).abs().max().item())
        tokens += len(row["token_ids"])
    assert tokens > 500
    assert worst < 1e-4


def test_the_trained_policy_is_an_ordinary_folder(demo_run: tuple[Path, str]) -> None:
    """`rlvr eval` on it says what the run's last evaluation said."""
    run, _ = demo_run
    data = f"evaluation.data.path={run / 'data' / 'held_out.jsonl'}"
    done = subprocess.run(
        [*RLVR, "eval", str(run / "config.yaml"), f"model={run / 'policy'}", data],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = float(next(line.split()[1] for line in done.stdout.splitlines() if line.strip().startswith("pass@1")))
    last = [line["evaluation/pass@1"] for line in _lines(run) if "evaluation/pass@1" in line][-1]
    assert printed == pytest.approx(last, abs=1.5 / 256)  # greedy ties may fall either way in another batch


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """And its weights travel through the object store then, which several nodes need: each version is verified."""
    run = tmp_path / "run"
    arguments = [f"run_dir={run}", "steps=14", "checkpoint.every_steps=2", "evaluation.data=null", *SMALL]
    driver = subprocess.Popen([*RLVR, "demo", *arguments], stdout=subprocess.DEVNULL, start_new_session=True)
    _wait_for_step(run, 5, driver)
    children = _descendants(driver.pid)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = _steps(run)
    assert before[-1]["step"] < 14
    done = subprocess.run(
        [*RLVR, "train", "--resume", f"run_dir={run}", "cluster.transport=object_store"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = _steps(run)
    assert [line["step"] for line in steps] == list(range(1, 15))
    assert [line["policy/version"] for line in steps] == list(range(1, 15))
    _assert_books_balance(run)
    # No task twice, none left out: with fewer groups than tasks, each trained or filtered group has its own task.
    seen = [row for path in sorted((run / "rollouts").iterdir()) for row in pq.read_table(path).to_pylist()]
    groups = {row["group_id"]: row["task_id"] for row in seen}
    assert len(set(groups.values())) == len(groups)
    assert len(seen) == 8 * len(groups)
    _wait_until_gone(children)


def test_python_api_with_a_reward_of_ones_own(tmp_path: Path) -> None:
    """In one process, without Ray; rows in memory, LoRA, a synchronous run, an algorithm of one's own."""

    def likes_thinking(completion: str, answer: str) -> float:
        return float("<think>" in completion) + 0.1 * (answer in completion)

    asked: list[int] = []

    def first_token_only(groups: Sequence[Group]) -> list[list[list[float]]]:
        asked.append(len(groups))
        return [[[1.0] + [0.0] * (len(t.token_ids) - 1) for t in group.judged()] for group in groups]

    result = rlvr.train(
        model={"name": "tiny", "lora": {"rank": 4}},
        data={"path": rows(Split.TRAIN, 64, 0), "prompt": "question"},
        evaluation_data={"path": rows(Split.HELD_OUT, 8, 0), "prompt": "question"},
        reward=likes_thinking,
        rollout={"max_staleness": 0, "groups_per_step": 2, "group_size": 4, "drop_zero_variance": False},
        sampling={"max_new_tokens": 32},
        algorithm=first_token_only,
        learner={"learning_rate": 1e-3},
        cluster={"backend": "local"},
        steps=3,
        run_dir=tmp_path / "run",
        tensorboard=False,
    )
    assert result.steps == 3
    assert asked == [2] * 3  # once a step: it may keep a state, or draw
    assert all(line["staleness/max"] == 0 for line in _steps(result.folder))
    _assert_books_balance(result.folder)
    _assert_seconds_add_up(result.folder)
    assert (result.policy / "model.safetensors").is_file()
    for fates in pq.read_table(result.folder / "rollouts" / "step-000001.parquet")["token_fates"].to_pylist():
        assert fates == ["trained"] + ["no_advantage"] * (len(fates) - 1)


@pytest.mark.skipif("RLVR_DATA" not in os.environ, reason="RLVR_DATA does not name the folder with real data")
def test_gsm8k_runs_as_the_example_says(tmp_path: Path) -> None:
    run = tmp_path / "run"
    example = Path(__file__).parents[1] / "examples" / "gsm8k.yaml"
    data = Path(os.environ["RLVR_DATA"]) / "gsm8k_train.jsonl"
    words = [
        str(example),
        f"data.path={data}",
        "data.limit=512",
        "steps=1",
        f"run_dir={run}",
        "rollout.groups_per_step=2",
    ]
    done = subprocess.run([*RLVR, "train", *words], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(_steps(run)) == 1
    _assert_books_balance(run)
    assert (run / "report.html").stat().st_size > 10_000


@pytest.fixture
def ray_head() -> Iterator[str]:
    """A Ray head with a job server, started as the docs say, on ports of its own."""
    port, dashboard = 26379, 28265
    command = ["start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    ray = Path(sys.executable).with_name("ray")
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    head = subprocess.Popen(
        [str(ray), *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        family = _descendants(head.pid)
        head.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            head.wait(20)
        for pid in [head.pid, *family]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_submitted_run_ends_as_a_local_one(ray_head: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    from rlvr.demo.run import demo_config

    config = demo_config([f"run_dir={run}", "steps=3", *SMALL])
    from rlvr.config_loading import to_yaml

    (tmp_path / "config.yaml").write_text(to_yaml(config))
    _wait_for_server(ray_head)
    done = subprocess.run(
        [*RLVR, "submit", str(tmp_path / "config.yaml"), "--address", ray_head],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held-out accuracy" in done.stdout
    assert [line["policy/version"] for line in _steps(run)] == [1, 2, 3]
    _assert_books_balance(run)


def _wait_for_step(run: Path, step: int, driver: subprocess.Popen[bytes], limit_s: float = 300) -> None:
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        assert driver.poll() is None, "the run ended before it could be killed"
        if (run / "metrics.jsonl").exists() and any(line["step"] >= step for line in _steps(run)):
            return
        time.sleep(0.2)
    raise AssertionError(f"no step {step} in {limit_s} s")


def _wait_until_gone(pids: list[int], limit_s: float = 60) -> None:
    """Ray's agents notice the end of their node one after the other."""
    ends = time.monotonic() + limit_s
    alive = pids
    while alive and time.monotonic() < ends:
        time.sleep(0.5)
        alive = [pid for pid in pids if Path("/proc", str(pid)).exists() and not _is_zombie(pid)]
    assert not alive, f"processes {alive} outlive the killed driver by {limit_s} s"


def _wait_for_server(address: str, limit_s: float = 90) -> None:
    import urllib.error
    import urllib.request

    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{address}/api/version", timeout=5).read()
            return
        time.sleep(0.5)
    raise AssertionError(f"no job server at {address} in {limit_s} s")


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    direct = [int(child) for child in children.read_text().split()] if children.exists() else []
    return direct + [below for child in direct for below in _descendants(child)]


def _is_zombie(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
