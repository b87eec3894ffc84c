"""The chunked head against log_softmax over all logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlvr.learn.head import token_logprobs

N, H, V = 37, 12, 101
TEMPERATURE = 0.7


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(N, H, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator, dtype=dtype).requires_grad_()
    upstream = torch.randn(N, generator=generator, dtype=dtype)
    return hidden, weight, torch.randint(V, (N,), generator=generator), upstream


def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logprobs = (hidden @ weight.T / TEMPERATURE).log_softmax(-1)
    return logprobs[torch.arange(N), targets], -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("chunk", [1, 8, 37, 1000])
def test_values_and_gradients(dtype: torch.dtype, tolerance: float, chunk: int) -> None:
    hidden, weight, targets, upstream = inputs(dtype)
    logprobs, entropy = token_logprobs(hidden, weight, targets, TEMPERATURE, chunk)
    ours = torch.autograd.grad((logprobs * upstream).sum(), [hidden, weight])
    expected, expected_entropy = naive(hidden, weight, targets)
    theirs = torch.autograd.grad((expected * upstream).sum(), [hidden, weight])

    torch.testing.assert_close(logprobs, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(entropy, expected_entropy, rtol=tolerance, atol=tolerance)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=10 * tolerance)

    frozen, _ = token_logprobs(hidden, weight.detach(), targets, TEMPERATURE, chunk)
    (of_hidden,) = torch.autograd.grad((frozen * upstream).sum(), hidden)
    torch.testing.assert_close(frozen, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(of_hidden, theirs[0], rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("trained", [True, False])
def test_several_ids_in_a_place(trained: bool) -> None:
    hidden, weight, _, _ = inputs(torch.float64)
    weight.requires_grad_(trained)
    ids = torch.rand(N, V, generator=torch.Generator().manual_seed(4)).topk(5).indices
    upstream = torch.randn(N, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = (hidden @ weight.T / TEMPERATURE).log_softmax(-1).gather(1, ids)
    ours, _ = token_logprobs(hidden, weight, ids, TEMPERATURE, 8)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    of = [hidden, weight] if trained else [hidden]
    gradients = zip(
        torch.autograd.grad((ours * upstream).sum(), of),
        torch.autograd.grad((expected * upstream).sum(), of),
        strict=True,
    )
    for mine, other in gradients:
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-11)


def test_bfloat16_hidden_states_get_float32_logits() -> None:
    hidden, weight, targets, _ = inputs(torch.float32)
    narrow = hidden.detach().bfloat16()
    logprobs, _ = token_logprobs(narrow, weight, targets, TEMPERATURE, 8)
    expected, _ = naive(narrow.float(), weight, targets)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected)


def test_autocast_does_not_narrow_the_logits() -> None:
    hidden, weight, targets, _ = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = token_logprobs(hidden, weight, targets, TEMPERATURE, 8)
    torch.testing.assert_close(logprobs, naive(hidden, weight, targets)[0])


def test_the_logits_of_all_tokens_never_exist() -> None:
    hidden, weight, targets, upstream = inputs(torch.float32)
    with LargestTensor() as watch:
        logprobs, _ = token_logprobs(hidden, weight, targets, TEMPERATURE, 8)
        (logprobs * upstream).sum().backward()
    assert watch.elements == max(8 * V, V * H)

    with LargestTensor() as watch:
        naive(hidden, weight, targets)
    assert watch.elements == N * V  # the watch would have seen them


def test_a_frozen_head_gets_no_gradient_buffer() -> None:
    hidden, weight, targets, upstream = inputs(torch.float32)
    weight.requires_grad_(False)
    with LargestTensor() as watch:
        logprobs, _ = token_logprobs(hidden, weight, targets, TEMPERATURE, 2)
        (logprobs * upstream).sum().backward()
    assert watch.elements < V * H + 1 and weight.grad is None
    expected, _ = naive(hidden, weight, targets)
    torch.testing.assert_close(hidden.grad, torch.autograd.grad((expected * upstream).sum(), hidden)[0])


def test_no_tokens() -> None:
    hidden, weight, _, _ = inputs(torch.float32)
    logprobs, entropy = token_logprobs(hidden[:0], weight, torch.zeros(0, dtype=torch.long), 1.0, 8)
    assert logprobs.shape == entropy.shape == (0,)
