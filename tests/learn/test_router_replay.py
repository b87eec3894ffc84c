"""Router replay: tokens go to the experts that were recorded, with weights that are the router's own and trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from rlvr.config import Config
from rlvr.learn.experts import BalanceLoss
from rlvr.learn.learner import Learner
from rlvr.learn.model import PolicyModel
from rlvr.learn.packing import pack
from rlvr.learn.reference import Reference
from rlvr.learn.score import score
from rlvr.routing import UnknownRouter, expert_layers, has_experts, routers_of
from rlvr.types import Row

from .conftest import make_rows

MakeConfig = Callable[..., Config]
EXPERTS = 4
LAYERS = {"qwen3_moe": 2, "deepseek_v3": 1, "llama4": 1}
TOP_K = {"qwen3_moe": 2, "deepseek_v3": 2, "llama4": 1}


def with_experts(rows: list[Row], family: str, seed: int = 0) -> list[Row]:
    """Any experts, but the same for the common prompt of a group; the last token was never read."""
    source = np.random.default_rng(seed)

    def choose(tokens: int) -> np.ndarray:
        scores = source.random((tokens, LAYERS[family], EXPERTS))
        return scores.argsort(-1)[..., : TOP_K[family]].astype(np.uint8)

    prompts = {row.group_id: choose(len(row)) for row in rows}
    recorded = []
    for row in rows:
        prompt = row.trained.index(True)
        experts = np.concatenate([prompts[row.group_id][:prompt], choose(len(row) - prompt - 1)])
        recorded.append(replace(row, experts=experts))
    return recorded


def by_hand(module: nn.Module, hidden: Tensor, experts: Tensor) -> Any:
    """What each family's paper says the weights of given experts are."""
    match module:
        case Qwen3MoeTopKRouter():  # softmax over all, renormalised over those chosen
            logits = hidden.reshape(-1, hidden.shape[-1]) @ module.weight.T
            chosen = logits.softmax(-1)[torch.arange(len(logits))[:, None], experts]
            return logits, chosen / chosen.sum(-1, keepdim=True), experts
        case DeepseekV3TopkRouter():  # sigmoids, normalised over those chosen, times a constant
            logits = hidden.reshape(-1, hidden.shape[-1]) @ module.weight.T
            chosen = logits.sigmoid()[torch.arange(len(logits))[:, None], experts]
            return logits, chosen / chosen.sum(-1, keepdim=True) * module.routed_scaling_factor, experts
        case Llama4Router():  # one sigmoid
            logits = hidden @ module.weight.T
            weights = torch.zeros_like(logits)
            rows = torch.arange(len(logits))
            weights[rows, experts[:, 0]] = logits[rows, experts[:, 0]].sigmoid()
            return weights, logits
    raise AssertionError(module)


