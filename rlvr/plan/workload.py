"""What a config asks of the machines: lengths, how many answers at once, and the form of a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.architecture.cost import window_of
from rlvr.architecture.facts import Architecture, LatentAttention
from rlvr.config import FASTEST_GRID_ON_CPU, Config, DType
from rlvr.plan.activations import Pass


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths in tokens. `prompt` and `answer` are means, `longest` is the most that a sequence may have."""

    prompt: int
    answer: int
    longest: int
    group_size: int
    groups_per_step: int
    answers_in_flight: int

    @property
    def sequence(self) -> int:
        return self.prompt + self.answer

    @property
    def sampled_per_step(self) -> int:
        """Tokens that the policy writes for one optimizer step, when no group is filtered."""
        return self.groups_per_step * self.group_size * self.answer


def workload(config: Config, prompt: int | None = None, answer: int | None = None) -> Workload:
    """Mean lengths that are not given are half of what the config allows."""
    most_prompt, most_answer = config.data.max_prompt_tokens, config.sampling.max_new_tokens
    rollout = config.rollout
    return Workload(
        prompt=min(prompt or most_prompt // 2 or 1, most_prompt),
        answer=min(answer or most_answer // 2 or 1, most_answer),
        longest=most_prompt + most_answer,
        group_size=rollout.group_size,
        groups_per_step=rollout.groups_per_step,
        answers_in_flight=(rollout.max_staleness + 1) * rollout.groups_per_step * rollout.group_size,
    )


def learner_element(config: Config, *, gpu: bool) -> int:
    """Bytes of a number in the learner's layers."""
    return 4 if _dtype(config.model.dtype, gpu) is DType.FLOAT32 else 2


def generator_element(config: Config, *, gpu: bool) -> int:
    """Bytes of a number in a generator."""
    return 4 if _dtype(config.generator.dtype or config.model.dtype, gpu) is DType.FLOAT32 else 2


def _dtype(setting: DType | None, gpu: bool) -> DType:
    return setting or (DType.BFLOAT16 if gpu else DType.FLOAT32)


def shares_prompts(config: Config, architecture: Architecture) -> bool:
    """Whether rows of a group keep one copy of their prompt: asked for, or `auto` and every layer sees all before."""
    if config.learner.layout != "auto":
        return config.learner.layout == "shared"
    return _sees_all(architecture)


def _sees_all(architecture: Architecture) -> bool:
    return all(
        window_of(layer.attention) is None
        and not (isinstance(layer.attention, LatentAttention) and layer.attention.selection is not None)
        for layer, _ in architecture.kinds()
    )


def largest_pass(config: Config, architecture: Architecture, *, gpu: bool) -> Pass:
    """The largest micro-batch that the learner may meet.

    A line holds one sequence of the greatest length, or a whole group behind one prompt.
    """
    most_prompt, most_answer = config.data.max_prompt_tokens, config.sampling.max_new_tokens
    budget = config.learner.token_budget
    line = most_prompt + most_answer
    shares = shares_prompts(config, architecture)
    if shares:
        line = max(line, min(budget, most_prompt + config.rollout.group_size * most_answer))
    grid = budget if gpu else min(budget, FASTEST_GRID_ON_CPU)
    return Pass(
        tokens=max(line, grid),
        line=line,
        element=learner_element(config, gpu=gpu),
        spans=shares and _sees_all(architecture),
        fuses_latent=gpu,
        adapter_rank=config.model.lora.rank,
        quantized=config.model.lora.quantize,
    )
