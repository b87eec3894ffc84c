"""A run folder as a real run leaves it, made in a second without a model: for tests of what reads one."""

from __future__ import annotations

import hashlib
import math
import random
from itertools import islice
from pathlib import Path

from rlvr.config import Config
from rlvr.config_loading import to_yaml
from rlvr.demo.problems import Problem, Split, oracle_trace, problems, weak_trace
from rlvr.events import EventKind, append_event
from rlvr.learn.advantage import group_mean
from rlvr.metrics import MetricLog
from rlvr.rollout.ledger import Fate, Ledger
from rlvr.rollout_log import write_evaluation, write_rollouts
from rlvr.run_folder import RunFolder
from rlvr.types import FinishReason, Group, Outcome, Score, Task, Trajectory

GROUP_SIZE = 8
GROUPS_PER_STEP = 4
MAX_STALENESS = 2
IN_FLIGHT = MAX_STALENESS * GROUPS_PER_STEP * GROUP_SIZE


def make_run(path: Path, *, steps: int = 60, of_steps: int = 60, evaluate_every: int = 20) -> RunFolder:
    """A policy that learns along a logistic curve. `evaluate_every=0` leaves evaluation out."""
    rng = random.Random(0)
    folder = RunFolder(path)
    folder.path.mkdir(parents=True)
    folder.config.write_text(to_yaml(fake_config(of_steps)), encoding="utf-8")
    ledger, next_id = Ledger(), 0
    with MetricLog(folder) as log:
        for step in range(steps + 1):
            skill = 0.25 + 0.72 / (1 + math.exp(-(step - 25) / 7))
            if evaluate_every and (step % evaluate_every == 0 or step == of_steps):
                held_out = [fake_group(i, p, skill, step, rng, 1) for i, p in enumerate(_some(Split.HELD_OUT, 0, 24))]
                write_evaluation(folder, step, held_out)
                log.log(step, _evaluation_metrics(held_out, step))
            if step == 0:
                continue
            groups = [
                fake_group(next_id + i, problem, skill, step, rng)
                for i, problem in enumerate(_some(Split.TRAIN, step, GROUPS_PER_STEP))
            ]
            next_id += len(groups)
            trained, filtered = _sort_out(groups, ledger)
            write_rollouts(folder, step, trained, filtered, group_mean(trained))
            log.log(step, _step_metrics(groups, step, rng) | ledger.metrics(IN_FLIGHT))
    append_event(folder, 17, EventKind.WARNING, "update skipped: gradient norm was inf")
    return folder


def fake_config(steps: int) -> Config:
    return Config.model_validate(
        {
            "model": "models/word-problems-0.4M",
            "data": {"path": "data/word-problems.jsonl", "prompt": "question"},
            "reward": "math_answer",
            "rollout": {
                "group_size": GROUP_SIZE,
                "groups_per_step": GROUPS_PER_STEP,
                "max_staleness": MAX_STALENESS,
            },
            "steps": steps,
        }
    )


def fake_group(
    group_id: int, problem: Problem, skill: float, version: int, rng: random.Random, size: int = GROUP_SIZE
) -> Group:
    """Answers to one problem; each is right with probability `skill`."""
    prompt_ids = tuple(problem.prompt.encode())
    task = Task(
        id=hashlib.sha256(problem.prompt.encode()).hexdigest()[:12],
        prompt=({"role": "user", "content": problem.prompt},),
        prompt_ids=prompt_ids,
        target=str(problem.answer),
        columns={"question": problem.prompt, "answer": str(problem.answer)},
    )
    answers = [oracle_trace(problem) if rng.random() < skill else weak_trace(problem, rng) for _ in range(size)]
    return Group(group_id, task, [fake_trajectory(task, answer, version, rng) for answer in answers])


def fake_trajectory(task: Task, answer: str, version: int, rng: random.Random) -> Trajectory:
    """Bytes as tokens, sampled by the last versions before `version`, scored by what stands in the box."""
    token_ids = list(answer.encode())
    truncated = rng.random() < 0.03
    oldest = max(0, version - 1 - rng.randint(0, MAX_STALENESS))
    switch = rng.randrange(len(token_ids))
    return Trajectory(
        prompt_ids=task.prompt_ids,
        token_ids=token_ids,
        sampled=[True] * len(token_ids),
        logprobs=[-rng.random() for _ in token_ids],
        versions=[oldest if i < switch else max(oldest, version - 1) for i in range(len(token_ids))],
        finish=FinishReason.LENGTH if truncated else FinishReason.STOP,
        text=answer,
        score=_score(answer, task.target, truncated, rng),
        generate_s=0.4 + rng.random(),
        score_s=0.01 * rng.random(),
    )


