"""Teachers: here, behind a server, and on disk; and that who speaks another language is told the difference."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3MoeConfig

from rlvr.config import Config
from rlvr.distill.served_teacher import ServedTeacher
from rlvr.distill.store import StoreHeader, StoreWriter
from rlvr.distill.teachers import StoredTeacher, TeacherError, local_teacher
from rlvr.distill.tokenizers import TokenizerMismatch, fingerprint, refuse_mismatch
from rlvr.generate.settings import EngineSettings
from rlvr.types import FinishReason, GenerateRequest, Sampling, ScoreRequest

BASE = Path(__file__).parents[2] / "rlvr" / "demo" / "base"
TOKENS = (5, 17, 400, 31, 8, 100, 7, 7)

Behaviour = Callable[[dict[str, Any]], tuple[int, Any]]


# -------------------------------------------------------------------- a model in this process


async def test_a_local_teacher_scores_at_any_temperature_and_at_named_ids() -> None:
    config = Config(model="tiny", data="unused.jsonl")
    teacher = local_teacher(config, str(BASE))
    await teacher.start()
    try:
        named = np.array([[1, 2, 3]] * 5, np.int32)
        scores = await teacher.score(ScoreRequest(TOKENS, first=3, temperature=0.6, ids=named))
    finally:
        await teacher.close()
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    with torch.no_grad():
        logprobs = (model(torch.tensor([TOKENS])).logits[0, 2:-1] / 0.6).log_softmax(-1)
    assert np.abs(scores.id_logprobs - logprobs[:, [1, 2, 3]].numpy()).max() < 1e-4
    own = logprobs.gather(1, torch.tensor(TOKENS[3:])[:, None])[:, 0]
    assert np.abs(scores.logprobs - own.numpy()).max() < 1e-4


def test_what_a_teachers_routers_choose_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is trained; and a teacher whose routers are of a form not known has no need of control."""
    Qwen3MoeConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    made: list[EngineSettings] = []
    monkeypatch.setattr("rlvr.generate.transformers.TransformersGenerator", lambda settings, **_: made.append(settings))
    local_teacher(Config(model="tiny", data="unused.jsonl"), str(tmp_path))
    assert [settings.record_experts for settings in made] == [False]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="nothing is pinned to one core")
async def test_under_ray_a_local_teacher_works_on_the_learners_cores() -> None:
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    for backend, expected in (("ray", cores[half : 2 * half]), ("local", cores)):
        config = Config(model="tiny", data="unused.jsonl", cluster={"backend": backend})
        teacher = local_teacher(config, str(BASE), number=7)
        await teacher.start()
        (thread,) = (one for one in threading.enumerate() if one.name == "teacher-7")
        assert thread.native_id is not None and sorted(os.sched_getaffinity(thread.native_id)) == expected
        await teacher.close()


# -------------------------------------------------------------------- a server


