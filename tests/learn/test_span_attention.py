"""Attention over spans against torch's own under the mask that says the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rlvr.learn import span_attention as spans_of
from rlvr.learn.packing import Layout, MicroBatch, PackingPlan, pack
from rlvr.learn.span_attention import span_attention
from rlvr.types import Row

from .conftest import make_rows

SCALING = 0.3
HEADS = {"one key for all": (4, 1), "grouped": (6, 2), "a key each": (3, 3)}  # queries, keys


def batches() -> list[MicroBatch]:
    """Lines with padding and with blocks behind one another, a group of one row, and one whose first is the prefix."""
    rows = [*make_rows(groups=5), replace(make_rows(seed=1)[0], group_id=5)]
    rows += [Row(6, [2, 3, 4, *rest], [False, False, True] + [True] * len(rest)) for rest in ([], [5, 6], [7])]
    return list(pack(rows, PackingPlan(Layout.SHARED, 200, 200, False, hidden_size=32)))


States = tuple[Tensor, Tensor, Tensor]


def states(batch: MicroBatch, heads: int, keys: int, of_values: int = 8) -> States:
    """Queries, keys and values as transformers hands them over: [B, H, T, D], of which T and H change places."""
    torch.manual_seed(0)
    lines, length = batch.token_ids.shape

    def some(count: int, width: int) -> Tensor:
        return (2 * torch.randn(lines, length, count, width)).transpose(1, 2).requires_grad_()

    return some(heads, 8), some(keys, 8), some(keys, of_values)


def under_mask(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALING).transpose(1, 2)


def is_token(batch: MicroBatch) -> Tensor:
    """Which places are no padding, [B, T]."""
    return torch.arange(batch.token_ids.shape[1]) < batch.lengths[:, None]


@pytest.mark.parametrize("block", [1, 150, 1 << 20])
@pytest.mark.parametrize("of_values", [8, 5])
@pytest.mark.parametrize(("heads", "keys"), HEADS.values(), ids=HEADS)
def test_output_and_gradients_are_those_under_the_mask(
    monkeypatch: pytest.MonkeyPatch, heads: int, keys: int, of_values: int, block: int
) -> None:
    """However few logits exist at a time."""
    monkeypatch.setattr(spans_of, "BLOCK_ELEMENTS_CPU", block)
    for batch in batches():
        assert batch.spans is not None
        inputs = states(batch, heads, keys, of_values)
        places = is_token(batch)
        ours = span_attention(*inputs, batch.spans, SCALING)
        theirs = under_mask(*inputs, batch.mask)
        torch.testing.assert_close(ours[places], theirs[places], rtol=0, atol=1e-5)
        assert (ours[~places] == 0).all()

        weights = torch.randn(theirs.shape) * places[..., None, None]
        found = torch.autograd.grad(ours, inputs, weights)
        expected = torch.autograd.grad(theirs, inputs, weights)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_logits_of_any_size_are_no_overflow() -> None:
    (batch, *_) = batches()
    assert batch.spans is not None
    query, key, value = states(batch, 4, 2)
    places = is_token(batch)
    ours = span_attention(100 * query, 100 * key, value, batch.spans, SCALING)
    theirs = under_mask(100 * query, 100 * key, value, batch.mask)
    torch.testing.assert_close(ours[places], theirs[places], rtol=0, atol=1e-3)


def test_under_autocast_inputs_are_rounded_and_the_sums_are_not() -> None:
    (batch, *_) = batches()
    assert batch.spans is not None
    query, key, value = states(batch, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        ours = span_attention(query, key, value, batch.spans, SCALING)
    assert ours.dtype == torch.bfloat16
    query, key, value = (x.bfloat16().float() for x in (query, key, value))
    expected = span_attention(query, key, value, batch.spans, SCALING)
    torch.testing.assert_close(ours, expected.bfloat16(), rtol=0, atol=0)


def test_the_work_is_that_of_the_pairs_that_see_each_other() -> None:
    """With 8 answers of 8 tokens to a prompt of 64: not the 128 tokens of the line squared."""
    prompt = [1] * 64
    rows = [Row(0, [*prompt, *[2 + answer] * 8], [False] * 64 + [True] * 8) for answer in range(8)]
    (batch,) = pack(rows, PackingPlan(Layout.SHARED, 200, 200, False, hidden_size=32))
    assert batch.spans is not None
    pairs = sum((s.queries.stop - s.queries.start) * (s.keys.stop - s.keys.start) for s in batch.spans)
    assert pairs == 64 * 64 + 8 * 8 * (64 + 8)
