"""Rows with streams: each loss against autograd on full logits, each normalised by itself over the whole step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlvr.config import Config
from rlvr.learn.divergence import divergences
from rlvr.learn.learner import Learner
from rlvr.learn.packing import Layout
from rlvr.learn.streams import LEAST_LOGPROB, KLTokens
from rlvr.types import Divergence, KLStream, LossWeights, RLStream, Row

from .conftest import VOCABULARY, make_rows

MakeConfig = Callable[..., Config]
N, V, K = 6, 9, 4


def kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(a || b) of probabilities, over the last dimension."""
    return (a * (a.log() - b.log())).sum(-1)


def jensen_shannon(p: Tensor, q: Tensor, beta: float) -> Tensor:
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


# Each as its paper prints it, of the teacher's p and the student's q.
DIVERGENCES: dict[str, tuple[Divergence, Callable[[Tensor, Tensor], Tensor]]] = {
    "forward": (Divergence.forward_kl(), kl),
    "reverse": (Divergence.reverse_kl(), lambda p, q: kl(q, p)),
    "jensen_shannon": (Divergence.jensen_shannon(0.3), lambda p, q: jensen_shannon(p, q, 0.3)),
    "beta 0": (Divergence.jensen_shannon(0.0), kl),
    "beta 1": (Divergence.jensen_shannon(1.0), lambda p, q: kl(q, p)),
    "skewed_forward": (Divergence.skewed_forward_kl(0.1), lambda p, q: kl(p, 0.1 * p + 0.9 * q)),
    "skewed_reverse": (Divergence.skewed_reverse_kl(0.1), lambda p, q: kl(q, 0.9 * p + 0.1 * q)),
    "both": (Divergence(0.4, 0.6), lambda p, q: 0.4 * kl(p, q) + 0.6 * kl(q, p)),
}


def distributions() -> tuple[Tensor, Tensor]:
    """Logits of a teacher and of a student, which are parameters, [N, V]."""
    generator = torch.Generator().manual_seed(5)
    teacher, student = 2 * torch.randn(2, N, V, generator=generator, dtype=torch.float64)
    return teacher, student.requires_grad_()


def asked(teacher: Tensor, ids: Tensor, divergence: Divergence) -> KLTokens:
    logprobs = teacher.log_softmax(-1).gather(1, ids)
    factors = torch.tensor(astuple(divergence), dtype=torch.float64).expand(N, 4)
    return KLTokens(ids, logprobs, torch.ones_like(ids, dtype=torch.bool), torch.ones(N), factors, N)


def merged(probabilities: Tensor, ids: Tensor) -> Tensor:
    """The ids' probabilities and the rest's, [N, K + 1]."""
    kept = probabilities.gather(1, ids)
    return torch.cat([kept, 1 - kept.sum(1, keepdim=True)], dim=1)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_with_its_tail_is_that_of_merged_outcomes(name: str) -> None:
    divergence, formula = DIVERGENCES[name]
    teacher, student = distributions()
    ids = teacher.topk(K).indices
    ours = divergences(student.log_softmax(-1).gather(1, ids), asked(teacher, ids, divergence))
    p, q = teacher.softmax(-1), student.softmax(-1)
    theirs = formula(merged(p, ids), merged(q, ids))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(ours.sum(), student)
    (expected,) = torch.autograd.grad(theirs.sum(), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    assert (ours >= 0).all() and (ours <= formula(p, q) + 1e-12).all(), "a lower bound of the whole vocabulary's"


@pytest.mark.parametrize("name", DIVERGENCES)
def test_with_all_ids_it_is_the_whole_vocabularys(name: str) -> None:
    divergence, formula = DIVERGENCES[name]
    teacher, student = distributions()
    ids = torch.arange(V).expand(N, V)
    ours = divergences(student.log_softmax(-1).gather(1, ids), asked(teacher, ids, divergence))
    torch.testing.assert_close(ours, formula(teacher.softmax(-1), student.softmax(-1)), rtol=1e-5, atol=1e-6)


def test_an_unknown_id_is_part_of_the_tail() -> None:
    teacher, student = distributions()
    ids = teacher.topk(K).indices
    fewer = asked(teacher, ids[:, :2], Divergence.reverse_kl())
    padded = asked(teacher, ids, Divergence.reverse_kl())
    known = torch.arange(K).expand(N, K) < 2
    padded = replace(padded, known=known, logprobs=padded.logprobs.masked_fill(~known, LEAST_LOGPROB))
    at = student.log_softmax(-1).gather(1, ids)
    torch.testing.assert_close(divergences(at, padded), divergences(at[:, :2], fewer))


def test_what_the_teacher_excludes_gives_a_finite_loss() -> None:
    teacher, student = distributions()
    ids = teacher.topk(K).indices
    tokens = asked(teacher, ids, Divergence.reverse_kl())
    tokens.logprobs[:, -1] = LEAST_LOGPROB
    loss = divergences(student.log_softmax(-1).gather(1, ids), tokens).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("factors", [(0.0, 0.0, 0.0, 1.0), (1.2, 0.0, 0.0, 1.0), (1.0, 0.0, -0.1, 1.0)])
def test_impossible_divergences_are_refused(factors: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"factors are in \[0, 1\]"):
        Divergence(*factors)


def test_arrays_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"arrays \[tokens, K\].*weights \(3\); got ids \(2, 4\)"):
        KLStream(np.zeros((2, 4), np.int32), np.zeros((2, 4), np.float32), [1.0] * 3, Divergence.forward_kl())


