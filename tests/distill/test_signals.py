"""How exact each signal's expected gradient is, against the divergence over the whole vocabulary.

One place, whose student has logits z and distribution q, and whose teacher has p. A signal's gradient is taken through
the learner's own losses, from the rows that the signal makes, and the expectation over the student's samples is a sum
over the vocabulary, not an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rlvr.distill.signals import Signal, SignalError, SignalKind, first_trained
from rlvr.learn.advantage import group_mean
from rlvr.learn.algorithms import Aggregation, Algorithm, Anchor
from rlvr.learn.divergence import divergences
from rlvr.learn.kernels import ImportanceSampling
from rlvr.learn.loss import policy_loss
from rlvr.learn.streams import kl_tokens, rl_tokens
from rlvr.types import Divergence, RLStream, Row, TokenScores

CPU = torch.device("cpu")
REINFORCE = Algorithm(group_mean, ImportanceSampling(), Aggregation.TOKEN_MEAN, anchor=Anchor.ROLLOUT)
PAIRS = 40
VOCABULARY = 2048


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def pairs(count: int = PAIRS, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    """Log-probabilities of teachers and logits of students, [count, vocabulary]: like each other, with heavy tails."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.arange(1, vocabulary + 1, dtype=torch.float64).log()
    shared = -1.5 * torch.stack([ranks[torch.randperm(vocabulary, generator=generator)] for _ in range(count)])
    teacher, student = shared + 0.7 * torch.randn(2, count, vocabulary, generator=generator, dtype=torch.float64)
    return teacher.log_softmax(-1), student.requires_grad_()


def row_of(token: int, sampler_logprob: float, advantage: float = 0.0) -> Row:
    return Row(0, [0, token], [False, True], RLStream([0.0, advantage], [0.0, sampler_logprob], [0, 0]))


def expected_sampled_gradient(signal: Signal, log_p: Tensor, logits: Tensor, advantages: Tensor) -> Tensor:
    """Of one pair [V]: each token's loss, weighted by how often the student samples it."""
    log_q = logits.log_softmax(-1)
    rows = []
    for token, (teacher, student, advantage) in enumerate(
        zip(log_p.tolist(), log_q.tolist(), advantages.tolist(), strict=True)
    ):
        scores = TokenScores(np.array([teacher]), np.empty((1, 0), np.int32), np.empty((1, 0), np.float32), 0)
        rows.append(signal.taught(row_of(token, student, advantage), scores))
    tokens = rl_tokens(rows, REINFORCE, CPU, dtype=torch.float64)
    often = replace(tokens, scale=log_q.detach().exp())
    loss = policy_loss(REINFORCE, log_q, torch.zeros_like(log_q), often).loss
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


def dense_gradients(signal: Signal, log_p: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of all pairs: the gradients [N, V], and the divergences' values [N]."""
    chooser = logits.detach() if signal.asks_student else log_p
    ids = chooser.topk(signal.k).indices
    rows = [
        signal.taught(
            row_of(0, 0.0),
            TokenScores(np.zeros(1), of_pair.numpy()[None].astype(np.int32), log_p[n, of_pair].numpy()[None], 0),
        )
        for n, of_pair in enumerate(ids)
    ]
    tokens = kl_tokens(rows, CPU, torch.float64).tokens
    values = divergences(logits.log_softmax(-1).gather(1, tokens.ids), tokens)
    (gradients,) = torch.autograd.grad(values.sum(), logits)
    return gradients, values.detach()


def exact_gradients(divergence: Callable[[Tensor, Tensor], Tensor], log_p: Tensor, logits: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(divergence(log_p, logits.log_softmax(-1)).sum(), logits)
    return gradient


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def test_the_sampled_signals_expected_gradient_is_that_of_the_reverse_kl() -> None:
    log_p, logits = pairs(4, 256)
    exact = exact_gradients(reverse_kl, log_p, logits)
    signal = Signal(SignalKind.SAMPLED, clip=100.0)
    for teacher, student, expected in zip(log_p, logits, exact, strict=True):
        one = student.detach().requires_grad_()
        ours = expected_sampled_gradient(signal, teacher, one, torch.zeros(256))
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-9)  # advantages are in float32


def test_the_verifiers_advantage_counts_beside_it() -> None:
    """The gradient of `KL(q || p) - reward * E_q[A]`, the policy gradient theorem's second part by autograd."""
    log_p, logits = pairs(1, 256)
    advantages = torch.linspace(-1, 1, 256, dtype=torch.float64)
    one = logits[0].detach().requires_grad_()
    ours = expected_sampled_gradient(Signal(SignalKind.SAMPLED, clip=100.0, reward=0.3), log_p[0], one, advantages)
    log_q = one.log_softmax(-1)
    (expected,) = torch.autograd.grad(reverse_kl(log_p[0], log_q) - 0.3 * (log_q.exp() * advantages).sum(), one)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-9)


