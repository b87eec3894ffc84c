"""What a stage costs: bounds from its settings, an estimate for a kind of GPU, and the GPUs that it holds."""

from __future__ import annotations

from rlvr.architecture.catalog import ModelNotFound, find_model
from rlvr.architecture.facts import Architecture, UnknownArchitecture
from rlvr.config import Config
from rlvr.distill.pipeline.models import began_with
from rlvr.distill.pipeline.place import Place
from rlvr.distill.pipeline.verbs import VERBS
from rlvr.plan.accelerators import Accelerator
from rlvr.plan.estimate import configured_split, estimate
from rlvr.plan.workload import workload
from rlvr.readable import number
from rlvr.supervised.run import answers_held_out


def bounds(place: Place, name: str) -> str:
    """What the settings say of a stage's size, at most; empty for one that has none."""
    stage = place.recipe.stages[name]
    if not VERBS[stage.verb].has_settings:
        return ""
    config, *peers = place.configs(name)
    steps = f"{config.steps:,} steps"
    answers = config.rollout.groups_per_step * config.rollout.group_size
    tokens = config.sampling.max_new_tokens
    asked = f"at most {config.data.limit:,} tasks" if config.data.limit else "each task"
    match stage.verb:
        case "sft" | "distill sft" | "distill logits":
            size = f"{config.sft.rows_per_step:,} examples"
            return (
                f"{config.sft.epochs:g} passes over the data, {size} a step"
                if config.sft.epochs
                else f"{steps} of {size}"
            )
        case "codistill":
            return f"{1 + len(peers)} policies, each of {steps} of {answers:,} answers of at most {tokens:,} tokens"
        case "distill sample":
            n = stage.options.get("n", 8)
            return f"{n} answers to {asked}, each of at most {tokens:,} tokens"
        case "distill capture":
            return "a teacher reads each token of the rows once"
        case "eval":
            samples = config.evaluation.samples
            return f"{samples} answer{'s' * (samples > 1)} to {asked}, each of at most {tokens:,} tokens"
        case _:
            trained = config.steps * answers
            size = f"{steps}, {trained:,} trained answers, at most {trained * tokens:,} tokens of them"
            if stage.verb == "distill opd":
                return f"{size}, each read by a teacher"
            refill = config.rollout.max_refill if config.rollout.drop_zero_variance else 1
            return size if refill == 1 else f"{size}; at most {refill:g} times as many are sampled"


def gpu_hours(place: Place, name: str, gpu: Accelerator) -> str:
    """GPU-hours of a stage of reinforcement learning or on-policy distillation, as `rlvr plan` estimates its steps.

    Start, evaluations, groups that are sampled again and teachers are left out. Empty where nothing can be said: for
    other verbs, and for a model whose facts are not here.
    """
    architecture = _architecture(place, name)
    if architecture is None or place.recipe.stages[name].verb not in ("train", "distill opd"):
        return ""
    config = place.config(name)
    gpus = _wanted(config)
    made = estimate(config, architecture, gpu, configured_split(config, gpus), workload(config))
    if not made.fits:
        return f"does not fit {gpus} {gpu.name}: {made.problems[0]}"
    return f"about {number(config.steps * made.step_s * gpus / 3600)} GPU-hours on {gpus} {gpu.name}"


def gpus_held(place: Place, name: str) -> int:
    """GPUs that a stage holds while it runs, 0 on a processor. A served teacher's are its server's."""
    verb = place.recipe.stages[name].verb
    if not VERBS[verb].has_settings:
        return 0
    import torch

    if VERBS[verb].has_peers:
        return sum(_wanted(config) for config in place.configs(name)) if torch.cuda.is_available() else 0
    config = place.config(name)
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if verb in ("distill sample", "distill capture"):  # in their own process
        return min(1, here)
    if verb in ("sft", "distill sft", "distill logits") and not answers_held_out(config):  # a learner alone
        return min(config.learner.ranks, here)
    return configured_split(config, here).used if config.cluster.address == "local" else _wanted(config)


def _wanted(config: Config) -> int:
    """GPUs of a run's roles, each with its own."""
    return config.learner.ranks + config.generator.count * config.generator.tensor_parallel


def _architecture(place: Place, name: str) -> Architecture | None:
    """Of the model that a stage's policy goes back to; None where its facts are not here."""
    model = began_with(place, f"${{{name}}}")
    try:
        return None if model is None else find_model(model, ask_hub=False).architecture
    except (ModelNotFound, UnknownArchitecture):
        return None
