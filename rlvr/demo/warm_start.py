"""The warm start: a new tiny model learns to write like the weak author, or like one who makes no mistake.

Several traces of one problem lie in one row after a single copy of the prompt, and a tree-shaped attention
mask keeps them from seeing each other: a step costs about half of what one row for each trace would.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from rlvr.demo.problems import Split
from rlvr.demo.subjects import MATH, Subject
from rlvr.demo.tokenizer import LONGEST_SEQUENCE, VOCABULARY_SIZE
from rlvr.learn.muon import Muon


class Author(StrEnum):
    """Who writes the traces that a model imitates."""

    WEAK = "weak"  # right in form and often wrong in substance: leaves something to find
    ORACLE = "oracle"  # always right: makes a teacher


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Settings. The defaults made the shipped base.

    Muon reaches half the loss of AdamW here in the same time. It moves matrices only, each update scaled to
    the size that one of AdamW has; the embedding and the norms stay with AdamW.
    """

    cpu_seconds: float = 600.0
    subjects: tuple[Subject[Any], ...] = (MATH,)
    author: Author = Author.WEAK
    seed: int = 0
    prompts_per_step: int = 8
    traces_per_prompt: int = 4
    matrix_learning_rate: float = 1.2e-2
    other_learning_rate: float = 3e-3
    warmup_steps: int = 20
    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a warm start stands: `loss` is in nats a token, averaged over about the last 20 steps."""

    step: int
    loss: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Rows of one prompt and several continuations of it.

    `token_ids` and `position_ids` are [rows, length]; a continuation's positions go on from its prompt's.
    `attention_mask` is additive, [rows, 1, length, length]. `sources` are the places, in the flattened
    [rows * length], whose hidden states predict `targets`: both are [continuation tokens].
    """

    token_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    sources: Tensor
    targets: Tensor


class Family(StrEnum):
    """Architectures of a base."""

    QWEN3 = "qwen3"  # dense
    DEEPSEEK_V3 = "deepseek_v3"  # a mixture of experts with multi-head latent attention


def new_model(
    tokenizer: PreTrainedTokenizerFast, seed: int, family: Family = Family.QWEN3, width: int = 1
) -> PreTrainedModel:
    """An untrained model: large enough to learn, small enough for one core. Qwen3 has 381,792 parameters.

    `width` multiplies its heads, hidden size and feed-forward: at 3 Qwen3 has 3,135,648 parameters.
    """
    config = _qwen3(tokenizer, width) if family is Family.QWEN3 else _deepseek_v3(tokenizer, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def _qwen3(tokenizer: PreTrainedTokenizerFast, width: int) -> PretrainedConfig:
    return Qwen3Config(
        num_attention_heads=3 * width,
        num_key_value_heads=3 * width,
        head_dim=32,
        tie_word_embeddings=True,
        **_common(tokenizer, width),
    )


def _deepseek_v3(tokenizer: PreTrainedTokenizerFast, width: int) -> PretrainedConfig:
    """One dense layer, then two of eight experts, of which two and a shared one work on each token."""
    return DeepseekV3Config(
        num_attention_heads=3 * width,
        num_key_value_heads=3 * width,
        q_lora_rank=64,
        kv_lora_rank=48,
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        v_head_dim=32,
        first_k_dense_replace=1,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=1,
        moe_intermediate_size=96 * width,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        topk_method="noaux_tc",
        scoring_func="sigmoid",
        tie_word_embeddings=False,  # as all of its family; vLLM knows no other
        # No norm makes up for small queries and keys, as Qwen3's does: with the usual 0.02 attention begins flat.
        initializer_range=0.05,
        **_common(tokenizer, width),
    )


def _common(tokenizer: PreTrainedTokenizerFast, width: int) -> dict[str, object]:
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 96 * width,
        "num_hidden_layers": 3,
        "intermediate_size": 256 * width,
        "max_position_embeddings": LONGEST_SEQUENCE,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, settings: WarmStart) -> Iterator[Progress]:
    """Train in place until the CPU seconds are spent, and yield after every step.

    The budget counts CPU time of this process, and the learning rate falls to zero over it. Two builds differ
    by as many steps as the processor managed, so they are alike and not equal bit for bit.
    """
    optimizers = _optimizers(model, settings)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    model.train()
    started = time.process_time()
    average_loss: float | None = None
    for step, batch in enumerate(batches(tokenizer, settings), start=1):
        spent = time.process_time() - started
        if spent >= settings.cpu_seconds:
            return
        scale = min(1.0, step / settings.warmup_steps) * (1.0 - spent / settings.cpu_seconds)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * scale

        loss = F.cross_entropy(continuation_logits(model, batch), batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        now = loss.item()
        average_loss = now if average_loss is None else 0.95 * average_loss + 0.05 * now
        yield Progress(step, average_loss, time.process_time() - started)


def continuation_logits(model: PreTrainedModel, batch: TreeBatch) -> Tensor:
    """The logits that predict each target: [continuation tokens, vocabulary]."""
    hidden = model.get_decoder()(
        input_ids=batch.token_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    logits: Tensor = model.get_output_embeddings()(hidden.flatten(0, 1)[batch.sources])
    return logits


def tree_batch(
    prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]], pad_id: int
) -> TreeBatch:
    """Lay out each prompt once, followed by its continuations. All are token ids; none may be empty."""
    lengths = [len(p) + sum(map(len, cs)) for p, cs in zip(prompts, continuations, strict=True)]
    shape = (len(prompts), max(lengths))
    token_ids = torch.full(shape, pad_id)
    position_ids = torch.zeros(shape, dtype=torch.long)
    branch = torch.full(shape, -1)  # -1 padding, 0 the prompt, then 1, 2, ... the continuations
    sources: list[int] = []
    targets: list[int] = []
    for row, (prompt, branches) in enumerate(zip(prompts, continuations, strict=True)):
        row_start = row * shape[1]
        end = len(prompt)
        token_ids[row, :end] = torch.tensor(prompt)
        position_ids[row, :end] = torch.arange(end)
        branch[row, :end] = 0
        for number, continuation in enumerate(branches, start=1):
            begin, end = end, end + len(continuation)
            token_ids[row, begin:end] = torch.tensor(continuation)
            position_ids[row, begin:end] = len(prompt) + torch.arange(len(continuation))
            branch[row, begin:end] = number
            # The last token of the prompt predicts the first of every continuation.
            sources += [row_start + len(prompt) - 1, *range(row_start + begin, row_start + end - 1)]
            targets += continuation
    return TreeBatch(token_ids, _tree_mask(branch), position_ids, torch.tensor(sources), torch.tensor(targets))


