"""Whole plans: what fits, what would, how fast it may go beside published figures, and what is printed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rlvr.architecture.catalog import find_model, shipped_config
from rlvr.architecture.cost import kv_bytes
from rlvr.cli import app
from rlvr.config import Config
from rlvr.plan.accelerators import GIB, GPUS, machine_memory, swap_space
from rlvr.plan.adapters import adapter_parameters
from rlvr.plan.estimate import Split
from rlvr.plan.planner import Plan, PlanError, plan_run
from rlvr.plan.show import bar, show
from rlvr.plan.speed import LEARNER_SHARE, generation, training_s
from rlvr.plan.startup import Machine, shortfall
from rlvr.plan.workload import workload
from rlvr.prepare import PreparationError, refuse_what_cannot_fit


def config_for(model: str | dict[str, Any], **sections: Any) -> Config:
    lengths: dict[str, Any] = {"data": {"path": "x", "max_prompt_tokens": 512}, "sampling": {"max_new_tokens": 1536}}
    return Config.model_validate({"model": model, **lengths, **sections})


def with_settings(config: Config, words: str) -> Config:
    """The config with `section.name=value` words, as a change names them."""
    tree = config.model_dump(mode="json")
    for word in words.split():
        path, _, value = word.partition("=")
        *sections, name = path.split(".")
        inner = tree
        for section in sections:
            inner = inner[section]
        inner[name] = json.loads(value)
    return Config.model_validate(tree)


# -------------------------------------------------------------------- what fits


def test_half_a_billion_fits_one_gpu_that_both_roles_share() -> None:
    plan = plan_run(config_for("qwen2.5-0.5b"), "h100", 1)
    assert plan.fits
    assert plan.now.generator.room + plan.now.learner_room == GPUS["h100"].memory
    assert plan.changes == ()
    assert plan.best is None


def test_generators_on_one_gpu_leave_the_learner_what_one_would() -> None:
    one, three = (plan_run(config_for("qwen2.5-0.5b", generator={"count": n}), "h100", 1) for n in (1, 3))
    assert three.now.generator.room == pytest.approx(one.now.generator.room / 3, rel=1e-6)
    assert three.now.learner_room == pytest.approx(one.now.learner_room, rel=1e-6)


def test_what_does_not_fit_is_told_with_changes_that_make_it_fit() -> None:
    config = config_for("qwen3-8b")
    plan = plan_run(config, "h200", 8)
    assert not plan.fits
    assert "the learner needs" in plan.now.problems[0]
    [adapters] = [change for change in plan.changes if "model.lora.rank=16" in change.words]
    assert plan_run(with_settings(config, adapters.words), "h200", 8).fits
    assert any("sharded" in change.words for change in plan.changes)


@pytest.mark.parametrize("gpu", ["l4", "rtx4090", "l40s", "a100-40gb", "a100", "h200"])
@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-4b", "qwen3-8b"])
def test_every_change_of_settings_that_is_told_does_fit(model: str, gpu: str) -> None:
    config = config_for(model)
    plan = plan_run(config, gpu, 2)
    assert plan.fits == (not plan.now.problems)
    for change in plan.changes:
        if "GPUs" not in change.words:
            assert plan_run(with_settings(config, change.words), gpu, 2).now.learner_fits


def test_a_generator_that_cannot_hold_its_longest_sequence_is_given_more_gpus() -> None:
    config = config_for("qwen3-235b-a22b")
    plan = plan_run(config, "h200", 16)
    assert any("a generator has" in problem for problem in plan.now.problems)
    [change] = [change for change in plan.changes if "tensor_parallel" in change.words]
    widened = plan_run(with_settings(config, change.words), "h200", 16)
    assert widened.now.generator_fits


def test_more_generators_than_gpus_are_a_problem() -> None:
    plan = plan_run(config_for("qwen2.5-0.5b", generator={"count": 4}), "h100", 4)
    assert plan.now.problems == ("learner 1 GPU; 4 generators need 5 GPUs, and there are 4",)


def test_the_suggested_split_uses_no_more_than_there_is_and_is_not_slower() -> None:
    plan = plan_run(config_for("qwen2.5-0.5b"), "h100", 8)
    assert plan.best is not None
    assert plan.best.split.used <= 8
    assert plan.best.step_s <= plan.now.step_s


def test_a_name_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(PlanError, match="h200"):
        plan_run(config_for("qwen3-8b"), "h2000", 1)
    with pytest.raises(PlanError, match="at least 1"):
        plan_run(config_for("qwen3-8b"), "h200", 0)


@pytest.mark.parametrize("option", ["prompt", "answer"])
def test_a_mean_length_below_one_token_is_refused(option: str) -> None:
    with pytest.raises(PlanError, match=rf"--{option}-tokens -5: a mean length is at least 1 token"):
        plan_run(config_for("qwen3-8b"), "h200", 1, **{option: -5})
    with pytest.raises(PlanError, match="at least 1 token"):
        plan_run(config_for("qwen3-8b"), "h200", 1, **{option: 0})


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_cache_of_a_set_size_is_taken_whatever_the_generators_share(gpus: int) -> None:
    """79.1 GiB: 500 are more than there is; 60 leave the learner of half a billion 15.7 where they share."""
    large, middle = (
        plan_run(config_for("qwen2.5-0.5b", generator={"kv_cache_gib": size}), "h100", gpus) for size in (500, 60)
    )
    assert "a generator needs 503.4 GiB with generator.kv_cache_gib=500, and has 79.1 GiB" in large.now.problems
    [change] = [change for change in large.changes if "kv_cache_gib" in change.words]
    assert plan_run(with_settings(large.config, change.words), "h100", gpus).fits
    assert middle.fits == (gpus == 2)
    room = GPUS["h100"].memory - (middle.now.generator.memory.total if gpus == 1 else 0)
    assert middle.now.learner_room == room


def test_an_adapter_that_is_published_alone_is_sent_alone() -> None:
    lora = {"rank": 16, "publish": "adapter"}
    model = find_model("qwen3-8b").architecture
    plan = plan_run(config_for({"name": "qwen3-8b", "lora": lora}), "h200", 2)
    assert plan.now.publish_s == pytest.approx(4 * adapter_parameters(model, 16) / 2e9)


@pytest.mark.parametrize(
    ("model", "gpus", "shared"),
    [  # as vLLM asks: query heads evenly, and key-value heads evenly or each on several GPUs
        ("qwen2.5-0.5b", 2, True),  # 14 heads, 2 for keys and values
        ("qwen2.5-0.5b", 4, False),
        ("qwen3-235b-a22b", 8, True),  # 64 and 4
        ("llama-4-scout", 4, True),  # 40 and 8
        ("llama-4-scout", 16, False),
        ("deepseek-v3", 16, True),  # 128, latent
    ],
)
def test_a_generators_gpus_share_heads_evenly_or_the_plan_does_not_fit(model: str, gpus: int, shared: bool) -> None:
    problems = plan_run(config_for(model, generator={"tensor_parallel": gpus}), "b200", 64).now.problems
    assert shared != any("does not share the model's attention heads" in problem for problem in problems)


def test_ranks_are_not_put_on_one_gpu() -> None:
    plan = plan_run(config_for("qwen2.5-0.5b", learner={"ranks": 4}), "h100", 1)
    assert plan.now.problems == ("learner.ranks=4 needs as many GPUs, and there is one",)


def test_weights_of_four_bits_are_not_advised_to_be_sharded() -> None:
    """They fit where float32 does not, on one GPU each; a config with more ranks would be refused."""
    quantized = {"name": "qwen3-8b", "lora": {"rank": 16, "quantize": True}}
    plan = plan_run(config_for(quantized, learner={"token_budget": 2048}), "l40s", 8)
    assert plan.fits
    assert not plan_run(config_for(quantized | {"lora": {"rank": 16}}, learner={"token_budget": 2048}), "l40s", 8).fits
    assert plan.best is not None
    assert plan.best.split.learner_gpus == 1
    small = plan_run(config_for(quantized), "rtx4090", 8)
    assert not small.fits
    assert not any("sharded" in change.words or "offload" in change.words for change in small.changes)


def test_offloading_is_advised_with_what_it_takes_of_host_memory() -> None:
    config = config_for("qwen3-8b")
    [change] = [change for change in plan_run(config, "h100", 2).changes if "learner.offload=true" in change.words]
    assert "122.1 GiB of host memory" in change.leads_to
    assert plan_run(with_settings(config, change.words), "h100", 2).fits


# -------------------------------------------------------------------- how fast


@pytest.mark.parametrize(
    ("model", "gpu", "gpus", "published"),
    [
        # prime-rl's benchmarks of 2026-02-01: trainer only, full parameters, sequences of 16k, tokens/s.
        ("qwen3-0.6b", "h100", 1, 11_900),
        ("qwen3-4b", "h200", 8, 27_400),
        ("qwen3-30b-a3b", "h200", 8, 5_900),
    ],
)
def test_training_is_estimated_within_a_factor_of_two_of_a_published_run(
    model: str, gpu: str, gpus: int, published: float
) -> None:
    config = config_for(
        model, sampling={"max_new_tokens": 16_384 - 512}, learner={"token_budget": 16_384, "layout": "packed"}
    )
    work = workload(config, prompt=512, answer=16_384 - 512)
    tokens = work.groups_per_step * work.group_size * work.sequence
    found = tokens / training_s(config, find_model(model).architecture, GPUS[gpu], work, gpus)
    assert published / 2 < found < published * 2


def test_training_time_follows_from_operations() -> None:
    """Qwen3-8B: 2 operations a weight that is multiplied, 4 H d a key; three passes; the head's logits once more."""
    config = config_for("qwen3-8b", learner={"layout": "packed"}, rollout={"group_size": 2, "groups_per_step": 3})
    work = workload(config, prompt=100, answer=300)
    per_token = 2 * (8_190_735_360 - 151_936 * 4096) + 36 * 4 * 32 * 128 * (400 / 2)
    flops = 6 * 400 * per_token * 3 + 6 * 300 * 2 * 151_936 * 4096
    expected = flops / (989e12 * LEARNER_SHARE)
    found = training_s(config, find_model("qwen3-8b").architecture, GPUS["h200"], work)
    assert found == pytest.approx(expected)


