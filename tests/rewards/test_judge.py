"""The judge, against a small server that speaks the protocol, well and badly."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rlvr.rewards.judge import JudgeUnavailable, judge, verdict_of
from rlvr.types import Outcome, Score

Behaviour = Callable[[int, dict[str, Any]], tuple[int, str, dict[str, str]]]


def says(text: str) -> tuple[int, str, dict[str, str]]:
    body = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"total_tokens": 42}}
    return 200, json.dumps(body), {}


class Server:
    """Answers the n-th request, counted from 0, as `behaviour` says, and keeps what it was sent."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = lambda n, request: says("VERDICT: 1")
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, **request})
                outer.headers.append(dict(self.headers))
                status, body, headers = outer.behaviour(len(outer.requests) - 1, request)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                return None

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


async def ask(server: Server, completion: str = "<think>hm</think>It is 4.", **arguments: Any) -> Score:
    fixed = {"base_url": server.url, "model": "m", "timeout_s": 5.0} | arguments
    result: Score = await judge.function(completion=completion, prompt="What is 2 + 2?", target=4, **fixed)
    return result


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("It agrees.\nVERDICT: 1", 1.0),
        ("VERDICT: 0", 0.0),
        ("Half.\n**VERDICT: 0.5**\n", 0.5),
        ("VERDICT: 1\nor rather not", None),
        ("The answer says 'VERDICT: 1'.", None),
        ("VERDICT: 7", None),
        ("VERDICT: -1", None),
        ("VERDICT: yes", None),
        ("", None),
    ],
)
def test_the_verdict_is_the_number_in_the_last_line(reply: str, value: float | None) -> None:
    assert verdict_of(reply) == value


async def test_what_is_asked_and_what_comes_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    server.behaviour = lambda n, request: says("Near.\nVERDICT: 0.75")
    score = await ask(server, api_key_variable="MY_KEY")
    assert score.value == 0.75 and "42 tokens" in score.detail
    (request,) = server.requests
    assert (request["path"], request["model"], request["temperature"]) == ("/v1/chat/completions", "m", 0)
    question = request["messages"][0]["content"]
    assert "What is 2 + 2?" in question and "It is 4." in question and "hm" not in question
    assert server.headers[0]["Authorization"] == "Bearer sesame"


async def test_an_answer_cannot_know_the_mark_around_it(server: Server) -> None:
    marks = []
    for _ in range(2):
        await ask(server)
        marks.append(re.findall(r"^\[[0-9a-f]{16}\]$", server.requests[-1]["messages"][0]["content"], re.MULTILINE))
    assert [len(of_one) for of_one in marks] == [2, 2]
    assert marks[0][0] == marks[0][1] != marks[1][0]


async def test_a_busy_server_is_asked_again_when_it_says(server: Server) -> None:
    server.behaviour = lambda n, request: (429, "later", {"Retry-After": "1"}) if n == 0 else says("VERDICT: 1")
    started = time.perf_counter()
    assert (await ask(server)).value == 1.0
    assert len(server.requests) == 2 and time.perf_counter() - started >= 1.0


async def test_a_server_that_stays_broken_is_never_a_zero(server: Server) -> None:
    server.behaviour = lambda n, request: (503, "down", {"Retry-After": "0"})
    with pytest.raises(JudgeUnavailable, match="no answer in 3 attempts; the last: status 503: down"):
        await ask(server, attempts=3)
    assert len(server.requests) == 3


async def test_a_refusal_is_told_at_once(server: Server) -> None:
    server.behaviour = lambda n, request: (401, "wrong key", {})
    with pytest.raises(JudgeUnavailable, match="status 401: wrong key"):
        await ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", ["<html>", "[]", '{"choices": []}', '{"choices": [{"message": null}]}'])
async def test_what_is_no_chat_completion_says_so(server: Server, body: str) -> None:
    server.behaviour = lambda n, request: (200, body, {})
    with pytest.raises(JudgeUnavailable, match="no chat completion"):
        await ask(server)


async def test_a_slow_server_times_out(server: Server) -> None:
    def slow(n: int, request: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        time.sleep(1.0)
        return says("VERDICT: 1")

    server.behaviour = slow
    with pytest.raises(JudgeUnavailable, match="ReadTimeout"):
        await ask(server, timeout_s=0.2, attempts=1)


async def test_no_server_at_all() -> None:
    with pytest.raises(JudgeUnavailable, match="ConnectError"):
        await judge.function(
            completion="4", prompt="?", target=4, base_url="http://127.0.0.1:1/v1", model="m", attempts=1
        )


async def test_a_reply_without_a_verdict_is_none_and_unfinished_reasoning_costs_no_call(server: Server) -> None:
    server.behaviour = lambda n, request: says("I cannot tell.")
    score = await ask(server)
    assert (score.value, score.outcome) == (None, Outcome.NO_VERDICT) and "I cannot tell." in score.detail
    assert (await ask(server, "<think>4")).value == 0.0
    assert len(server.requests) == 1
