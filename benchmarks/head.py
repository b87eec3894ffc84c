"""The chunked head against the naive one: peak memory and processor time of a forward and a backward pass.

    python benchmarks/head.py [--tokens 2048] [--vocabulary 151936] [--hidden 1024] [--chunk 512] [--ids 32]

Log-probabilities of given tokens and the entropy, with a head that is trained and one that is frozen; and the
divergence from a teacher that is known at `--ids` ids in each place. The naive form makes all logits and lets
autograd do the rest. All in float32. Each measurement has a process of its own: memory is the highest resident size
less that before the pass, time is of all threads.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlvr.learn.divergence import with_tail
from rlvr.learn.head import token_logprobs

Head = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sizes:
    """Of the hidden states [tokens, hidden] and the head [vocabulary, hidden]; `ids` of the teacher in each place."""

    tokens: int
    vocabulary: int
    hidden: int
    chunk: int
    ids: int


@dataclass(frozen=True)
class Measured:
    """Bytes above what was held before, processor seconds, and numbers in which both forms must agree."""

    peak: int
    seconds: float
    loss: float
    gradient: float


def naive(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What a model's own head and two lines of torch do."""
    all_logprobs = (hidden @ weight.T).log_softmax(-1)
    with torch.no_grad():
        entropy = -(all_logprobs.exp() * all_logprobs).sum(-1)
    return all_logprobs.gather(1, ids), entropy


def measure(sizes: Sizes, form: str, task: str, *, trained: bool) -> Measured:
    """One forward and backward pass in this process."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(sizes.tokens, sizes.hidden, generator=generator).requires_grad_()
    weight = torch.empty(sizes.vocabulary, sizes.hidden).normal_(std=0.1, generator=generator).requires_grad_(trained)
    ids = torch.randint(sizes.vocabulary, (sizes.tokens, sizes.ids if task == "divergence" else 1), generator=generator)
    teacher = with_tail(torch.full(ids.shape, -5.0))

    def chunked(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(hidden, weight, ids, 1.0, sizes.chunk)

    head: Head = {"naive": naive, "chunked": chunked}[form]
    head(hidden[:2].detach(), weight[:100].detach(), ids[:2] % 100)  # libraries start their threads
    before, started = _resident(), time.process_time()
    logprobs, _ = head(hidden, weight, ids)
    forward_kl = (teacher.exp() * (teacher - with_tail(logprobs))).sum(1)
    loss = forward_kl.mean() if task == "divergence" else -logprobs.mean()
    loss.backward()
    seconds, peak = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert hidden.grad is not None
    gradient = hidden.grad.norm() if weight.grad is None else hidden.grad.norm() + weight.grad.norm()
    return Measured(peak, seconds, loss.item(), gradient.item())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def in_a_process(sizes: Sizes, form: str, task: str, *, trained: bool) -> Measured:
    """`measure` where nothing else has been."""
    request = json.dumps({"sizes": asdict(sizes), "form": form, "task": task, "trained": trained})
    done = subprocess.run([sys.executable, __file__, "--one", request], check=True, capture_output=True, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Both forms of each task one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument(
        "--chunk", type=int, default=512, help="tokens whose logits exist at one time; half with a frozen head"
    )
    parser.add_argument("--ids", type=int, default=32, help="of the teacher, in each place")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        request = json.loads(options.one)
        print(json.dumps(asdict(measure(Sizes(**request.pop("sizes")), **request))))
        return
    print(
        f"{options.tokens} tokens, vocabulary {options.vocabulary}, {options.hidden} wide, "
        f"{torch.get_num_threads()} threads"
    )
    for task, trained in (("log-probability", True), ("log-probability", False), ("divergence", True)):
        chunk = options.chunk if trained else options.chunk // 2
        sizes = Sizes(options.tokens, options.vocabulary, options.hidden, chunk, options.ids)
        plain = in_a_process(sizes, "naive", task, trained=trained)
        ours = in_a_process(sizes, "chunked", task, trained=trained)
        agree = max(abs(ours.loss / plain.loss - 1), abs(ours.gradient / plain.gradient - 1))
        print(
            f"{task}, head {'trained' if trained else 'frozen'}, chunks of {chunk}: naive {plain.peak / 1e6:.0f} MB, "
            f"{plain.seconds:.1f} CPU s | chunked {ours.peak / 1e6:.0f} MB, {ours.seconds:.1f} CPU s | memory "
            f"1/{plain.peak / ours.peak:.1f}, time {ours.seconds / plain.seconds:.2f}x "
            f"(loss and gradient differ by {agree:.1e})",
            flush=True,
        )


if __name__ == "__main__":
    main()