def _score(answer: str, target: str, truncated: bool, rng: random.Random) -> Score:
    if rng.random() < 0.01:
        return Score(None, Outcome.TIMEOUT, detail="math_answer: no answer in 10 s")
    said = answer.rpartition("\\boxed{")[2].removesuffix("}")
    right = float(not truncated and said == target)
    detail = f"said {said!r}, target {target!r}" + (", truncated" if truncated else "")
    return Score(right, parts={"math_answer": right, "format": float(not truncated)}, detail=detail)


def _sort_out(groups: list[Group], ledger: Ledger) -> tuple[list[Group], list[tuple[Group, Fate]]]:
    trained = [group for group in groups if len(set(group.values())) > 1]
    filtered = [(group, Fate.ZERO_VARIANCE) for group in groups if group not in trained]
    for group, fate in [*((group, Fate.TRAINED) for group in trained), *filtered]:
        for trajectory in group.trajectories:
            assert trajectory.score is not None
            outcome = trajectory.score.outcome
            ledger.settle(fate if outcome is Outcome.SCORED else Fate(outcome.value))
    ledger.issued = sum(ledger.fates.values()) + IN_FLIGHT
    return trained, filtered


def _step_metrics(groups: list[Group], step: int, rng: random.Random) -> dict[str, float]:
    values = [value for group in groups for value in group.values()]
    lengths = [len(t.token_ids) for group in groups for t in group.trajectories]
    reward = sum(values) / len(values)
    waiting, learning, busy = 0.15 + 0.1 * rng.random(), 0.6 + 0.2 * rng.random(), 0.85 + 0.1 * rng.random()
    return {
        "reward/mean": reward,
        "reward/std": math.sqrt(reward * (1 - reward)),
        "reward/part/math_answer": reward,
        "reward/part/format": 0.97 + 0.02 * rng.random(),
        "answer/mean_tokens": sum(lengths) / len(lengths),
        "answer/truncated_share": 0.02 + 0.02 * rng.random(),
        "staleness/mean": min(step - 1, 1.2 + 0.2 * rng.random()),
        "staleness/max": float(min(step - 1, MAX_STALENESS)),
        "staleness/length_ratio": 1 + 0.05 * (rng.random() - 0.5),
        "learner/loss": 0.02 * (rng.random() - 0.5),
        "learner/grad_norm": 0.3 + 0.4 * rng.random() if step != 17 else math.inf,
        "learner/entropy": 0.2 + 0.6 * math.exp(-step / 30) + 0.02 * rng.random(),
        "learner/learning_rate": 6e-4 * min(1.0, step / 5),
        "learner/mismatch_kl": 3e-4 * (1 + rng.random()),
        "learner/effective_sample_size": 0.93 + 0.05 * rng.random(),
        "learner/masked_share": 0.01 * rng.random(),
        "throughput/sampled_tokens_per_s": 5200 + 400 * rng.random(),
        "throughput/trained_tokens_per_s": 4600 + 400 * rng.random(),
        "throughput/answers_per_s": 120 + 10 * rng.random(),
        "time/step_s": 0.1 + waiting + learning,
        "time/wait_rollouts_s": waiting,
        "time/make_rows_s": 0.005,
        "time/learn_s": learning,
        "time/publish_s": 0.04,
        "time/record_s": 0.03,
        "time/checkpoint_s": 0.02,
        "time/generator_busy_share": busy,
        "time/learner_busy_share": learning / (0.1 + waiting + learning),
        "policy/version": float(step),
    }


def _evaluation_metrics(groups: list[Group], version: int) -> dict[str, float]:
    values = [value for group in groups for value in group.values()]
    trajectories = [t for group in groups for t in group.trajectories]
    return {
        "evaluation/version": float(version),
        "evaluation/tasks": float(len(groups)),
        "evaluation/pass@1": sum(values) / len(values),
        "evaluation/mean_tokens": sum(len(t.token_ids) for t in trajectories) / len(trajectories),
        "evaluation/truncated_share": sum(t.finish is FinishReason.LENGTH for t in trajectories) / len(trajectories),
    }


def _some(split: Split, seed: int, count: int) -> list[Problem]:
    return list(islice(problems(split, seed), count))
