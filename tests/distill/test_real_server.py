"""A teacher behind a real `vllm serve` on this machine, held against transformers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.distill.served_teacher import ServedTeacher
from rlvr.distill.teachers import TeacherError
from rlvr.types import FinishReason, GenerateRequest, Sampling, ScoreRequest

from .conftest import BASE

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")

TOKENS = (1, 17, 400, 31, 8, 100, 7, 7, 260, 301, 5)
BOUND = 1e-3  # of log-probabilities in float32
START_S = 240.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server of the demo's base model, started as docs/distillation.md says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "--served-model-name": "base",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "256",
        "--max-num-seqs": "16",
        "--max-logprobs": "32",
        "--logprobs-mode": "processed_logprobs",
        "--kv-cache-memory-bytes": str(64 << 20),
    }
    environment = os.environ | {
        "TORCHDYNAMO_DISABLE": "1",  # else the first request compiles for 18 s
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    words = [word for option in options.items() for word in option]
    # What `vllm serve` runs; that command itself looks for a package of the name vllm, and here it is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE)]
    command += ["--enforce-eager", "--enable-scale-out"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        server = subprocess.Popen([*command, *words], stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def logprobs() -> torch.Tensor:
    """Of the whole vocabulary, in the place of each of TOKENS but the first."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0, :-1].log_softmax(-1)


async def test_a_real_servers_word_is_that_of_its_model(url: str, logprobs: torch.Tensor) -> None:
    """One test, because a server takes half a minute to start and pytest gives each async test a loop of its own."""
    teacher = ServedTeacher(url, "base", attempts=1)
    await teacher.start()
    try:
        await _scores(teacher, logprobs)
        await _continues(teacher)
        await _refuses(teacher)
    finally:
        await teacher.close()


async def _scores(teacher: ServedTeacher, logprobs: torch.Tensor) -> None:
    scores = await teacher.score(ScoreRequest(TOKENS, first=3, top_k=8))
    own = logprobs[2:].gather(1, torch.tensor(TOKENS[3:])[:, None])[:, 0]
    assert np.abs(scores.logprobs - own.numpy()).max() < BOUND
    values, ids = logprobs[2:].topk(8)
    assert (scores.ids == ids.numpy()).all()
    assert np.abs(scores.id_logprobs - values.numpy()).max() < BOUND
    alone = await teacher.score(ScoreRequest(TOKENS, first=3))
    assert np.abs(alone.logprobs - own.numpy()).max() < BOUND and alone.ids.shape == (len(own), 0)


async def _continues(teacher: ServedTeacher) -> None:
    """Ids and log-probabilities of the distribution that was sampled from, and the stop that was asked for."""
    stop = 7
    sampling = Sampling(24, temperature=0.7, stop_token_ids=(stop,))
    completions = await teacher.generate(GenerateRequest("r", TOKENS[:4], 4, sampling))
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    assert len({tuple(one.token_ids) for one in completions}) > 1
    for one in completions:
        ids = torch.tensor([[*TOKENS[:4], *one.token_ids]])
        with torch.no_grad():
            expected = (model(ids).logits[0, 3:-1] / 0.7).log_softmax(-1).gather(1, ids[0, 4:, None])[:, 0]
        assert np.abs(np.array(one.logprobs) - expected.numpy()).max() < BOUND
        ended = one.finish is FinishReason.STOP
        assert len(one.token_ids) == 24 or ended, one


async def _refuses(teacher: ServedTeacher) -> None:
    """On a machine without GPU vLLM has no second model runner, and says so; a K above the server's is told too."""
    with pytest.raises(TeacherError, match=r"V2 model runner.*teacher_topk or sampled"):
        await teacher.score(ScoreRequest(TOKENS, first=3, ids=np.zeros((8, 4), np.int32)))
    with pytest.raises(TeacherError, match=r"max_logprobs|max allowed"):
        await teacher.score(ScoreRequest(TOKENS, first=3, top_k=33))