def test_the_clip_bounds_what_one_token_can_do() -> None:
    scores = TokenScores(np.array([-30.0]), np.empty((1, 0), np.int32), np.empty((1, 0), np.float32), 0)
    row = Signal(SignalKind.SAMPLED, clip=5.0).taught(row_of(1, -1.0), scores)
    assert row.rl is not None and row.rl.advantages == [0.0, -5.0]


# The exact divergence, and the least mean cosine with its gradient. 1 is exact; the others are what was measured on
# these pairs (docs/distillation.md), rounded down.
DENSE = {
    "student's ids, reverse": (SignalKind.STUDENT_TOPK, Divergence.reverse_kl(), reverse_kl, 0.985),
    "teacher's ids, forward": (SignalKind.TEACHER_TOPK, Divergence.forward_kl(), forward_kl, 0.995),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_signals_are_near_their_divergence(name: str) -> None:
    kind, divergence, exact, least = DENSE[name]
    log_p, logits = pairs()
    gradients, values = dense_gradients(Signal(kind, 32, divergence), log_p, logits)
    agreement = cosines(gradients, exact_gradients(exact, log_p, logits))
    whole = exact(log_p, logits.log_softmax(-1)).detach()
    print(f"{name}: mean cosine {agreement.mean():.4f}, least {agreement.min():.4f}")
    assert agreement.mean() >= least
    assert (values >= 0).all() and (values <= whole + 1e-9).all(), "the tail makes a lower bound, never below 0"


@pytest.mark.parametrize("name", DENSE)
def test_dense_signals_with_the_whole_vocabulary_are_exact(name: str) -> None:
    kind, divergence, exact, _ = DENSE[name]
    log_p, logits = pairs(8, 64)
    gradients, values = dense_gradients(Signal(kind, 64, divergence), log_p, logits)
    assert cosines(gradients, exact_gradients(exact, log_p, logits)).min() >= 0.999
    torch.testing.assert_close(values, exact(log_p, logits.log_softmax(-1)).detach(), rtol=1e-3, atol=1e-5)


def test_a_teacher_that_is_the_student_teaches_nothing() -> None:
    _, logits = pairs(4, 256)
    same = logits.detach().log_softmax(-1)
    for kind in (SignalKind.STUDENT_TOPK, SignalKind.TEACHER_TOPK):
        for divergence in (Divergence.reverse_kl(), Divergence.forward_kl(), Divergence.jensen_shannon(0.5)):
            gradients, values = dense_gradients(Signal(kind, 16, divergence), same, logits)
            assert gradients.abs().max() < 1e-12 and values.abs().max() < 1e-12
    one = logits[0].detach().requires_grad_()
    gradient = expected_sampled_gradient(Signal(SignalKind.SAMPLED), same[0], one, torch.zeros(256))
    assert gradient.abs().max() < 1e-12


def test_a_signal_is_of_the_trained_tokens_alone() -> None:
    """A row of two turns: what the policy read between them is neither asked about nor trained."""
    trained = [False, False, True, False, True]
    row = Row(0, [9, 8, 7, 6, 5], trained, RLStream([0, 0, 2.0, 0, 2.0], [0, 0, -1.0, 0, -1.0], [0] * 5))
    request = Signal(SignalKind.TEACHER_TOPK, k=2).question(row, temperature=0.5)
    assert (request.first, request.places, request.top_k, request.temperature) == (first_trained(row), 3, 2, 0.5)
    ids, logprobs = np.array([[1, 2], [3, 4], [5, 6]], np.int32), np.log(np.full((3, 2), 0.25, np.float32))
    scores = TokenScores(np.array([-2.0, -9.0, -0.5], np.float32), ids, logprobs, 0)
    sampled = Signal(SignalKind.SAMPLED, reward=0.5).taught(row, scores)
    assert sampled.rl is not None and sampled.rl.advantages == [0.0, 0.0, 0.0, 0.0, 1.5]
    dense = Signal(SignalKind.TEACHER_TOPK, k=2).taught(row, scores)
    assert dense.kl is not None and dense.kl.weights == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert dense.kl.ids.tolist() == [[-1, -1], [-1, -1], [1, 2], [3, 4], [5, 6]]
    assert dense.rl is not None and dense.rl.advantages == [0.0] * 5


def test_what_makes_no_signal_is_refused() -> None:
    for arguments in ({"k": 0}, {"clip": 0.0}, {"reward": -1.0}):
        with pytest.raises(SignalError):
            Signal(**arguments)  # type: ignore[arg-type]
    no_rl = Row(0, [1, 2], [False, True])
    with pytest.raises(SignalError, match="no rl stream"):
        Signal(SignalKind.SAMPLED).taught(no_rl, TokenScores(np.zeros(1), np.empty((1, 0)), np.empty((1, 0)), 0))