# ---------------------------------------------------------------------- in the learner


def teacher_stream(row: Row, width: int, divergence: Divergence, seed: int) -> KLStream:
    """A random teacher's likeliest ids; every other token of the answer is asked about."""
    source = np.random.default_rng(seed)
    logits = torch.from_numpy(source.normal(size=(len(row), VOCABULARY)))
    top = logits.log_softmax(-1).topk(width)
    weights = [0.5 + i % 3 if t and i % 2 else 0.0 for i, t in enumerate(row.trained)]
    return KLStream(top.indices.int().numpy(), top.values.float().numpy(), weights, divergence)


def mixed_rows() -> list[Row]:
    """Rows of one, two and three streams, with teachers of different K and divergence."""
    rows = make_rows(groups=3, size=4)
    for number, row in enumerate(rows):
        if number % 3 == 0:
            row.ce = [0.25 * (1 + i % 4) if t and i % 3 else 0.0 for i, t in enumerate(row.trained)]
        if number % 4 < 2:
            divergence = Divergence.forward_kl() if number % 4 else Divergence.jensen_shannon(0.3)
            row.kl = teacher_stream(row, 3 + number % 3, divergence, number)
        if row.ce or row.kl:
            row.rl = row.rl if number % 2 else None
    return rows


def explicit_loss(network: Any, rows: list[Row], weights: LossWeights) -> Tensor:
    """The sum of the three losses from full logits, each row alone; `rl` is plain REINFORCE, a mean over its tokens."""
    rl, ce, kls = [], [], []
    for row in rows:
        logprobs = network(input_ids=torch.tensor([row.token_ids]), use_cache=False).logits[0].log_softmax(-1)
        for t, trained in enumerate(row.trained):
            if not trained:
                continue
            own = logprobs[t - 1, row.token_ids[t]]
            if row.rl is not None:
                rl.append(-row.rl.advantages[t] * own)
            if row.ce is not None and row.ce[t]:
                ce.append(-row.ce[t] * own)
            if row.kl is not None and row.kl.weights[t]:
                ids = torch.from_numpy(row.kl.ids[t]).long()[None]
                kept = torch.from_numpy(row.kl.logprobs[t]).exp()[None]
                p = torch.cat([kept, 1 - kept.sum(1, keepdim=True)], dim=1)
                q = merged(logprobs[t - 1].exp()[None], ids)
                formula = kl if row.kl.divergence == Divergence.forward_kl() else lambda p, q: jensen_shannon(p, q, 0.3)
                kls.append(row.kl.weights[t] * formula(p, q)[0])
    means = [torch.stack(part).mean() if part else torch.zeros(()) for part in (rl, ce, kls)]
    return weights.rl * means[0] + weights.ce * means[1] + weights.kl * means[2]


def learner_of(config: Config) -> Learner:
    learner = Learner(config)
    learner.start()
    return learner


def reinforce(config: MakeConfig, **learner: Any) -> Learner:
    return learner_of(config("llama", algorithm={"preset": "opo", "aggregation": "token_mean"}, learner=learner))


def gradient_of_step(learner: Learner, rows: list[Row], weights: LossWeights) -> tuple[float, Tensor]:
    """The loss of a step, and its gradient as the parameters have it before the update."""
    seen = []
    learner.optimizer.parts[0].register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten() for p in learner.parameters.values() if p.grad is not None]))
    )
    report = learner.train(rows, weights)
    (gradient,) = seen
    return report.loss, gradient


@pytest.mark.parametrize(
    "weights",
    [LossWeights(), LossWeights(rl=0.5, ce=2.0, kl=3.0), LossWeights(rl=0, ce=1, kl=0), LossWeights(rl=0, ce=0, kl=1)],
    ids=["sum", "weighted", "ce", "kl"],
)
def test_a_step_trains_the_weighted_sum_of_three_means(config: MakeConfig, weights: LossWeights) -> None:
    learner = reinforce(config, max_grad_norm=1e9)
    network = AutoModelForCausalLM.from_pretrained(learner.config.model.name).eval()
    rows = mixed_rows()
    expected = explicit_loss(network, rows, weights)
    names = list(learner.parameters)
    parameters = dict(network.named_parameters())
    theirs = torch.autograd.grad(expected, [parameters[name] for name in names])
    loss, ours = gradient_of_step(learner, rows, weights)
    assert loss == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    wanted = torch.cat([gradient.flatten() for gradient in theirs])
    assert (ours - wanted).norm() <= 1e-5 * wanted.norm()


