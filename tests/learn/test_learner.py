"""The learner's promises: it trains the model it says, the same however cut, and resumes bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3Model

from rlvr.config import Config, DType
from rlvr.learn import attention
from rlvr.learn import model as policy_model
from rlvr.learn.algorithms import Aggregation
from rlvr.learn.learner import Learner, split_by_group
from rlvr.learn.learner_report import LearnerReport
from rlvr.learn.model import PolicyModel
from rlvr.learn.objective import objective_of
from rlvr.learn.packing import Layout, pack
from rlvr.learn.presets import algorithm_from
from rlvr.learn.selfcheck import SelfCheckFailed
from rlvr.learn.streams import rl_tokens
from rlvr.types import LossWeights, Row, TokenFate
from rlvr.weights.transport import read_weights

from .conftest import VOCABULARY, make_rows, rl_of

MakeConfig = Callable[..., Config]
LORA = {"lora": {"rank": 2, "alpha": 4.0}}


def started(config: Config) -> Learner:
    learner = Learner(config)
    learner.start()
    return learner


def with_sampler(learner: Learner, rows: list[Row]) -> list[Row]:
    """The rows as if the learner's own policy had sampled them."""
    for row, logprobs in zip(rows, learner.logprobs(rows), strict=True):
        rl_of(row).sampler_logprobs = [lp if t else 0.0 for lp, t in zip(logprobs, row.trained, strict=True)]
    return rows


def plain_logprobs(folder: str | Path, rows: list[Row], temperature: float = 1.0) -> list[Tensor]:
    """Each row alone, by transformers."""
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    result = []
    for row in rows:
        ids = torch.tensor([row.token_ids])
        with torch.no_grad():
            logprobs = (network(ids).logits[0, :-1] / temperature).log_softmax(-1)
        result.append(logprobs.gather(1, ids[0, 1:, None]).squeeze(1))
    return result


def same_state(one: Learner, other: Learner) -> bool:
    mine, theirs = one.model.network.state_dict(), other.model.network.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


# ---------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma", "mistral_windowed", "olmoe"])
def test_logprobs_are_those_of_the_model_alone(config: MakeConfig, family: str) -> None:
    settings = config(family, sampling={"max_new_tokens": 64, "temperature": 0.8})
    rows = make_rows()
    ours = started(settings).logprobs(rows)
    for mine, theirs in zip(ours, plain_logprobs(settings.model.name, rows, 0.8), strict=True):
        assert mine[0] == 0.0
        torch.testing.assert_close(torch.tensor(mine[1:]), theirs, rtol=0, atol=1e-4)


def test_layouts_follow_from_the_model(config: MakeConfig) -> None:
    assert Learner(config("qwen3")).start().layout == "shared"
    assert Learner(config("mistral_windowed")).start().layout == "packed"
    assert Learner(config("llama4")).start().layout == "alone"
    assert Learner(config("qwen3", learner={"layout": "alone"})).start().layout == "alone"


def test_start_says_what_it_holds(config: MakeConfig) -> None:
    info = Learner(config("llama")).start()
    assert (info.device, info.dtype, info.attention, info.version) == ("cpu", "float32", "sdpa", 0)
    assert info.parameters == info.trainable > 0
    assert info.check.packing <= info.check.bound == 1e-4

    adapted = Learner(config("llama", model=LORA)).start()
    assert 0 < adapted.trainable < info.parameters < adapted.parameters


def test_two_learners_of_one_seed_begin_alike(config: MakeConfig) -> None:
    def begins(seed: int) -> tuple[dict[str, Tensor], Tensor]:
        learner = started(config("llama", model=LORA, seed=seed))
        return learner.model.network.state_dict(), torch.rand(8)

    (adapter, lots), (again, same_lots), (other, other_lots) = begins(1), begins(1), begins(2)
    assert all(torch.equal(again[name], tensor) for name, tensor in adapter.items())
    assert torch.equal(same_lots, lots)
    assert not all(torch.equal(other[name], tensor) for name, tensor in adapter.items())
    assert not torch.equal(other_lots, lots)


# ---------------------------------------------------------------------- the self-check


