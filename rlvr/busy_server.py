"""Asking an HTTP server, and again while it is only busy or broken for a moment."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class ServerUnavailable(RuntimeError):
    """No answer, or a refusal. `status` is None where the last attempt got no response."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


async def ask(
    client: httpx.AsyncClient, method: str, url: str, body: dict[str, Any] | None, attempts: int
) -> httpx.Response:
    """A successful response, in at most `attempts` with pauses that grow, or are as long as the server asks for.

    Raises ServerUnavailable; at once where the server says what no waiting will change.
    """
    pause_s, problem, status = _FIRST_PAUSE_S, f"attempts is {attempts}", None
    for attempt in range(attempts):
        if attempt:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        try:
            response = await client.request(method, url, json=body)
        except httpx.TransportError as error:
            problem, status = f"{type(error).__name__}: {error}", None
            continue
        if response.is_success:
            return response
        problem, status = f"status {response.status_code}: {response.text[:200]}", response.status_code
        if status not in _TRY_AGAIN:
            raise ServerUnavailable(f"{url}: {problem}", status)
        asked_for = response.headers.get("retry-after", "")
        if asked_for.isdecimal():
            pause_s = min(float(asked_for), _LONGEST_PAUSE_S)
    raise ServerUnavailable(f"{url}: no answer in {attempts} attempts; the last: {problem}", status)