def expected(folder: str, rows: list[Row]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Log-probabilities of each row's trained tokens, one row at a time, and the routers' gradients of their sum."""
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    routers = [m for m in network.modules() if isinstance(m, Qwen3MoeTopKRouter | DeepseekV3TopkRouter | Llama4Router)]
    logprobs = []
    for row in rows:
        assert row.experts is not None
        chosen = torch.from_numpy(row.experts.astype(np.int64))
        for layer, router in enumerate(routers):

            def forward(hidden: Tensor, module: nn.Module = router, experts: Tensor = chosen[:, layer]) -> Any:
                return by_hand(module, hidden, experts)

            router.forward = forward
        ids = torch.tensor([row.token_ids])
        of_tokens = network(ids[:, :-1]).logits[0].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        logprobs.append(of_tokens[torch.tensor(row.trained[1:])])
        logprobs[-1].sum().backward()
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None and n.endswith("r.weight")}
    gradients |= {n: p.grad for n, p in network.named_parameters() if p.grad is not None and n.endswith("gate.weight")}
    return [lp.detach() for lp in logprobs], gradients


@pytest.mark.parametrize("layout", ["shared", "packed"])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "llama4"])
@pytest.mark.parametrize("recompute", [False, True])
def test_tokens_go_to_the_recorded_experts_and_routers_are_trained(
    config: MakeConfig, family: str, layout: str, recompute: bool
) -> None:
    if family == "llama4":
        layout = "alone"  # its attention is in chunks of the line
    settings = config(family, learner={"layout": layout, "gradient_checkpointing": recompute})
    rows = with_experts(make_rows(groups=2), family)
    logprobs, gradients = expected(settings.model.name, rows)

    model = PolicyModel(settings)
    ours = torch.empty(sum(map(len, logprobs)))
    for batch in pack(rows, model.plan):
        output = model.logprobs(batch).logprobs
        output.sum().backward()
        ours[batch.tokens] = output.detach()
    torch.testing.assert_close(ours, torch.cat(logprobs), rtol=0, atol=1e-5)
    assert len(gradients) == LAYERS[family]
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(model.network.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-5)


def test_where_nothing_was_recorded_the_learner_routes_by_itself(config: MakeConfig) -> None:
    model = PolicyModel(config("qwen3_moe"))
    rows = make_rows(groups=2)
    recorded = with_experts(rows, "qwen3_moe")
    own = score(model, rows, model.plan, model.dtype).logprobs
    mixed = score(model, [recorded[0], *rows[1:4], *recorded[4:]], model.plan, model.dtype).logprobs
    all_recorded = score(model, recorded, model.plan, model.dtype).logprobs
    ends = np.cumsum([sum(row.trained) for row in rows])
    assert (all_recorded - own).abs().max() > 0.01
    torch.testing.assert_close(mixed[ends[3] :], all_recorded[ends[3] :], rtol=0, atol=1e-5)
    assert (mixed[ends[0] : ends[3]] - all_recorded[ends[0] : ends[3]]).abs().max() > 0.01


@pytest.mark.parametrize("lora", [0, 2])
def test_the_reference_routes_by_itself(config: MakeConfig, lora: int) -> None:
    settings = config("qwen3_moe", model={"lora": {"rank": lora, "targets": ["q_proj", "v_proj"]}})
    model = PolicyModel(settings)
    rows = make_rows(groups=2)
    reference = Reference(settings, model)
    ours = reference.logprobs(with_experts(rows, "qwen3_moe"))
    torch.testing.assert_close(ours, score(model, rows, model.plan, model.dtype).logprobs, rtol=0, atol=1e-5)


def test_experts_of_another_model_are_refused(config: MakeConfig) -> None:
    model = PolicyModel(config("qwen3_moe"))
    with pytest.raises(ValueError, match="rows name experts of 1 layers, 2 a token; this model is replayed on 2"):
        score(model, with_experts(make_rows(), "deepseek_v3"), model.plan, model.dtype)


def test_a_router_of_another_form_is_refused(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sorts its scores: what it chooses would not be seen."""

    def sorting(self: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = hidden.reshape(-1, self.hidden_dim) @ self.weight.T
        order = logits.argsort(-1, descending=True)[:, : self.top_k]
        return logits, logits.softmax(-1).gather(-1, order), order

    monkeypatch.setattr(Qwen3MoeTopKRouter, "forward", sorting)
    with pytest.raises(UnknownRouter, match=r"by topk over scores: set learner\.router\.replay=false"):
        Learner(config("qwen3_moe")).start()
    Learner(config("qwen3_moe", learner={"router": {"replay": False}})).start()  # what the message advises


def test_what_is_known_of_a_model_before_it_is_loaded(checkpoint: Callable[[str], Path]) -> None:
    folders = {family: str(checkpoint(family)) for family in ("qwen3", "llama4", "deepseek_v3", "qwen3_moe")}
    assert {family: has_experts(folder) for family, folder in folders.items()} == {
        "qwen3": False,
        "llama4": True,
        "deepseek_v3": True,
        "qwen3_moe": True,
    }
    assert expert_layers(folders["qwen3_moe"]) == [0, 1]
    assert expert_layers(folders["deepseek_v3"]) == [1]
    assert expert_layers(folders["llama4"]) == [1]


# ---------------------------------------------------------------------- load, balance, frozen routers


def scores_by_hand(model: PolicyModel, row: Row) -> list[Tensor]:
    """Each layer's softmax of router scores where the row's trained tokens are predicted, from one row alone."""
    seen: list[Tensor] = []
    hooks = [r.module.register_forward_hook(lambda _, __, out: seen.append(out[0])) for r in routers_of(model.network)]
    (batch,) = pack([row], model.plan)
    model.logprobs(batch)
    for hook in hooks:
        hook.remove()
    places = [t - 1 for t, trained in enumerate(row.trained) if trained]
    return [logits[places].softmax(-1) for logits in seen]


def test_load_and_balance_loss_are_what_their_formulas_say(config: MakeConfig) -> None:
    strength = 0.3
    settings = config("qwen3_moe", learner={"router": {"balance_loss": strength}})
    learner = Learner(settings)
    learner.start()
    rows = with_experts(make_rows(groups=3), "qwen3_moe")
    counts = torch.zeros(2, EXPERTS, dtype=torch.double)
    for row in rows:
        for t, trained in enumerate(row.trained):
            for layer in range(2) if trained else ():
                for expert in row.experts[t - 1, layer]:
                    counts[layer, int(expert)] += 1
    shares = counts / counts.sum(-1, keepdim=True)
    means = torch.stack([torch.cat(of) for of in zip(*(scores_by_hand(learner.model, r) for r in rows), strict=True)])
    wanted = strength * EXPERTS * (shares.float() * means.mean(dim=1)).sum(-1).mean()
    weights = [r.module.weight for r in learner.model.experts.routers]
    gradients = torch.autograd.grad(wanted, weights)

    parts = []
    balance = BalanceLoss.of(rows, learner.model.experts, strength)
    for batch in pack(rows, replace(learner.model.plan, grid_tokens=60)):
        learner.model.logprobs(batch)
        parts.append(balance.part(learner.model.experts, batch.read))
        parts[-1].backward()
    assert len(parts) > 2
    assert sum(parts).item() == pytest.approx(wanted.item(), rel=1e-5)
    for weight, gradient in zip(weights, gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)

    report = learner.train(rows)
    assert report.expert_load["experts/largest_share"] == pytest.approx(shares.max().item() * EXPERTS)
    assert report.expert_load["experts/smallest_share"] == pytest.approx(shares.min().item() * EXPERTS)
    entropy = -(shares * shares.log()).sum(-1).mean().item() / math.log(EXPERTS)
    assert report.expert_load["experts/entropy"] == pytest.approx(entropy)
    assert 0.2 < report.expert_load["experts/replay_agreement"] < 0.8  # the choices were drawn at random


def test_balance_loss_spreads_tokens(config: MakeConfig) -> None:
    """With nothing else to train, the router of a layer that sends all to one expert learns to prefer others."""
    learner = Learner(config("qwen3_moe", learner={"router": {"balance_loss": 1.0}, "learning_rate": 0.02}))
    learner.start()
    rows = make_rows(groups=2)
    crowded = [
        replace(row, experts=np.tile(np.array([0, 1], np.uint8), (len(row) - 1, 2, 1)), rl=None, ce=[0.0] * len(row))
        for row in rows
    ]
    before = scores_by_hand(learner.model, crowded[0])
    for _ in range(5):
        learner.train(crowded)
    after = scores_by_hand(learner.model, crowded[0])
    for layer in range(2):
        assert after[layer][:, :2].sum(-1).mean() < before[layer][:, :2].sum(-1).mean() - 0.1


def test_balance_loss_needs_recorded_experts(config: MakeConfig) -> None:
    learner = Learner(config("qwen3_moe", learner={"router": {"balance_loss": 0.1}}))
    learner.start()
    with pytest.raises(ValueError, match="row of group 0 does not say which experts"):
        learner.train(make_rows())
    with pytest.raises(ValueError, match=r"set learner\.router\.replay=true"):
        config("qwen3_moe", learner={"router": {"balance_loss": 0.1, "replay": False}})


def test_frozen_routers_stay_and_the_rest_learns(config: MakeConfig) -> None:
    learner = Learner(config("deepseek_v3", learner={"router": {"frozen": True}}))
    learner.start()
    before = {name: tensor.clone() for name, tensor in learner.model.network.state_dict().items()}
    learner.train(with_experts(make_rows(), "deepseek_v3"))
    after = learner.model.network.state_dict()
    assert torch.equal(after["model.layers.1.mlp.gate.weight"], before["model.layers.1.mlp.gate.weight"])
    assert not torch.equal(
        after["model.layers.1.mlp.experts.down_proj"], before["model.layers.1.mlp.experts.down_proj"]
    )


def test_an_indexer_is_not_trained(config: MakeConfig) -> None:
    learner = Learner(config("glm5", learner={"weight_decay": 0.1}))
    info = learner.start()
    indexer = {n: p.clone() for n, p in learner.model.network.named_parameters() if ".indexer." in n}
    assert indexer
    assert info.parameters - info.trainable == sum(p.numel() for p in indexer.values())
    learner.train(make_rows())
    after = dict(learner.model.network.named_parameters())
    assert all(torch.equal(after[name], before) for name, before in indexer.items())
