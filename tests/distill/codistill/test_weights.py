"""Each factor of the weights against values worked out by hand from the design's table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlvr.distill.codistill.weights import (
    alpha,
    arithmetic_mean,
    geometric_mean,
    is_ahead,
    mixed,
    overlap,
    overlap_gate,
    rms,
    schedule,
    soft,
    staleness,
    verifier_gate,
)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, 0.0),
        (0.049, 0.0),
        (0.05, 0.0),
        (0.10, 0.25),  # half way up
        (0.15, 0.5),
        (0.75, 0.5),
        (0.75 + 0.25 / 3, 0.375),  # 0.5 (1 + cos 60 degrees) / 2
        (0.875, 0.25),
        (1.0, 0.0),
    ],
)
def test_the_schedule_burns_in_rises_holds_and_falls(progress: float, expected: float) -> None:
    assert schedule(progress, 0.5, burn_in=0.05, ramp=0.10, fade=0.25) == pytest.approx(expected, abs=1e-12)


def test_a_schedule_without_spans_is_constant() -> None:
    assert [schedule(p, 0.3, 0.0, 0.0, 0.0) for p in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]


def test_overlap_is_the_share_of_likeliest_ids_in_common() -> None:
    own = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8]], np.int32)
    peer = np.array([[4, 3, 2, 1], [1, 9, 8, 2], [1, 2, 3, 4]], np.int32)
    assert overlap(own, peer).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("share", "gap", "expected"),
    [
        (0.50, 0.4, 0.0),
        (0.60, 0.4, 0.0),
        (0.70, 0.4, 0.4),
        (0.85, 0.4, 1.0),
        (0.995, 0.4, 1.0),  # alike, and yet one is better
        (0.995, -0.02, 0.0),  # merged
        (0.985, 0.0, 1.0),
    ],
)
def test_the_overlap_gate(share: float, gap: float, expected: float) -> None:
    assert overlap_gate(share, 0.60, 0.85, gap, 0.1) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("own", "peer", "ahead", "expected"),
    [
        (0.5, 0.75, False, 1.0),
        (0.5, 0.60, False, 0.0),  # by delta and no more: not higher
        (0.5, 0.60, True, 1.0),
        (1.0, 1.00, True, 1.0),
        (0.5, 0.25, True, 0.0),  # here it is the worse one
        (0.0, 0.05, False, 1.0),  # what one never solves, and the peer once
        (0.0, 0.00, True, 0.0),  # both wrong throughout
        (0.9, None, True, 1.0),
        (0.0, None, False, 0.0),  # on average alike: nothing says that the peer is right here
    ],
)
def test_the_verifier_gate(own: float, peer: float | None, ahead: bool, expected: float) -> None:
    assert verifier_gate(own, peer, ahead, delta=0.1) == expected


@pytest.mark.parametrize(
    ("own", "peer", "expected"),
    [(0.4, 0.6, True), (0.5, 0.6, False), (0.6, 0.4, False), (None, 1.0, False), (0.0, None, False)],
)
def test_who_is_ahead(own: float | None, peer: float | None, expected: bool) -> None:
    assert is_ahead(own, peer, delta=0.1) is expected


@pytest.mark.parametrize(
    ("age", "expected"), [(0, 1.0), (8, 0.5), (16, 0.25), (4, 0.70710678), (32, 0.0625), (33, 0.0)]
)
def test_what_is_said_fades_with_age(age: float, expected: float) -> None:
    assert staleness(age, half_life=8, highest=32) == pytest.approx(expected)


def test_the_peers_word_is_bounded() -> None:
    peer, own = np.array([-1.0, -0.1, -9.0]), np.array([-2.0, -8.0, -0.5])
    assert soft(peer, own, 5.0).tolist() == pytest.approx([1.0, 5.0, -5.0])


def test_one_peer_is_mixed_with_the_verifier() -> None:
    hard, told = np.array([1.0, -1.0]), np.array([0.5, 2.0])
    assert mixed(hard, [told], [0.4], kappa=1.0).tolist() == pytest.approx([0.6 + 0.2, -0.6 + 0.8])
    assert mixed(hard, [told], [0.4], kappa=2.0).tolist() == pytest.approx([0.6 + 0.4, -0.6 + 1.6])
    assert mixed(hard, [told], [0.0], kappa=1.0) is hard


def test_several_peers_are_each_followed_as_far_as_their_factors_allow() -> None:
    """a = 0.4 and 0.2: alpha 0.3, weights 2/3 and 1/3; a third that is not followed takes no part."""
    hard = np.array([1.0])
    softs = [np.array([3.0]), np.array([-3.0]), np.array([100.0])]
    assert alpha([0.4, 0.2, 0.0]) == pytest.approx(0.3)
    expected = 0.7 * 1.0 + 0.3 * (2 / 3 * 3.0 + 1 / 3 * -3.0)
    assert mixed(hard, softs, [0.4, 0.2, 0.0], kappa=1.0).tolist() == pytest.approx([expected])
    assert alpha([]) == 0.0


def test_the_peers_word_has_the_reverse_kls_gradient() -> None:
    """Over a small vocabulary: E_q[soft grad log q] by enumeration against the derivative of -KL(q || p)."""
    random = np.random.default_rng(0)
    logits, p = random.normal(size=6), random.dirichlet(np.ones(6))

    def q_of(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum()

    def kl(z: np.ndarray) -> float:
        return float((q_of(z) * (np.log(q_of(z)) - np.log(p))).sum())

    q = q_of(logits)
    told = soft(np.log(p), np.log(q), clip=50.0)
    policy_gradient = sum(q[t] * told[t] * (np.eye(6)[t] - q) for t in range(6))
    steps = np.eye(6) * 1e-6
    derivative = [(kl(logits + h) - kl(logits - h)) / 2e-6 for h in steps]
    assert policy_gradient == pytest.approx(-np.array(derivative), abs=1e-7)


def test_rms() -> None:
    assert rms(np.array([3.0, 4.0])) == pytest.approx(math.sqrt(12.5))
    assert rms(np.array([])) == 0.0


def test_the_divergence_from_pooled_peers_is_the_sum_of_theirs_less_a_constant() -> None:
    draw = np.random.default_rng(0)
    peers = np.log(draw.dirichlet(np.ones(6), size=(3, 5)))  # peers, tokens, K + 1 outcomes
    followed = [0.5, 0.2, 0.1]
    p = geometric_mean([of_peer[:, :-1] for of_peer in peers], followed)
    p = np.concatenate([p, np.log(1 - np.exp(p).sum(1, keepdims=True))], axis=1)
    differences = []
    for _ in range(3):
        q = draw.dirichlet(np.ones(6), size=5)
        each = [(q * (np.log(q) - of_peer)).sum(1) for of_peer in peers]
        weighted = sum(a * kl for a, kl in zip(followed, each, strict=True)) / sum(followed)
        differences.append((q * (np.log(q) - p)).sum(1) - weighted)
    assert np.allclose(differences, differences[0], atol=1e-12)


def test_the_forward_divergence_of_pooled_peers_is_the_sum_of_theirs_less_a_constant() -> None:
    """Two peers, which name all ids that they find possible, some of them in common."""
    draw = np.random.default_rng(1)
    ids = np.array([[1, 4, 2]] * 5, np.int32), np.array([[3, 1, 0]] * 5, np.int32)
    followed, whole, logprobs = (0.5, 0.2), [np.zeros((5, 5)), np.zeros((5, 5))], []
    for of_peer, all_of_it in zip(ids, whole, strict=True):
        said = draw.dirichlet(np.ones(3), size=5)
        np.put_along_axis(all_of_it, of_peer.astype(np.int64), said, axis=1)
        logprobs.append(np.log(said))
    pooled_ids, pooled = arithmetic_mean(ids, logprobs, followed)
    assert [sorted(row) for row in pooled_ids.tolist()] == [[-1, 0, 1, 2, 3, 4]] * 5

    def forward(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(q)), 0).sum(1)

    differences = []
    for _ in range(3):
        q = draw.dirichlet(np.ones(5), size=5)
        weighted = sum(a * forward(p, q) for a, p in zip(followed, whole, strict=True)) / sum(followed)
        at = np.take_along_axis(q, np.maximum(pooled_ids, 0), axis=1)
        known = pooled_ids >= 0
        p = np.where(known, np.exp(pooled), 0)
        differences.append(forward(p, np.where(known, at, 1)) - weighted)
    assert np.allclose(differences, differences[0], atol=1e-12)


def test_one_peer_pooled_is_itself() -> None:
    ids, logprobs = np.array([[7, 3], [1, 2]], np.int32), np.log(np.array([[0.5, 0.25], [0.1, 0.2]]))
    assert np.allclose(geometric_mean([logprobs], [0.3]), logprobs)
    same_ids, same = arithmetic_mean([ids], [logprobs], [0.3])
    assert (same_ids == ids).all() and (same == logprobs).all()