def test_where_every_expert_computes_every_token_all_of_them_are_paid_for_in_bfloat16() -> None:
    """Llama 4 Scout: 106.74 billion weights that are multiplied, 17 billion of them active."""
    config = config_for("llama-4-scout", rollout={"group_size": 2, "groups_per_step": 1})
    work = workload(config, prompt=100, answer=300)
    found = training_s(config, find_model("llama-4-scout").architecture, GPUS["h200"], work)
    expected = 2 * 400 * 3 * 2 * 106.74e9 / (989e12 * LEARNER_SHARE)
    assert found == pytest.approx(expected, rel=0.01)


def test_one_sequence_is_as_fast_as_weights_and_cache_can_be_read() -> None:
    config = config_for("qwen3-8b")
    model, gpu = find_model("qwen3-8b").architecture, GPUS["h100"]
    work = workload(config, prompt=1, answer=1000)
    read = 2 * (8_190_735_360 - 151_936 * 4096) + kv_bytes(model, 501)
    step_s = read / (3.35e12 * 0.6) + gpu.engine_step_s
    assert generation(config, model, gpu, work, 1, 1).tokens_s == pytest.approx(1 / step_s, rel=1e-3)


def test_few_sequences_of_a_mixture_read_few_experts() -> None:
    """One token reads its chosen experts alone; many tokens read all."""
    config = config_for("qwen3-30b-a3b")
    model, gpu = find_model("qwen3-30b-a3b").architecture, GPUS["h100"]
    work = workload(config, prompt=1, answer=100)
    one = generation(config, model, gpu, work, 1, 1)
    many = generation(config, model, gpu, work, 512, 1)
    weights_one, weights_all = 2 * 3.042e9 / (3.35e12 * 0.6), 2 * 30.221e9 / (3.35e12 * 0.6)
    assert 1 / one.tokens_s - gpu.engine_step_s == pytest.approx(weights_one, rel=0.02)
    assert 512 / many.tokens_s > weights_all


