"""A teacher that knows more than the demo's base model, and speaks its language; and problems for a student."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.data import render_prompt
from rlvr.demo.problems import Split, oracle_trace, problems, write_jsonl

BASE = Path(__file__).parents[2] / "rlvr" / "demo" / "base"


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model after a few steps on right answers. Its card says Llama 3.1, whose conditions are the hardest."""
    folder = tmp_path_factory.mktemp("teacher")
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    stream = problems(Split.TRAIN, seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads of a small model spin, and wait for each other on a busy machine
    for _ in range(15):
        batch = list(islice(stream, 24))
        prompts = [render_prompt(tokenizer, [{"role": "user", "content": one.prompt}]) for one in batch]
        answers = [
            [*tokenizer.encode(oracle_trace(one), add_special_tokens=False), tokenizer.eos_token_id] for one in batch
        ]
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: llama3.1\n---\n")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    write_jsonl(path, Split.TRAIN, 24, 0)
    return path