def test_a_model_that_mixes_rows_is_refused(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap as it is in the wild: somewhere a mask of ones is made, and transformers asks no position ids."""
    right = Qwen3Model.forward

    def careless(self: Any, input_ids: Tensor, **arguments: Any) -> Any:
        arguments["attention_mask"] = torch.ones_like(input_ids)
        return right(self, input_ids=input_ids, **arguments)

    monkeypatch.setattr(Qwen3Model, "forward", careless)
    with pytest.raises(SelfCheckFailed, match=r"learner\.layout=packed and sdpa attention mixes rows"):
        Learner(config("qwen3", learner={"layout": "packed"})).start()
    for layout in ("alone", "shared"):  # what the message advises; and spans do not depend on the mask
        Learner(config("qwen3", learner={"layout": layout})).start()


def test_a_cache_in_the_model_is_refused(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Qwen3Model.forward

    def caching(self: Any, input_ids: Tensor, **arguments: Any) -> Any:
        return right(self, input_ids=input_ids, **(arguments | {"use_cache": True}))

    monkeypatch.setattr(Qwen3Model, "forward", caching)
    with pytest.raises(SelfCheckFailed, match="mixes rows"):
        Learner(config("qwen3", learner={"layout": "packed"})).start()


def test_an_attention_whose_mask_transformers_leaves_out_is_refused(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap as it is in the wild: an attention that is registered, but not a second time for its mask."""
    for name in ("unmasked", "masked"):
        AttentionInterface.register(name, sdpa_attention_forward)
    AttentionMaskInterface.register("masked", sdpa_mask)
    monkeypatch.setattr(policy_model, "_attention", lambda config: "unmasked")
    with pytest.raises(SelfCheckFailed, match=r"learner.layout=packed and unmasked attention mixes rows"):
        started(config("llama"))
    monkeypatch.setattr(policy_model, "_attention", lambda config: "masked")
    started(config("llama"))


def test_the_learners_own_attention_is_checked(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **arguments: Any
    ) -> tuple[Tensor, None]:
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, None, **arguments)
        return output

    monkeypatch.setattr(attention, "sdpa_attention_forward", careless)
    with pytest.raises(SelfCheckFailed, match="mixes rows"):
        started(config("llama", learner={"layout": "packed"}))


def test_a_model_that_scales_its_logits_is_refused(config: MakeConfig) -> None:
    with pytest.raises(SelfCheckFailed, match="GraniteForCausalLM's own logits"):
        Learner(config("granite")).start()


def test_settings_that_cannot_be_are_refused(config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="=float16 needs loss scaling"):
        Learner(config(model={"dtype": "float16"})).start()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            Learner(config(learner={"device": "cuda"})).start()


# ---------------------------------------------------------------------- the same gradient however it is cut


def gradient(model: PolicyModel, rows: list[Row], preset_config: Config, **plan: Any) -> tuple[float, Tensor]:
    algorithm = algorithm_from(preset_config.algorithm, 2, 64)
    objective = objective_of(rows, rl_tokens(rows, algorithm, model.device), algorithm, LossWeights(), model.device)
    parameters = list(model.trainable().values())
    for parameter in parameters:
        parameter.grad = None
    total = 0.0
    for batch in pack(rows, replace(model.plan, **plan)):
        loss = objective.part(model.logprobs(batch, objective.ids(batch.tokens)), batch.tokens).loss
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("lora", [False, True])
def test_loss_and_gradient_do_not_depend_on_the_cut(config: MakeConfig, aggregation: Aggregation, lora: bool) -> None:
    """In float64, because attention over spans and torch's own round differently."""
    settings = config("llama", algorithm={"preset": "gspo", "aggregation": aggregation}, model=LORA if lora else {})
    model = PolicyModel(settings)
    model.network.double()
    if lora:  # B starts at zero, where the gradient of A vanishes
        torch.manual_seed(1)
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    rows = make_rows()
    for row in rows:
        rl_of(row).sampler_logprobs = [0.0] * len(row)
    loss, whole = gradient(model, rows, settings, layout=Layout.ALONE, grid_tokens=100_000)
    assert whole.norm() > 1e-3
    for layout in Layout:
        for cut in ({"grid_tokens": 1}, {"grid_tokens": 90}, {"long_lines": True, "token_budget": 200}):
            other_loss, other = gradient(model, rows, settings, layout=layout, **cut)
            assert other_loss == pytest.approx(loss, rel=1e-6, abs=1e-6)
            assert (other - whole).norm() <= 1e-6 * whole.norm() + 1e-7


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_does_not_depend_on_the_budget(config: MakeConfig, checkpointing: bool) -> None:
    reports = []
    for budget in (128, 4096):
        learner = started(config(learner={"token_budget": budget, "gradient_checkpointing": checkpointing}))
        reports.append(learner.train(with_sampler(learner, make_rows())))
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-5)
    assert reports[0].grad_norm == pytest.approx(reports[1].grad_norm, rel=1e-5)
    assert reports[0].trained_tokens == reports[1].trained_tokens


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 1), (True, 2)])
def test_checkpointing_recomputes_each_layer_without_dropout(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, checkpointing: bool, passes: int
) -> None:
    learner = started(config(learner={"gradient_checkpointing": checkpointing}))
    right, calls = Qwen3Attention.forward, []

    def counting(self: Any, *positional: Any, **arguments: Any) -> Any:
        calls.append(self.training)
        return right(self, *positional, **arguments)

    monkeypatch.setattr(Qwen3Attention, "forward", counting)
    learner.train(make_rows())
    assert calls == [False] * passes * 2  # layers


