"""Tokens per second and model FLOPs utilisation of the learner, every weight trained and by LoRA.

    python benchmarks/learner.py [--model qwen2.5-0.5b qwen3-0.6b qwen3-4b] [--sequence 16384] [--rows 4] [--steps 3]
    python benchmarks/learner.py --model tiny --sequence 128 --rows 32       # without a GPU, to see that it runs

Models have random weights in their published shapes: a step takes as long as with trained ones. A step is one optimizer
update by `algorithm=dis` on rows of one length, of which every token but the first is trained. Utilisation counts the
model's operations alone, 3 forward passes a step or 2 with adapters, whose base needs no weight gradients: not what
gradient checkpointing computes again. Its peak is the accelerator's dense one in the format of training; of a processor
it is an assumed figure. The baseline is what prime-rl published for its trainer, for the models that are in its table.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.architecture.catalog import find_model, shipped_config
from rlvr.architecture.cost import forward_flops
from rlvr.config_loading import check
from rlvr.demo import BASE
from rlvr.learn.learner import Learner
from rlvr.plan.accelerators import GIB, GPUS, Accelerator, this_machine
from rlvr.types import RLStream, Row

TINY = "tiny"
RANK = 16
# prime-rl's BENCHMARKS of 2026-02-01, trainer alone, RL loss, sequences of 16k: tokens/s of all GPUs, utilisation.
PUBLISHED = {
    ("qwen3-0.6b", "full"): "11.9k tokens/s, 11.1 %, 12.5 GiB on one H100",
    ("qwen3-0.6b", "LoRA"): "13.3k tokens/s, 10.9 %, 5.1 GiB on one H100",
    ("qwen3-4b", "full"): "27.4k tokens/s, 14.7 %, 17.1 GiB each on 8 H200",
    ("qwen3-4b", "LoRA"): "52.4k tokens/s, 22.8 %, 10.3 GiB each on 8 H200",
}


@dataclass(frozen=True, slots=True)
class Work:
    """A step: `rows` of `sequence` tokens."""

    rows: int
    sequence: int
    checkpointing: bool

    @property
    def tokens(self) -> int:
        return self.rows * self.sequence


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians over steps; `peak_bytes` is the most that the accelerator held, None on a processor."""

    step_s: float
    peak_bytes: int | None


def folder_of(model: str, folder: Path) -> Path:
    """A model's folder: the demo's base, or random weights in the shape of a shipped model."""
    if model == TINY:
        return BASE
    torch.manual_seed(0)
    facts = shipped_config(model)
    config = AutoConfig.for_model(facts["model_type"], **{k: v for k, v in facts.items() if k != "model_type"})
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder / model)
    return folder / model


def make_rows(work: Work, vocabulary: int) -> list[Row]:
    source = random.Random(0)
    trained = [False] + [True] * (work.sequence - 1)
    rows = []
    for number in range(work.rows):
        ids = [source.randrange(vocabulary) for _ in range(work.sequence)]
        advantage = 1.0 if number % 2 else -1.0
        stream = RLStream([advantage] * work.sequence, [-12.0] * work.sequence, [0] * work.sequence)
        rows.append(Row(number, ids, trained, stream))
    return rows


def measure(folder: Path, work: Work, *, lora: bool, steps: int) -> Speed:
    model: dict[str, Any] = {"name": str(folder)}
    if lora:
        model["lora"] = {"rank": RANK, "alpha": 2.0 * RANK}
    learner = Learner(
        check(
            {
                "model": model,
                "data": {"path": "unused.jsonl", "max_prompt_tokens": 1},
                "sampling": {"max_new_tokens": work.sequence - 1},
                # A learning rate that changes nothing, so that all steps are alike.
                "learner": {
                    "learning_rate": 1e-12,
                    "token_budget": work.sequence,
                    "gradient_checkpointing": work.checkpointing,
                    "layout": "packed",
                },
            }
        )
    )
    learner.start()
    rows = make_rows(work, learner.model.vocabulary)
    learner.train(rows)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begun = time.perf_counter()
        report = learner.train(rows)
        seconds.append(time.perf_counter() - begun)
        assert report.updates == 1, report.skipped
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return Speed(statistics.median(seconds), peak)


def machine_of(name: str | None) -> Accelerator:
    """The GPU of this machine, by the `--gpu` or by its own name; without one, the cores that torch uses."""
    if not torch.cuda.is_available():
        return this_machine().share(min(1.0, torch.get_num_threads() / len(os.sched_getaffinity(0))))
    own = torch.cuda.get_device_name().lower()
    found = GPUS.get(name) if name else next((gpu for key, gpu in GPUS.items() if key in own), None)
    if found is None:
        raise SystemExit(f"{name or own}: its peak is not known here; name one of {', '.join(GPUS)} by --gpu")
    return found


def line(model: str, way: str, work: Work, speed: Speed, machine: Accelerator) -> str:
    architecture = find_model(str(BASE) if model == TINY else model).architecture
    passes = 2 if way == "LoRA" else 3
    operations = passes * work.tokens * forward_flops(architecture, work.sequence)
    share = operations / speed.step_s / machine.flops(4 if machine.is_cpu else 2)
    memory = "" if speed.peak_bytes is None else f"{speed.peak_bytes / GIB:.1f} GiB"
    published = PUBLISHED.get((model, way), "")
    return f"| {model} | {way} | {work.tokens / speed.step_s:,.0f} | {share:.1%} | {memory} | {published} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["qwen2.5-0.5b", "qwen3-0.6b", "qwen3-4b"])
    parser.add_argument("--sequence", type=int, default=16_384, help="tokens of a row, and of a micro-batch")
    parser.add_argument("--rows", type=int, default=4, help="rows of a step")
    parser.add_argument("--steps", type=int, default=3, help="that are measured, after one that is not")
    parser.add_argument("--gpu", help="whose peak is counted; unset: the one that is there")
    options = parser.parse_args()
    machine = machine_of(options.gpu)
    work = Work(options.rows, options.sequence, checkpointing=not machine.is_cpu)
    print(f"{machine.name}: {machine.source}; {work.rows} rows of {work.sequence:,} tokens a step\n")
    print("| model | trained | tokens/s | model FLOPs utilisation | memory | prime-rl |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in options.model:
        with tempfile.TemporaryDirectory() as name:
            folder = folder_of(model, Path(name))
            for way in ("full", "LoRA"):
                try:
                    speed = measure(folder, work, lora=way == "LoRA", steps=options.steps)
                    print(line(model, way, work, speed, machine), flush=True)
                except torch.OutOfMemoryError:
                    print(f"| {model} | {way} | does not fit | | | {PUBLISHED.get((model, way), '')} |", flush=True)
                gc.collect()
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
