"""Make the demo's base model:  python -m rlvr.demo.build_base --out DIR

It takes about ten minutes of one core, fifteen for both subjects, and leaves a folder that transformers and vLLM load
by its path. A teacher that makes no mistake, three times as wide:

    python -m rlvr.demo.build_base --author oracle --width 3 --prompts 32 --out DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from rlvr.demo.evaluate_base import Evaluation, evaluate
from rlvr.demo.subjects import DemoTask
from rlvr.demo.tokenizer import build_tokenizer
from rlvr.demo.warm_start import Author, Family, Progress, WarmStart, new_model, train

STEPS_BETWEEN_LINES = 250
EVALUATION_PROBLEMS = 256
EVALUATION_SAMPLES = 16
EVALUATION_SEED = 1


def main(
    out: Annotated[Path, typer.Option(help="folder for the model and tokenizer")] = Path("runs/demo-base"),
    seconds: Annotated[float, typer.Option(min=1, help="CPU seconds of training")] = WarmStart().cpu_seconds,
    family: Annotated[Family, typer.Option(help="deepseek_v3: experts and latent attention")] = Family.QWEN3,
    task: Annotated[DemoTask, typer.Option(help="what the base is to know the form of")] = DemoTask.MATH,
    author: Annotated[Author, typer.Option(help="who wrote what it imitates; oracle: never wrong")] = Author.WEAK,
    width: Annotated[int, typer.Option(min=1, help="times as many heads, as large a hidden size")] = 1,
    prompts: Annotated[int, typer.Option(min=1, help="problems of a step")] = WarmStart().prompts_per_step,
    seed: Annotated[int, typer.Option(help="of the first weights, the problems and the traces")] = 0,
) -> None:
    """Make the demo's tokenizer and base model by a warm start, and print how good the base is."""
    torch.set_num_threads(1)  # a second thread costs a model of this size more than it brings
    defaults = WarmStart()
    # An update of Muon grows with the root of a matrix's size; how far it should move the outputs does not.
    smaller = width**-0.5
    settings = WarmStart(
        cpu_seconds=seconds,
        subjects=task.subjects,
        author=author,
        seed=seed,
        prompts_per_step=prompts,
        matrix_learning_rate=defaults.matrix_learning_rate * smaller,
        other_learning_rate=defaults.other_learning_rate * smaller,
    )
    tokenizer = build_tokenizer(task.subjects)
    model = new_model(tokenizer, seed, family, width)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)

    for progress in train(model, tokenizer, settings):
        if progress.step % STEPS_BETWEEN_LINES == 0:
            print(_line(progress), flush=True)
    print(_line(progress), flush=True)

    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"saved in {out}", flush=True)

    for subject in task.subjects:
        found = evaluate(model, tokenizer, EVALUATION_PROBLEMS, EVALUATION_SAMPLES, EVALUATION_SEED, subject)
        print(f"{subject.name}: {_figures(found)}")


def _figures(found: Evaluation) -> str:
    return (
        f"{found.problems} held-out problems: greedy {found.greedy:.3f}  pass@1 {found.pass_at_1:.3f}  "
        f"pass@{found.samples} {found.pass_at_n:.3f}  {found.mean_length:.1f} tokens an answer  "
        f"entropy {found.entropy:.3f} nats a token"
    )


def _line(progress: Progress) -> str:
    return f"step {progress.step:5d}  loss {progress.loss:.4f}  {progress.cpu_seconds:5.1f} CPU s"


if __name__ == "__main__":
    typer.run(main)