def _tree_mask(branch: Tensor) -> Tensor:
    """Token i sees token j when j is not later, and is of the prompt or of i's own branch."""
    length = branch.shape[1]
    own = branch[:, :, None] == branch[:, None, :]
    prompt = (branch == 0)[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    visible = (own | prompt) & causal
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]


BATCHES_SORTED_TOGETHER = 8  # rows of similar length share a batch, so that little of it is padding


def batches(tokenizer: PreTrainedTokenizerFast, settings: WarmStart) -> Iterator[TreeBatch]:
    """Problems with what the author wrote to them, without end."""
    rng = random.Random(settings.seed)
    sources = [(subject, subject.problems(Split.TRAIN, settings.seed)) for subject in settings.subjects]
    size = settings.prompts_per_step
    for subject, source in cycle(sources):
        pool = list(islice(source, size * BATCHES_SORTED_TOGETHER))
        prompts = encode_prompts(tokenizer, [problem.prompt for problem in pool])
        traces = [_traces(subject, problem, settings, rng) for problem in pool]
        continuations = [_encode_traces(tokenizer, ts) for ts in traces]
        lengths = [len(p) + sum(map(len, cs)) for p, cs in zip(prompts, continuations, strict=True)]
        order = sorted(range(len(pool)), key=lengths.__getitem__)
        cuts = [order[i : i + size] for i in range(0, len(order), size)]
        rng.shuffle(cuts)
        for cut in cuts:
            chosen = [prompts[i] for i in cut], [continuations[i] for i in cut]
            yield tree_batch(*chosen, pad_id=tokenizer.pad_token_id)


def _traces(subject: Subject[Any], problem: Any, settings: WarmStart, rng: random.Random) -> list[str]:
    """What the author writes to a problem. The oracle would write the same again, so he writes once."""
    if settings.author is Author.ORACLE:
        return [subject.oracle_trace(problem)]
    return [subject.weak_trace(problem, rng) for _ in range(settings.traces_per_prompt)]


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt, chat template applied, ready for an answer."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    ids: list[list[int]] = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)
    return ids


def _encode_traces(tokenizer: PreTrainedTokenizerFast, traces: Sequence[str]) -> list[list[int]]:
    return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(traces)).input_ids]


def _optimizers(model: PreTrainedModel, settings: WarmStart) -> list[torch.optim.Optimizer]:
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    matrices = {name: p for name, p in model.named_parameters() if p.ndim >= 2 and p not in tables}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in matrices.items() if not name.endswith("gate_up_proj")]},
        {"params": [p for name, p in matrices.items() if name.endswith("gate_up_proj")], "fused": "rows"},  # experts'
    ]
    others = [p for p in model.parameters() if p.ndim < 2 or p in tables]
    return [
        Muon(groups, lr=settings.matrix_learning_rate),
        torch.optim.AdamW(others, lr=settings.other_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