# ---------------------------------------------------------------------- training


def test_training_makes_good_answers_likelier_and_bad_ones_less_likely(config: MakeConfig) -> None:
    learner = started(config())
    rows = with_sampler(learner, make_rows(groups=2, size=2))
    for row, advantage in zip(rows, [1.0, -1.0, 1.0, -1.0], strict=True):
        rl_of(row).advantages = [advantage if t else 0.0 for t in row.trained]
    before = [sum(rl_of(row).sampler_logprobs) for row in rows]
    for _ in range(3):
        report = learner.train(rows)
    masked = [
        [lp if t else 0.0 for lp, t in zip(r, row.trained, strict=True)]
        for r, row in zip(learner.logprobs(rows), rows, strict=True)
    ]
    change = [sum(logprobs) - old for logprobs, old in zip(masked, before, strict=True)]
    assert change[0] > 0 > change[1] and change[2] > 0 > change[3]
    assert report.version == learner.version == 3


def test_a_report_of_the_policys_own_rows(config: MakeConfig) -> None:
    learner = started(config(learner={"learning_rate": 0.5e-2, "warmup_steps": 2}))
    rows = with_sampler(learner, make_rows())
    report = learner.train(rows)
    tokens = [(row.token_ids[:t], row) for row in rows for t, trained in enumerate(row.trained) if trained]
    assert report.trained_tokens == len(tokens)
    assert report.mismatch_kl == pytest.approx(0, abs=1e-6)
    assert (report.mean_ratio, report.ess) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4))
    assert report.shares[TokenFate.TRAINED] == 1 and sum(report.shares.values()) == 1
    assert report.learning_rate == pytest.approx(0.25e-2)
    assert 0 < report.entropy <= math.log(VOCABULARY)
    assert (report.updates, report.skipped) == (1, ())
    assert all(math.isfinite(value) for value in report.metrics().values())


def test_stale_and_unusable_tokens_are_in_the_report(config: MakeConfig) -> None:
    learner = started(config(rollout={"max_staleness": 1}))
    rows = with_sampler(learner, make_rows(tool_output=False))
    stale = rows[0].trained.count(True)
    rl_of(rows[0]).staleness = [2 if t else 0 for t in rows[0].trained]
    rl_of(rows[1]).sampler_logprobs[-1] = math.nan
    report = learner.train(rows)
    assert report.shares[TokenFate.STALE] == pytest.approx(stale / report.trained_tokens)
    assert report.shares[TokenFate.UNUSABLE] == pytest.approx(1 / report.trained_tokens)
    assert report.updates == 1
    assert report.token_fates[0, 0] == bytes([TokenFate.STALE] * stale)
    assert report.token_fates[0, 1][-1] == TokenFate.UNUSABLE
    assert set(report.token_fates) == {(row.group_id, row.trajectory) for row in rows}
    assert set(report.token_fates[2, 3]) == {TokenFate.TRAINED}


def test_truncated_answers_are_left_out_where_the_algorithm_says_so(config: MakeConfig) -> None:
    rows = make_rows()
    rows[0].truncated = True
    rest = started(config(algorithm="dapo")).train(rows[1:])
    report = started(config(algorithm="dapo")).train(rows)
    assert report.shares[TokenFate.TRUNCATED] == pytest.approx(1 / 12)
    assert report.token_fates[0, 0] == bytes([TokenFate.TRUNCATED] * sum(rows[0].trained))
    assert (report.loss, report.grad_norm) == (rest.loss, rest.grad_norm)
    assert started(config(algorithm="gspo")).train(rows).shares[TokenFate.TRUNCATED] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(config: MakeConfig, bad: float) -> None:
    learner, untouched = started(config()), started(config())
    rows = with_sampler(learner, make_rows())
    broken = [replace(row, rl=replace(rl_of(row), advantages=[bad if t else 0.0 for t in row.trained])) for row in rows]
    report = learner.train(broken)
    assert "gradient" in report.skipped[0] and report.updates == 0
    assert (report.version, learner.version) == (0, 0)
    assert {fate for fates in report.token_fates.values() for fate in fates} == {TokenFate.SKIPPED}
    assert same_state(learner, untouched)

    learner.train(rows), untouched.train(rows)
    assert same_state(learner, untouched)