def test_without_staleness_sampling_and_learning_take_turns() -> None:
    turns = plan_run(config_for("qwen2.5-0.5b", rollout={"max_staleness": 0}), "h100", 2).now
    both = plan_run(config_for("qwen2.5-0.5b"), "h100", 2).now
    assert turns.step_s == pytest.approx(turns.sample_s + turns.train_s + turns.publish_s)
    assert both.step_s == pytest.approx(max(both.sample_s, both.train_s + both.publish_s))


# -------------------------------------------------------------------- what is printed


def printed(plan: Plan) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    show(plan, console)
    return console.export_text()


def test_a_plan_names_each_part_the_verdict_and_every_assumption() -> None:
    text = printed(plan_run(config_for("qwen3-8b"), "h200", 8))
    for word in ("weights", "gradients", "AdamW", "activations", "head", "keys and values", "does not fit", "sampling"):
        assert word in text
    assert "would fit: model.lora.rank=16" in text
    assert "Estimated, not measured on GPUs" in text
    assert "12% of peak operations" in text


def test_bars_are_stretches_of_one_line_and_red_beyond_its_end() -> None:
    assert (bar(0, 50, 100, width=10).plain, bar(0, 50, 100, width=10).style) == ("█████", "green")
    assert bar(50, 25, 100, width=8).plain == "    ██"
    assert (bar(90, 50, 100, width=10).plain, bar(90, 50, 100, width=10).style) == ("         █", "red")
    assert bar(500, 50, 100, width=10).plain == "         █"


