"""The other side of vs_trl.py: TRL's GRPOTrainer on the same model, tasks, group size and answer length.

Run by vs_trl.py with the Python of an environment that has TRL; it does not import rlvr. Prints one JSON line.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class StepClock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: object, **others: object) -> None:
        self.ends.append(time.perf_counter())


def boxed_is_right(completions: list[list[dict[str, str]]], answer: list[str], **columns: object) -> list[float]:
    """The last boxed number against the answer: cheap, so that rewards weigh nothing on this side."""
    texts = [completion[0]["content"] for completion in completions]
    found = [re.findall(r"\\boxed\{(\d+)\}", text) for text in texts]
    return [float(bool(f) and f[-1] == a) for f, a in zip(found, answer, strict=True)]


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    rows = [json.loads(line) for line in Path(job["data"]).read_text().splitlines()]
    data = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": r["question"]}], "answer": r["answer"]} for r in rows]
    )
    clock = StepClock()
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=boxed_is_right,
        train_dataset=data,
        callbacks=[clock],
        args=GRPOConfig(
            output_dir=job["output"],
            max_steps=job["steps"],
            per_device_train_batch_size=job["groups"] * job["group_size"],
            gradient_accumulation_steps=1,
            num_generations=job["group_size"],
            max_completion_length=job["max_new_tokens"],
            learning_rate=6e-4,
            warmup_steps=5,
            lr_scheduler_type="constant",
            temperature=1.0,
            beta=0.0,
            bf16=False,
            fp16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            use_vllm=False,
            dataloader_num_workers=0,
            logging_steps=job["steps"],
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        ),
    )
    trainer.train()
    steps = len(clock.ends) - job["warm_up_steps"]
    seconds = clock.ends[-1] - clock.ends[job["warm_up_steps"] - 1]
    print(json.dumps({"samples_per_s": steps * job["groups"] * job["group_size"] / seconds}))


if __name__ == "__main__":
    main()