@pytest.mark.parametrize("rows", [[], [replace(make_rows()[0], trained=[False] * len(make_rows()[0]))]])
def test_a_batch_with_nothing_to_train_changes_nothing(config: MakeConfig, rows: list[Row]) -> None:
    learner = started(config())
    report = learner.train(rows)
    assert report.skipped == ("no row has a token to train",)
    assert (report.version, report.updates, report.trained_tokens) == (0, 0, 0)
    assert all(math.isfinite(value) for value in report.metrics().values())


def test_several_updates_are_each_on_whole_groups_against_one_proximal_policy(config: MakeConfig) -> None:
    settings = config(algorithm="grpo", learner={"updates_per_step": 3, "learning_rate": 3e-2})
    learner = started(settings)
    rows = with_sampler(learner, make_rows(groups=6))
    report = learner.train(rows)
    assert (report.updates, report.version) == (3, 1)
    # The policy moves between the updates, so that against the policy before the batch some tokens are clipped.
    assert report.shares[TokenFate.BOUNDED] > 0
    assert report.mean_ratio != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_is_the_model_the_run_began_with(config: MakeConfig, tmp_path: Path, lora: bool) -> None:
    settings = config(algorithm={"preset": "dis", "beta": 0.1}, model=LORA if lora else {})
    learner = started(settings)
    rows = with_sampler(learner, make_rows())
    first = [list(logprobs) for logprobs in learner.logprobs(rows)]
    reports = [learner.train(rows) for _ in range(4)]
    assert reports[0].reference_kl == pytest.approx(0, abs=1e-6)
    assert all((report.reference_kl or 0) > 1e-3 for report in reports[1:])

    trained = [
        lp for row, of_row in zip(rows, first, strict=True) for lp, t in zip(of_row, row.trained, strict=True) if t
    ]
    learner.save(tmp_path)
    learner.saved()
    resumed = started(settings)
    resumed.load(tmp_path)
    for of_run in (learner, resumed):
        assert of_run.reference is not None
        torch.testing.assert_close(of_run.reference.logprobs(rows), torch.tensor(trained), rtol=0, atol=1e-5)
        assert of_run.logprobs(rows)[0] != first[0]


def test_a_strong_kl_keeps_the_policy_near_the_reference(config: MakeConfig) -> None:
    def moved(beta: float) -> float:
        learner = started(config(algorithm={"preset": "dis", "beta": beta}))
        rows = with_sampler(learner, make_rows())
        before = learner.logprobs(rows)
        for _ in range(8):
            learner.train(rows)
        return sum(
            (a - b) ** 2 for x, y in zip(before, learner.logprobs(rows), strict=True) for a, b in zip(x, y, strict=True)
        )

    assert moved(10.0) < 0.5 * moved(0.0)


@pytest.mark.parametrize("preset", ["m2po", "high_entropy"])
def test_masks_of_a_step_do_not_depend_on_the_cut(config: MakeConfig, preset: str) -> None:
    reports = []
    for budget in (128, 4096):
        learner = started(config(algorithm=preset, learner={"token_budget": budget}))
        reports.append(learner.train(make_rows()))
    assert reports[0].token_fates == reports[1].token_fates
    assert 0 < reports[0].shares[TokenFate.MASKED] < 1
    assert reports[0].grad_norm == pytest.approx(reports[1].grad_norm, rel=1e-5)


def test_shares_are_whole_groups() -> None:
    rows = make_rows(groups=5, size=3)
    shares = split_by_group(rows, 2)
    assert [len({row.group_id for row in share}) for share in shares] == [3, 2]
    assert [row for share in shares for row in share] == rows
    assert len(split_by_group(rows, 8)) == 5


def test_bfloat16_trains_near_float32_and_publishes_its_own_dtype(config: MakeConfig, tmp_path: Path) -> None:
    wide, narrow = started(config()), started(config(model={"dtype": "bfloat16"}))
    rows = with_sampler(wide, make_rows())
    for one, other in zip(wide.logprobs(rows), narrow.logprobs(rows), strict=True):
        assert one != other
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=0, atol=0.5)
    one, other = wide.train(rows), narrow.train(rows)
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=0.1)
    assert all(p.dtype == torch.float32 for p in narrow.parameters.values())
    update = narrow.publish(tmp_path)
    assert update.dtype is DType.BFLOAT16
    assert {t.dtype for t in read_weights(update.source).values()} == {torch.bfloat16}