class Server:
    """A small server with vLLM's form of the completions protocol, answering as `behaviour` says."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = lambda request: (200, {"choices": []})
        self.requests: list[dict[str, Any]] = []
        self.models: tuple[int, Any] = (200, {"data": [{"id": "big"}]})
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*outer.models)

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, **request})
                self._answer(*outer.behaviour(request))

            def _answer(self, status: int, body: Any) -> None:
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return None

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


@pytest.fixture
async def teacher(server: Server) -> ServedTeacher:
    made = ServedTeacher(server.url, "big", attempts=2, timeout_s=5.0)
    await made.start()
    return made


def place(logprobs: dict[int, float]) -> dict[str, dict[str, Any]]:
    """As vLLM writes a token of the prompt: the likeliest ids, and the token itself, in no promised order."""
    return {str(token): {"logprob": logprob, "rank": 1, "decoded_token": "?"} for token, logprob in logprobs.items()}


async def test_a_servers_scores_are_read_by_id(server: Server, teacher: ServedTeacher) -> None:
    places = [None, place({5: -9.0, 3: -1.0, 4: -2.0}), place({4: -0.5, 3: -1.5}), place({9: -7.0, 4: -0.5, 8: -3.0})]
    server.behaviour = lambda request: (200, {"choices": [{"prompt_logprobs": places}]})
    scores = await teacher.score(ScoreRequest((1, 5, 3, 9), first=1, top_k=2))
    assert scores.logprobs.tolist() == [-9.0, -1.5, -7.0]
    assert scores.ids.tolist() == [[3, 4], [4, 3], [4, 8]]
    assert scores.id_logprobs.tolist() == [[-1.0, -2.0], [-0.5, -1.5], [-0.5, -3.0]]
    (request,) = server.requests
    assert (request["path"], request["prompt"], request["prompt_logprobs"]) == ("/v1/completions", [1, 5, 3, 9], 2)
    later = await teacher.score(ScoreRequest((1, 5, 3, 9), first=3))
    assert (later.logprobs.tolist(), later.ids.shape) == ([-7.0], (1, 0))


async def test_a_servers_continuations_come_with_ids_and_logprobs(server: Server, teacher: ServedTeacher) -> None:
    def choice(finish: str, *tokens: int) -> dict[str, Any]:
        logprobs = {"token_logprobs": [-0.1 * token for token in tokens]}
        return {"token_ids": tokens, "logprobs": logprobs, "finish_reason": finish}

    server.behaviour = lambda request: (200, {"choices": [choice("stop", 4, 2), choice("length", 1, 1, 1)]})
    sampling = Sampling(3, temperature=0.7, stop_token_ids=(2,))
    completions = await teacher.generate(GenerateRequest("r", (7, 8), 2, sampling))
    assert [(c.token_ids, c.finish) for c in completions] == [
        ([4, 2], FinishReason.STOP),
        ([1, 1, 1], FinishReason.LENGTH),
    ]
    assert completions[0].logprobs == pytest.approx([-0.4, -0.2]) and completions[0].versions == [0, 0]
    (request,) = server.requests
    asked = [request[key] for key in ("prompt", "n", "max_tokens", "temperature", "stop_token_ids", "top_p")]
    assert asked == [[7, 8], 2, 3, 0.7, [2], 1.0]


async def test_what_a_server_cannot_do_is_refused_before_it_is_asked(server: Server, teacher: ServedTeacher) -> None:
    with pytest.raises(TeacherError, match="temperature 1 only"):
        await teacher.score(ScoreRequest((1, 2), temperature=0.5))
    assert server.requests == []


async def test_a_server_scores_at_the_students_ids(server: Server, teacher: ServedTeacher) -> None:
    """As vLLM 0.32 answers: an array in NumPy's own format, in base 64."""
    at_ids = np.array([[-1.0, -2.0], [-0.5, -3.0]], np.float32)
    file = io.BytesIO()
    np.save(file, at_ids)
    encoded = base64.b64encode(file.getvalue()).decode()
    places = [None, place({5: -9.0}), place({3: -1.5}), place({9: -7.0})]
    server.behaviour = lambda request: (
        200,
        {"choices": [{}], "prompt_logprobs": places, "prompt_token_id_logprobs": encoded},
    )
    ids = np.array([[3, 4], [4, 8]], np.int32)
    scores = await teacher.score(ScoreRequest((1, 5, 3, 9), first=2, ids=ids))
    assert (scores.ids == ids).all() and (scores.id_logprobs == at_ids).all()
    assert scores.logprobs.tolist() == [-1.5, -7.0]
    (request,) = server.requests
    assert (request["path"], request["model"], request["token_ids"]) == ("/inference/v1/generate", "big", [1, 5, 3, 9])
    asked = request["sampling_params"]
    # A row of vLLM's says what comes after its token, so the first row is that of the token before the first place.
    assert (asked["prompt_logprob_token_ids"], asked["prompt_logprob_start"]) == ([[3, 4], [4, 8]], 1)
    server.behaviour = lambda request: (200, {"choices": [{}], "prompt_logprobs": places})
    with pytest.raises(TeacherError, match=r"no log-probabilities at \(2, 2\) ids"):
        await teacher.score(ScoreRequest((1, 5, 3, 9), first=2, ids=ids))