def test_a_split_is_told_in_words() -> None:
    assert str(Split(8, 2, 3, 2)) == "learner 2 GPUs, sharded; 3 generators of 2 GPUs"
    assert str(Split(1, 1, 1, 1)) == "learner and generator share the GPU"


def test_the_command_says_by_its_exit_code_whether_it_fits() -> None:
    words = ["plan", "model=qwen3-8b", "data.path=x", "--gpu", "h200"]
    assert CliRunner().invoke(app, [*words, "--gpus", "2"]).exit_code == 1
    assert CliRunner().invoke(app, [*words, "model.lora.rank=16", "--gpus", "2"]).exit_code == 0


def test_inspect_prints_models_side_by_side_and_as_json() -> None:
    table = CliRunner().invoke(app, ["inspect", "deepseek-v3", "kimi-k2"], env={"COLUMNS": "100"})
    assert table.exit_code == 0
    assert "671.03 B" in table.stdout and "1026.41 B" in table.stdout and "70,272" in table.stdout
    told = json.loads(CliRunner().invoke(app, ["inspect", "glm-5", "--json", "--context", "1000"]).stdout)
    assert [at["tokens"] for at in told[0]["at_context"]] == [1000]


def test_a_folders_name_is_not_read_as_markup(tmp_path: Path) -> None:
    folder = tmp_path / "[v2]" / "x[" / "b]"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shipped_config("qwen3-0.6b")))
    wide = {"COLUMNS": "300"}
    for words in (["inspect", str(folder)], ["plan", f"model.name={folder}", "data.path=x", "--gpu", "h200"]):
        told = CliRunner().invoke(app, words, env=wide)
        assert told.exception is None or isinstance(told.exception, SystemExit)
        assert str(folder) in told.stdout


# -------------------------------------------------------------------- a run that can never fit


def test_the_tiny_model_is_never_refused() -> None:
    refuse_what_cannot_fit(config_for("tiny"))


def test_a_model_beyond_this_machine_is_refused_with_the_figures(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shipped_config("deepseek-v3")))
    with pytest.raises(PreparationError, match=r"671\.03 billion parameters take .* take a smaller model"):
        refuse_what_cannot_fit(config_for(str(tmp_path)))