def test_the_streams_loss_does_not_depend_on_the_cut(config: MakeConfig) -> None:
    """In float64, because attention over spans and torch's own round differently."""
    results = []
    for layout in Layout:
        for budget in (128, 4096):
            learner = reinforce(config, max_grad_norm=1e9, token_budget=budget, layout=layout.value)
            learner.model.network.double()
            results.append(gradient_of_step(learner, mixed_rows(), LossWeights(ce=2.0)))
    loss, gradient = results[0]
    for other_loss, other in results[1:]:
        assert other_loss == pytest.approx(loss, rel=1e-6, abs=1e-6)
        assert (other - gradient).norm() <= 1e-6 * gradient.norm() + 1e-7


def test_rows_without_a_sampler_are_trained_and_reported(config: MakeConfig) -> None:
    learner = reinforce(config)
    rows = [replace(row, rl=None, ce=[float(t) for t in row.trained]) for row in make_rows()]
    before = learner.logprobs(rows)
    trained = [
        lp for of_row, row in zip(before, rows, strict=True) for lp, t in zip(of_row, row.trained, strict=True) if t
    ]
    report = learner.train(rows)
    assert report.cross_entropy == pytest.approx(-sum(trained) / len(trained), rel=1e-5)
    assert report.loss == pytest.approx(report.cross_entropy)
    assert (report.trained_tokens, report.divergence, report.token_fates) == (len(trained), None, {})
    assert report.metrics()["learner/cross_entropy"] == report.cross_entropy
    assert all(math.isfinite(value) for value in report.metrics().values())
    for _ in range(5):
        report = learner.train(rows)
    assert report.cross_entropy is not None
    assert report.cross_entropy < 0.9 * -sum(trained) / len(trained)


def test_the_reports_means_are_over_the_tokens_of_each_stream(config: MakeConfig) -> None:
    learner = reinforce(config, updates_per_step=2, learning_rate=1e-12)  # both updates see one policy
    rows = mixed_rows()
    network = AutoModelForCausalLM.from_pretrained(learner.config.model.name).eval()
    report = learner.train(rows)
    assert report.cross_entropy == pytest.approx(explicit_loss(network, rows, LossWeights(0, 1, 0)).item(), rel=1e-5)
    assert report.divergence == pytest.approx(explicit_loss(network, rows, LossWeights(0, 0, 1)).item(), rel=1e-5)
    assert set(report.token_fates) == {(row.group_id, row.trajectory) for row in rows if row.rl is not None}


def test_a_teacher_that_is_the_student_teaches_nothing(config: MakeConfig) -> None:
    learner = reinforce(config)
    rows = [replace(row, rl=None) for row in make_rows()]
    network = AutoModelForCausalLM.from_pretrained(learner.config.model.name).eval()
    for row in rows:
        with torch.no_grad():
            logprobs = network(input_ids=torch.tensor([row.token_ids]), use_cache=False).logits[0].log_softmax(-1)
        # In the place of token t the teacher has read the tokens before it.
        top = logprobs.roll(1, dims=0).topk(5)
        weights = [float(t) for t in row.trained]
        row.kl = KLStream(top.indices.numpy(), top.values.numpy(), weights, Divergence.reverse_kl())
    report = learner.train(rows)
    assert report.divergence == pytest.approx(0, abs=1e-6)
    assert report.grad_norm == pytest.approx(0, abs=1e-4)


def test_on_policy_distillation_is_an_advantage(config: MakeConfig) -> None:
    """Its gradient in expectation is that of the reverse KL: here over all next tokens of one place, exactly."""
    learner = reinforce(config, max_grad_norm=1e9)
    network = AutoModelForCausalLM.from_pretrained(learner.config.model.name).eval()
    prompt = [5, 9, 33]
    teacher = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    student = network(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].log_softmax(-1)
    parameters = dict(network.named_parameters())
    reverse_kl = (student.exp() * (student - teacher)).sum()
    theirs = torch.autograd.grad(reverse_kl, [parameters[name] for name in learner.parameters], retain_graph=True)
    own = student.detach()
    # Every token once; its probability is in the advantage, as often as it would be sampled.
    rows = []
    for token in range(VOCABULARY):
        advantage = float(own[token].exp() * (teacher[token] - own[token]) * VOCABULARY)
        stream = RLStream([0.0] * 3 + [advantage], [0.0] * 3 + [float(own[token])], [0] * 4)
        rows.append(Row(0, [*prompt, token], [False] * 3 + [True], rl=stream, trajectory=token))
    _, ours = gradient_of_step(learner, rows, LossWeights())
    wanted = torch.cat([gradient.flatten() for gradient in theirs])
    assert (ours - wanted).norm() <= 1e-4 * wanted.norm()