# ---------------------------------------------------------------------- versions, folders, checkpoints


@pytest.mark.parametrize(
    ("family", "lora", "optimizer"),
    [("qwen3", False, "adamw"), ("qwen3", True, "adamw"), ("olmoe", False, "muon")],
)
def test_resume_is_bit_for_bit(config: MakeConfig, tmp_path: Path, family: str, lora: bool, optimizer: str) -> None:
    settings = config(
        family,
        model=LORA if lora else {},
        learner={"updates_per_step": 2, "schedule": "cosine", "warmup_steps": 3, "optimizer": optimizer},
    )

    def untimed(report: LearnerReport) -> LearnerReport:
        return replace(report, seconds=0.0)

    batches = [make_rows(seed) for seed in range(4)]
    straight, first = started(settings), started(settings)
    expected = [untimed(straight.train(batch)) for batch in batches]
    for batch in batches[:2]:
        first.train(batch)
    first.save(tmp_path / "learner")
    first.saved()

    second = started(settings)
    second.load(tmp_path / "learner")
    assert (second.version, second.updates) == (2, 4)
    assert [untimed(second.train(batch)) for batch in batches[2:]] == expected[2:]
    assert same_state(second, straight)


def test_a_checkpoint_of_another_model_is_refused(config: MakeConfig, tmp_path: Path) -> None:
    learner = started(config("llama", model=LORA))
    learner.save(tmp_path)
    learner.saved()
    with pytest.raises(ValueError, match="is of another model"):
        started(config("llama")).load(tmp_path)


def test_a_checkpoint_of_another_optimizer_is_refused(config: MakeConfig, tmp_path: Path) -> None:
    learner = started(config("llama", learner={"optimizer": "muon"}))
    learner.save(tmp_path)
    learner.saved()
    with pytest.raises(ValueError, match=r"learner.optimizer"):
        started(config("llama")).load(tmp_path)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "llama", "olmoe"])
def test_what_is_exported_and_published_is_what_was_trained(
    config: MakeConfig, tmp_path: Path, family: str, lora: bool
) -> None:
    learner = started(config(family, model=LORA if lora else {}))
    rows = make_rows()
    learner.train(rows)
    ours = learner.logprobs(rows)

    learner.export(tmp_path / "policy")
    for mine, theirs in zip(ours, plain_logprobs(tmp_path / "policy", rows), strict=True):
        torch.testing.assert_close(torch.tensor(mine[1:]), theirs, rtol=0, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").eos_token == "w1"

    update = learner.publish(tmp_path)
    assert update.version == 1
    published = read_weights(update.source)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    original = AutoModelForCausalLM.from_pretrained(learner.config.model.name)
    assert sum(t.numel() for t in published.values()) == sum(p.numel() for p in exported.parameters())
    assert not any("lora" in name or "base_layer" in name for name in published)
    state, before = exported.state_dict(), original.state_dict()
    plain = [name for name in published if name in state]
    assert len(plain) > 8
    assert all(torch.equal(published[name], state[name]) for name in plain)
    assert any(not torch.equal(state[name], before[name]) for name in plain)


def test_an_adapter_is_published_as_peft_reads_it(config: MakeConfig, tmp_path: Path) -> None:
    settings = config("llama", model={"lora": {"rank": 2, "alpha": 4.0, "publish": "adapter"}})
    learner = started(settings)
    rows = make_rows()
    learner.train(rows)
    update = learner.publish(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(settings.model.name)
    model = peft.PeftModel.from_pretrained(base, str(update.source.path)).eval()
    for row, mine in zip(rows, learner.logprobs(rows), strict=True):
        ids = torch.tensor([row.token_ids])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        theirs = logprobs.gather(1, ids[0, 1:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(mine[1:]), theirs, rtol=0, atol=1e-4)


def test_lora_leaves_the_base_alone(config: MakeConfig) -> None:
    learner = started(config("llama", model=LORA))
    base = AutoModelForCausalLM.from_pretrained(learner.config.model.name).state_dict()
    learner.train(make_rows())
    kept = {n.replace(".base_layer", ""): t for n, t in learner.model.network.state_dict().items() if "lora_" not in n}
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], base[name]) for name in base)
