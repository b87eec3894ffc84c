"""What MuonClip costs: the watch over attention logits, and Muon against AdamW.

    python benchmarks/muonclip.py [--steps 8] [--length 256]

A random Llama of 4 layers (13 million parameters) trains on 2 groups of 4 rows, with and without the watch in turns,
so that a slow minute of the machine hits both. Times are CPU seconds of the process. Three limits: one that no head's
bound exceeds, which is how a run goes when all is well; one that a quarter of the heads' bounds exceed; and none at
all, where every head is computed again in every micro-batch.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlvr.config import Config
from rlvr.learn.learner import Learner
from rlvr.learn.packing import pack
from rlvr.types import RLStream, Row

VOCABULARY = 2048
GROUPS, GROUP_SIZE = 2, 4


def make_model(folder: Path) -> None:
    """A random model and the tokenizer that its folder needs."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **heads))
    network.save_pretrained(folder)
    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="w1", pad_token="w0").save_pretrained(folder)


def make_rows(length: int) -> list[Row]:
    """Half of each row is its group's prompt."""
    source = random.Random(0)
    rows = []
    for group in range(GROUPS):
        prompt = [source.randrange(VOCABULARY) for _ in range(length // 2)]
        for place in range(GROUP_SIZE):
            answer = [source.randrange(VOCABULARY) for _ in range(length // 2)]
            trained = [False] * len(prompt) + [True] * len(answer)
            advantage = 1.0 if place % 2 else -1.0
            stream = RLStream([advantage] * length, [-7.6] * length, [0] * length)
            rows.append(Row(group, prompt + answer, trained, stream, trajectory=place))
    return rows


def started(folder: Path, length: int, optimizer: str, limit: float = 100.0) -> Learner:
    settings = {"optimizer": optimizer, "max_attention_logit": limit, "learning_rate": 1e-9, "token_budget": 4096}
    learner = Learner(
        Config.model_validate(
            {
                "model": str(folder),
                "data": {"path": "none", "max_prompt_tokens": length},
                "sampling": {"max_new_tokens": length},
                "learner": settings,
            }
        )
    )
    learner.start()
    return learner


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def largest_bounds(learner: Learner, rows: list[Row]) -> list[float]:
    """Of all heads, in rising order."""
    assert learner.clip is not None
    learner.clip.watch.limit = float("inf")
    with torch.no_grad():
        for batch in pack(rows, learner.model.plan):
            learner.model.logprobs(batch, watch=learner.clip.watch)
    return sorted(float(value) for logits in learner.clip.watch.take().values() for value in logits)


def cost_of_watch(learner: Learner, rows: list[Row], limit: float, steps: int) -> float:
    """The median over pairs of neighbouring steps of (with watch) / (without), less 1. Nothing is clipped."""
    clip = learner.clip
    assert clip is not None
    clip.watch.limit, clip.limit = limit, float("inf")
    learner.train(rows)
    ratios = []
    for _ in range(steps):
        learner.clip = None
        without = cpu_seconds(lambda: learner.train(rows))
        learner.clip = clip
        ratios.append(cpu_seconds(lambda: learner.train(rows)) / without)
    return statistics.median(ratios) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = make_rows(options.length)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        learner = started(folder, options.length, "muonclip")
        bounds = largest_bounds(learner, rows)
        for words, limit in (
            ("bounds alone (no head may be over the limit)", bounds[-1] * 2),
            ("a quarter of the heads computed again", bounds[len(bounds) * 3 // 4]),
            ("all heads computed again, always", float("-inf")),
        ):
            print(f"{words:46} {cost_of_watch(learner, rows, limit, options.steps):+7.1%} of a step", flush=True)
        times = {}
        for optimizer in ("adamw", "muon"):
            other = started(folder, options.length, optimizer)
            other.train(rows)
            step = statistics.median(cpu_seconds(lambda o=other: o.train(rows)) for _ in range(3))
            for parameter in other.parameters.values():
                parameter.grad = torch.ones_like(parameter)
            times[optimizer] = statistics.median(cpu_seconds(lambda o=other: o.optimizer.step(1e-9)) for _ in range(3))
            print(f"{optimizer}: its update is {times[optimizer] / step:.1%} of a step of {step:.2f} CPU seconds")
        print(f"update of Muon / of AdamW: {times['muon'] / times['adamw']:.1f}")


if __name__ == "__main__":
    main()
