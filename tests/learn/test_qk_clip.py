"""QK-Clip and its watch, against the softmax inputs of transformers' eager attention."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Phi3Config, PreTrainedModel

from rlvr.config import Config
from rlvr.learn import max_logit
from rlvr.learn.learner import Learner
from rlvr.learn.max_logit import LogitWatch
from rlvr.learn.packing import Layout, pack
from rlvr.learn.qk_clip import QKClip
from rlvr.types import Row
from rlvr.weights.transport import read_weights

from .conftest import make_rows

MakeConfig = Callable[..., Config]
CLIPPED = ["llama_mha", "llama", "qwen2", "mistral_windowed", "deepseek_v3"]  # MHA, GQA, biases, a window, MLA
Calls = dict[nn.Module, list[tuple[tuple[Any, ...], dict[str, Any]]]]


def muonclip(config: MakeConfig, family: str, limit: float, **learner: Any) -> Learner:
    """A learner that clips, and otherwise moves by nothing."""
    settings = {"optimizer": "muonclip", "max_attention_logit": limit, "learning_rate": 1e-12, **learner}
    return Learner(config(family, learner=settings))


class Eager:
    """A model with eager attention, whose softmax inputs can be read."""

    def __init__(self, folder: str) -> None:
        self.network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        self.attention = [m for n, m in self.network.named_modules() if n.endswith("self_attn")]

    @torch.no_grad()
    def inputs(self, rows: list[Row]) -> Calls:
        """What each attention module is called with, row by row."""
        calls: Calls = defaultdict(list)

        def keep(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls[module].append((positional, named))

        hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in self.attention]
        for row in rows:
            self.network(input_ids=torch.tensor([row.token_ids]), use_cache=False)
        for hook in hooks:
            hook.remove()
        return calls

    @torch.no_grad()
    def largest(self, calls: Calls) -> Tensor:
        """Of each layer and head the largest softmax input over the calls, [L, H]."""
        layers = []
        for module in self.attention:
            with softmax_inputs() as seen:
                for positional, named in calls[module]:
                    module(*positional, **named)
            layers.append(torch.stack([logits.amax((0, 2, 3)) for logits in seen]).amax(0))
        return torch.stack(layers)


@contextmanager
def softmax_inputs() -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    plain = nn.functional.softmax

    def softmax(logits: Tensor, *arguments: Any, **named: Any) -> Tensor:
        seen.append(logits)
        return plain(logits, *arguments, **named)

    nn.functional.softmax = softmax
    try:
        yield seen
    finally:
        nn.functional.softmax = plain


def watched(learner: Learner, rows: list[Row], limit: float, layout: Layout) -> Tensor:
    """What the watch says after all micro-batches, [L, H]."""
    watch = LogitWatch(limit)
    for batch in pack(rows, replace(learner.model.plan, layout=layout, grid_tokens=100)):
        learner.model.logprobs(batch, watch=watch)
    return torch.stack(list(watch.take().values()))


def between_heads(largest: Tensor) -> float:
    """A limit that half of the heads exceed, and none is near."""
    values = largest.flatten().sort().values
    return float(values[len(values) // 2 - 1 : len(values) // 2 + 1].mean())


@pytest.mark.parametrize("family", CLIPPED)
def test_what_is_over_the_limit_is_exact_and_the_rest_bounded(config: MakeConfig, family: str) -> None:
    learner = muonclip(config, family, limit=1e9)
    learner.start()
    rows = make_rows()
    eager = Eager(learner.config.model.name)
    expected = eager.largest(eager.inputs(rows))
    limit = between_heads(expected)
    layouts = [Layout.PACKED, Layout.ALONE] + ([Layout.SHARED] if learner.model.plan.layout is Layout.SHARED else [])
    for layout in layouts:
        everything = watched(learner, rows, -math.inf, layout)
        torch.testing.assert_close(everything, expected, atol=1e-4, rtol=1e-5)
        found = watched(learner, rows, limit, layout)
        over = expected > limit
        torch.testing.assert_close(found[over], expected[over], atol=1e-4, rtol=1e-5)
        assert (found[~over] <= limit * (1 + 1e-6)).all() and (found >= expected - 1e-4).all()
        assert over.any() and not over.all()


@pytest.mark.parametrize("family", CLIPPED)
def test_after_a_clip_no_head_is_over_the_limit_and_the_others_are_as_they_were(
    config: MakeConfig, tmp_path: Path, family: str
) -> None:
    rows = make_rows()
    eager = Eager(config(family).model.name)
    calls = eager.inputs(rows)
    before = eager.largest(calls)
    limit = between_heads(before)
    learner = muonclip(config, family, limit)
    assert learner.start().notices == ()
    report = learner.train(rows)
    assert report.clipped_heads == (before > limit).sum() > 0
    assert report.metrics()["attention/max_logit"] == pytest.approx(before.max().item(), rel=1e-5)

    published = read_weights(learner.publish(tmp_path).source)
    eager.network.load_state_dict(published, strict=False)
    after = eager.largest(calls)  # of the same inputs
    assert (after <= limit * (1 + 1e-4)).all()
    torch.testing.assert_close(after, before.clamp(max=limit), rtol=1e-4, atol=1e-4)
    assert learner.train(rows).version == 2


def test_rows_of_untouched_heads_stay_bit_for_bit(config: MakeConfig) -> None:
    learner = muonclip(config, "llama_mha", limit=1e9)
    learner.start()
    assert learner.clip is not None
    attention = learner.model.network.model.layers[0].self_attn
    before = {name: p.clone() for name, p in learner.model.network.named_parameters()}
    heads = learner.clip._heads[attention]
    heads.scale(torch.tensor([1.0, 0.25, 1.0, 1.0]))
    for name, parameter in learner.model.network.named_parameters():
        expected = before[name].clone()
        if name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"):
            expected[8:16] *= 0.5
        assert torch.equal(parameter, expected), name


def test_only_heads_that_may_be_over_the_limit_are_computed_again(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = muonclip(config, "llama", limit=1e9)
    learner.start()
    rows = make_rows()
    exact, computed = max_logit.largest_logits, []

    def counting(query: Tensor, *arguments: Any) -> Tensor:
        computed.append(query.shape[1])
        return exact(query, *arguments)

    monkeypatch.setattr(max_logit, "largest_logits", counting)
    assert learner.train(rows).clipped_heads == 0
    assert computed == []
    bounds = watched(learner, rows, 1e9, Layout.ALONE)
    watched(learner, rows, bounds.max().item() * 0.99, Layout.ALONE)
    assert computed == [1]


def test_a_skipped_update_clips_nothing(config: MakeConfig) -> None:
    learner = muonclip(config, "llama", limit=0.1)
    learner.start()
    before = {name: p.clone() for name, p in learner.model.network.named_parameters()}
    rows = make_rows()
    for row in rows:
        assert row.rl is not None
        row.rl.advantages[-1] = math.nan
    report = learner.train(rows)
    assert (report.version, report.clipped_heads, report.max_logit) == (0, None, None)
    assert all(torch.equal(p, before[name]) for name, p in learner.model.network.named_parameters())


def test_recomputed_activations_clip_alike(config: MakeConfig) -> None:
    weights = []
    for checkpointing in (False, True):
        learner = muonclip(config, "deepseek_v3", limit=0.5, gradient_checkpointing=checkpointing)
        learner.start()
        assert (learner.train(make_rows()).clipped_heads or 0) > 0
        weights.append(learner.model.network.model.layers[1].self_attn.q_b_proj.weight)
    torch.testing.assert_close(weights[0], weights[1])


def test_where_queries_and_keys_are_normalised_the_clip_is_idle_and_says_so(config: MakeConfig) -> None:
    learner = muonclip(config, "qwen3", limit=0.01)
    assert ["idle in all layers" in notice for notice in learner.start().notices] == [True]
    before = learner.model.network.model.layers[0].self_attn.q_proj.weight.clone()
    report = learner.train(make_rows())
    assert report.max_logit is None and "attention/max_logit" not in report.metrics()
    torch.testing.assert_close(before, learner.model.network.model.layers[0].self_attn.q_proj.weight)


def test_attention_that_cannot_be_scaled_is_refused(config: MakeConfig) -> None:
    learner = muonclip(config, "llama", limit=1.0)
    learner.start()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    fused = AutoModelForCausalLM.from_config(Phi3Config(**sizes, vocab_size=61, num_hidden_layers=1, pad_token_id=0))
    learner.model.network, learner.model.decoder = fused, fused.get_decoder()
    with pytest.raises(ValueError, match=r"Phi3Attention.*set learner.optimizer=muon"):
        QKClip(learner.model, 1.0)


def test_the_trial_at_the_start_leaves_the_weights_bit_for_bit(config: MakeConfig) -> None:
    for family in (*CLIPPED, "qwen3"):
        learner = muonclip(config, family, limit=1.0)
        learner.start()
        fresh = AutoModelForCausalLM.from_pretrained(learner.config.model.name).state_dict()
        assert all(torch.equal(tensor, fresh[name]) for name, tensor in learner.model.network.state_dict().items())