def test_nothing_is_refused_that_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    refuse_what_cannot_fit(config_for(str(tmp_path)))
    refuse_what_cannot_fit(config_for("nobody/has-this-model"))
    refuse_what_cannot_fit(config_for("deepseek-v3", cluster={"address": "auto"}))


@pytest.mark.parametrize(
    ("machine", "lora", "fits"),
    [
        # On a processor: 16 bytes a parameter for the learner, 4 for the generator, of 8.19e9 parameters.
        (Machine(memory=153 * GIB), 0, True),
        (Machine(memory=152 * GIB), 0, False),
        (Machine(memory=63 * GIB), 16, True),
        # Two GPUs: the learner has one; one GPU: the generator's bfloat16 weights are on it too.
        (Machine(64 * GIB, (123 * GIB, 123 * GIB)), 0, True),
        (Machine(64 * GIB, (122 * GIB, 122 * GIB)), 0, False),
        (Machine(64 * GIB, (136 * GIB,)), 0, False),
        (Machine(64 * GIB, (138 * GIB,)), 0, True),
    ],
)
def test_the_refusal_counts_only_what_is_certain(machine: Machine, lora: int, fits: bool) -> None:
    config = config_for({"name": "qwen3-8b", "lora": {"rank": lora}})
    assert (shortfall(config, find_model("qwen3-8b").architecture, machine) is None) == fits


def test_a_refusal_names_adapters_where_they_would_fit() -> None:
    model = find_model("qwen3-8b").architecture
    assert "model.lora.rank=16" in (shortfall(config_for("qwen3-8b"), model, Machine(100 * GIB)) or "")
    assert "model.lora.rank" not in (shortfall(config_for("qwen3-8b"), model, Machine(20 * GIB)) or "")


def test_a_containers_limit_and_swap_are_read(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    assert machine_memory(limit) == GIB
    limit.write_text("max\n")
    assert machine_memory(limit) > GIB
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nSwapTotal:   2048 kB\n")
    assert swap_space(meminfo) == 2048 * 1024


def test_the_configured_split_has_the_learners_ranks() -> None:
    plan = plan_run(config_for("qwen2.5-0.5b", learner={"ranks": 4}), "h100", 8)
    assert plan.now.split == Split(8, 4, 1, 1)
    alone = plan_run(config_for("qwen2.5-0.5b"), "h100", 8)
    assert plan.now.learner.total < alone.now.learner.total


def test_ranks_and_offload_are_not_refused_for_what_one_gpu_lacks() -> None:
    model = find_model("qwen3-8b").architecture
    machine = Machine(2000 * GIB, (80 * GIB,) * 8)
    assert shortfall(config_for("qwen3-8b"), model, machine) is not None
    assert shortfall(config_for("qwen3-8b", learner={"ranks": 4}), model, machine) is None
    assert shortfall(config_for("qwen3-8b", learner={"offload": True}), model, machine) is None


def test_every_generator_on_the_one_gpu_has_weights_there() -> None:
    """Qwen3-0.6B: 596,049,920 parameters, 2 bytes each in a generator, and 16 in the learner."""
    model = find_model("qwen3-0.6b").architecture
    for count in (1, 8):
        config, needed = config_for("qwen3-0.6b", generator={"count": count}), (16 + 2 * count) * 596_049_920
        assert shortfall(config, model, Machine(64 * GIB, (needed,))) is None
        assert shortfall(config, model, Machine(64 * GIB, (needed - 1,))) is not None


def test_weights_of_four_bits_are_not_refused_for_what_float32_would_take() -> None:
    model = find_model("qwen3-8b").architecture
    machine = Machine(64 * GIB, (24 * GIB, 24 * GIB))
    assert shortfall(config_for({"name": "qwen3-8b", "lora": {"rank": 16}}), model, machine) is not None
    quantized = config_for({"name": "qwen3-8b", "lora": {"rank": 16, "quantize": True}})
    assert shortfall(quantized, model, machine) is None
