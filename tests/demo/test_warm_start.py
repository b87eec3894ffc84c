"""The gradient path of the warm start, against plain rows and against an independent formula."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlvr.demo.muon import Muon, orthogonalize
from rlvr.demo.tokenizer import build_tokenizer
from rlvr.demo.warm_start import WarmStart, continuation_logits, new_model, train, tree_batch

PROMPTS = [[7, 8, 9], [20, 21, 22, 23, 24]]
CONTINUATIONS = [[[30, 31, 2], [32, 2]], [[33, 2], [34, 35, 36, 2]]]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    return new_model(tokenizer, seed=0).eval()


@torch.no_grad()
def test_a_tree_gives_the_logits_of_separate_rows(model: Qwen3ForCausalLM) -> None:
    batch = tree_batch(PROMPTS, CONTINUATIONS, pad_id=0)
    plain = []
    for prompt, branches in zip(PROMPTS, CONTINUATIONS, strict=True):
        for branch in branches:
            logits = model(torch.tensor([prompt + branch])).logits[0]
            plain.append(logits[len(prompt) - 1 : -1])
    assert batch.targets.tolist() == [t for branches in CONTINUATIONS for branch in branches for t in branch]
    torch.testing.assert_close(continuation_logits(model, batch), torch.cat(plain), atol=1e-5, rtol=1e-5)


def test_a_warm_start_learns(tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM) -> None:
    # A count of steps, not of seconds: a slow machine then learns as much as a fast one.
    progress = list(islice(train(model, tokenizer, WarmStart()), 50))
    assert [p.step for p in progress] == list(range(1, 51))
    assert progress[0].loss == pytest.approx(torch.log(torch.tensor(512.0)).item(), abs=0.5)
    assert progress[-1].loss < progress[0].loss - 1.0


def test_a_warm_start_ends_when_its_time_is_spent(tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM) -> None:
    *_, last = train(model, tokenizer, WarmStart(cpu_seconds=1.0))
    assert 1.0 <= last.cpu_seconds < 60.0


def test_new_models_depend_on_the_seed_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    def embedding(seed: int) -> torch.Tensor:
        torch.rand(1)  # the global generator plays no part
        return new_model(tokenizer, seed).model.embed_tokens.weight

    assert torch.equal(embedding(1), embedding(1))
    assert not torch.equal(embedding(1), embedding(2))


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8)])
def test_orthogonalize_keeps_directions_and_levels_lengths(shape: tuple[int, int]) -> None:
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ orthogonalize(matrix) @ vh.mT  # diagonal when the singular vectors are kept
    lengths = inner.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inner, torch.diag_embed(lengths), atol=1e-9, rtol=0)
    # The smallest singular values of a square random matrix are not lifted all the way in five rounds.
    assert lengths.median() > 0.65 and lengths.max() < 1.25 and lengths.min() > 0


def test_muon_steps_as_the_one_in_torch() -> None:
    """Equal within what bfloat16 rounds away in torch's."""
    start = torch.randn(24, 48, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    mine = Muon([ours], lr=0.1)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    noise = torch.Generator().manual_seed(2)
    for _ in range(5):
        gradient = torch.randn(24, 48, generator=noise)
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = theirs.detach() - start
    assert (ours.detach() - theirs.detach()).norm() < 0.02 * moved.norm()


def test_muon_refuses_vectors() -> None:
    with pytest.raises(ValueError, match=r"matrices only.*\(5,\)"):
        Muon([torch.nn.Parameter(torch.zeros(5))], lr=0.1)
