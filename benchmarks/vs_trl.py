"""Samples per second against TRL's GRPOTrainer 1.16.0, on the same model, tasks, group size and answer length.

    python -m venv trl-env && trl-env/bin/pip install torch==2.13.0 trl==1.16.0
    python benchmarks/vs_trl.py --trl-python trl-env/bin/python [--steps 40] [--repeats 3]

A sample is one answer, sampled, scored and trained (or, with us, filtered after scoring: its group has no gradient).
Both sides use the same two cores, in turns; TRL runs with one thread and with two, and its better figure counts. Steps
1 and 2 are warm-up on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

from rlvr.api import train
from rlvr.demo.problems import Split, write_jsonl
from rlvr.metrics import read_metrics

GROUPS, GROUP_SIZE, MAX_NEW_TOKENS, WARM_UP_STEPS = 16, 8, 44, 2


def ours(data: Path, folder: Path, steps: int) -> float:
    """Samples per second of the demo's job, over the steps after warm-up."""
    result = train(
        model="tiny",
        data={"path": str(data), "prompt": "question"},
        reward="math_answer",
        rollout={"group_size": GROUP_SIZE, "groups_per_step": GROUPS, "max_staleness": 2},
        sampling={"max_new_tokens": MAX_NEW_TOKENS},
        learner={"learning_rate": 6e-4},
        steps=steps,
        run_dir=str(folder),
        tensorboard=False,
    )
    lines = [line for line in read_metrics(result.folder / "metrics.jsonl") if line.step > WARM_UP_STEPS]
    samples = sum(line.values["answer/count"] for line in lines)
    return samples / sum(line.values["time/step_s"] for line in lines)


def trl(python: str, data: Path, folder: Path, steps: int, threads: int) -> float:
    """TRL's samples per second with this many threads."""
    job = {
        "model": str(files("rlvr.demo") / "base"),
        "data": str(data),
        "output": str(folder),
        "steps": steps,
        "threads": threads,
        "groups": GROUPS,
        "group_size": GROUP_SIZE,
        "max_new_tokens": MAX_NEW_TOKENS,
        "warm_up_steps": WARM_UP_STEPS,
    }
    script = str(Path(__file__).with_name("trl_grpo.py"))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, script, json.dumps(job)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"TRL's side failed:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["samples_per_s"])


def main() -> None:
    """Both sides in turns, so that a slow minute of the machine hits both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ratios = []
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = folder / "train.jsonl"
            write_jsonl(data, Split.TRAIN, 4096, seed=repeat)
            theirs = {
                threads: trl(options.trl_python, data, folder / "trl", options.steps, threads) for threads in (1, 2)
            }
            our = ours(data, folder / "run", options.steps)
        ratios.append(our / max(theirs.values()))
        print(
            f"rlvr {our:.0f} samples/s, TRL {theirs[1]:.0f} with one thread and {theirs[2]:.0f} with two: "
            f"{ratios[-1]:.2f}x",
            flush=True,
        )
    print(f"rlvr / TRL at its best: {statistics.median(ratios):.2f}x (median of {len(ratios)})")


if __name__ == "__main__":
    main()