async def test_a_server_of_chat_completions_alone_is_refused(server: Server, teacher: ServedTeacher) -> None:
    server.behaviour = lambda request: (404, {"detail": "Not Found"})
    for request in (ScoreRequest((1, 2)), ScoreRequest((1, 2), ids=np.zeros((1, 3), np.int32))):
        with pytest.raises(TeacherError, match="one of chat completions alone will not do"):
            await teacher.score(request)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, {"choices": [{"text": "hello"}]}, "no prompt_logprobs for 2 tokens"),
        (200, {"error": "?"}, "no completion"),
        (200, "<html>", "not JSON"),
        (404, "no such path", "status 404: no such path"),
        (503, "busy", "no answer in 2 attempts; the last: status 503: busy"),
    ],
)
async def test_a_server_that_answers_badly_is_told(
    server: Server, teacher: ServedTeacher, status: int, body: Any, message: str
) -> None:
    server.behaviour = lambda request: (status, body)
    with pytest.raises(TeacherError, match=message):
        await teacher.score(ScoreRequest((1, 2)))


async def test_a_model_that_the_server_has_not(server: Server) -> None:
    with pytest.raises(TeacherError, match="no model 'small'; it has big"):
        await ServedTeacher(server.url, "small").start()
    server.models = (200, [])
    with pytest.raises(TeacherError, match="no list of models"):
        await ServedTeacher(server.url, "small").start()


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(TeacherError, match="ConnectError"):
        await ServedTeacher("http://127.0.0.1:1/v1", "big", attempts=1).start()


# -------------------------------------------------------------------- a store


async def test_a_stored_teacher_knows_its_rows_and_nothing_else(tmp_path: Path) -> None:
    local = local_teacher(Config(model="tiny", data="unused.jsonl"), str(BASE))
    await local.start()
    question = ScoreRequest(TOKENS, first=3, top_k=4)
    said = await local.score(question)
    await local.close()
    writer = StoreWriter(tmp_path / "store", StoreHeader("base", "f", vocabulary=512, k=4, temperature=1.0))
    writer.add([(0, question, said)])
    writer.finish()
    stored = StoredTeacher(tmp_path / "store")
    await stored.start()
    again = await stored.score(ScoreRequest(TOKENS, first=4, top_k=2))
    assert again.ids.shape == (4, 2)
    assert np.abs(again.id_logprobs - said.id_logprobs[1:, :2]).max() <= 0.02
    assert np.abs(again.logprobs - said.logprobs[1:]).max() < 0.01  # float16 at -28
    for request in (ScoreRequest(TOKENS, top_k=2), ScoreRequest(TOKENS[:-1], first=4)):
        with pytest.raises(TeacherError, match="does not hold this row"):
            await stored.score(request)
    for request in (ScoreRequest(TOKENS, 3, 0.5), ScoreRequest(TOKENS, 3, top_k=5)):
        with pytest.raises(TeacherError, match="something else"):
            await stored.score(request)
    with pytest.raises(TeacherError, match="cannot continue"):
        await stored.generate(GenerateRequest("r", (1,), 1, Sampling(1)))


# -------------------------------------------------------------------- the language


def test_the_same_tokenizer_passes_and_has_one_fingerprint(tokenizer: PreTrainedTokenizerFast) -> None:
    same = copy.deepcopy(tokenizer)
    refuse_mismatch(tokenizer, same, "teacher")
    assert fingerprint(tokenizer) == fingerprint(same)


def test_another_vocabulary_is_told_with_the_difference(tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<think>"])
    with pytest.raises(TokenizerMismatch, match=r"in 1 tokens.*'<think>' is unknown and 259"):
        refuse_mismatch(tokenizer, other, "teacher")
    assert fingerprint(tokenizer) != fingerprint(other)


def test_another_chat_template_is_told_with_both_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    with pytest.raises(TokenizerMismatch, match=r"chat template differs.*\[user\] What is 2 \+ 2\?"):
        refuse_mismatch(tokenizer, other, "teacher")
    assert fingerprint(tokenizer) != fingerprint(other)
