"""A teacher behind an OpenAI-compatible server that takes and gives token ids, as `vllm serve` does.

Plain OpenAI speaks text. What is used besides is vLLM's: on `/v1/completions` a prompt given as ids,
`return_token_ids` and `prompt_logprobs`; and `/inference/v1/generate` for log-probabilities at ids that the student
names. Servers score at temperature 1.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from rlvr.busy_server import ServerUnavailable, ask
from rlvr.distill.teachers import TeacherError
from rlvr.types import Completion, FinishReason, GenerateRequest, ScoreRequest, TokenScores

_NO_SUCH_PATH = frozenset({404, 405, 501})
_NEEDED = (
    "a teacher needs a server that takes token ids and gives prompt_logprobs, such as `vllm serve`; one of chat "
    "completions alone will not do"
)


class ServedTeacher:
    """`base_url` is the server's with its version, such as `http://host:8000/v1`; `model` as the server calls it.

    The key is read from the environment variable `key_variable`, and none is sent where there is none. A busy or broken
    server is asked `attempts` times, with pauses that grow; `timeout_s` holds for each.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        attempts: int = 5,
        timeout_s: float = 600.0,
        at_once: int = 64,
    ) -> None:
        self.name = model
        self._url = base_url.rstrip("/")
        self._root = self._url.removesuffix("/v1")
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._gate = asyncio.Semaphore(at_once)
        key = os.environ.get(key_variable)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        """Ask for the server's models. Raises TeacherError where it does not answer, or has not this one."""
        self._client = httpx.AsyncClient(headers=self._headers, timeout=self._timeout_s)
        listed = await self._ask("GET", f"{self._url}/models", None)
        try:
            names = [str(model["id"]) for model in listed["data"]]
        except (KeyError, TypeError) as error:
            raise TeacherError(
                f"{self._url}/models: this is no list of models ({error}): {str(listed)[:200]}"
            ) from None
        if self.name not in names:
            raise TeacherError(f"{self._url} has no model {self.name!r}; it has {', '.join(names) or 'none'}")

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        sampling = request.sampling
        body = {
            "prompt": list(request.prompt_ids),
            "n": request.n,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,  # here and below: not what the model's own generation_config says
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(sampling.stop_token_ids),
            "logprobs": 1,
            "return_token_ids": True,
        }
        choices = await self._complete(body)
        return [self._completion(choice) for choice in choices]

    async def score(self, request: ScoreRequest) -> TokenScores:
        if request.temperature != 1.0:
            raise TeacherError(
                f"{self._where}: a server scores at temperature 1 only, and the student samples at "
                f"{request.temperature:g}: set sampling.temperature=1, or use a local teacher"
            )
        if request.ids is not None:
            return await self._score_at(request, request.ids)
        body = {
            "prompt": list(request.token_ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": request.top_k,
        }
        (choice,) = await self._complete(body)
        return self._scores(request, self._places(request, choice.get("prompt_logprobs")))

    async def _score_at(self, request: ScoreRequest, ids: NDArray[np.int32]) -> TokenScores:
        sampling = {
            "max_tokens": 1,
            "temperature": 0.0,
            "detokenize": False,
            "prompt_logprobs": 0,
            "prompt_logprob_token_ids": ids.tolist(),
            "prompt_logprob_start": request.first - 1,
        }
        url = f"{self._root}/inference/v1/generate"
        body = {"model": self.name, "token_ids": list(request.token_ids), "sampling_params": sampling}
        try:
            async with self._gate:
                answer = await self._ask("POST", url, body)
        except TeacherError as error:
            raise TeacherError(
                f"{error}; scoring at the student's ids needs `vllm serve --enable-scale-out` with vLLM's second model "
                "runner, which runs on GPUs: use the signal teacher_topk or sampled, or a local teacher"
            ) from None
        places = self._places(request, answer.get("prompt_logprobs"))
        of_ids = _array(answer.get("prompt_token_id_logprobs"))
        if of_ids is None or of_ids.shape != ids.shape:
            raise TeacherError(
                f"{self._where}: the answer has no log-probabilities at {ids.shape} ids: {answer!r:.200}"
            )
        own = [at[str(token)]["logprob"] for token, at in zip(request.token_ids[request.first :], places, strict=True)]
        return TokenScores(np.array(own, np.float32), ids, of_ids.astype(np.float32), version=0)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    # ---------------------------------------------------------------- the server's form

    @property
    def _where(self) -> str:
        return f"{self.name} at {self._url}"

    def _places(self, request: ScoreRequest, prompt_logprobs: Any) -> list[dict[str, Any]]:
        """What the server says of the request's places."""
        if not isinstance(prompt_logprobs, list) or len(prompt_logprobs) != len(request.token_ids):
            raise TeacherError(
                f"{self._where}: the answer has no prompt_logprobs for {len(request.token_ids)} tokens; {_NEEDED}"
            )
        return prompt_logprobs[request.first :]

    def _completion(self, choice: dict[str, Any]) -> Completion:
        try:
            tokens = [int(token) for token in choice["token_ids"]]
            logprobs = [float(logprob) for logprob in choice["logprobs"]["token_logprobs"]]
            finish = FinishReason.STOP if choice["finish_reason"] == "stop" else FinishReason.LENGTH
        except (KeyError, TypeError, ValueError) as error:
            raise TeacherError(
                f"{self._where}: the answer has no token ids with log-probabilities "
                f"({type(error).__name__}: {error}); {_NEEDED}"
            ) from None
        return Completion(tokens, logprobs, [0] * len(tokens), finish)

    def _scores(self, request: ScoreRequest, places: list[dict[str, Any]]) -> TokenScores:
        tokens = request.token_ids[request.first :]
        own = np.array([at[str(token)]["logprob"] for token, at in zip(tokens, places, strict=True)], np.float32)
        likeliest = [sorted(at.items(), key=lambda one: -one[1]["logprob"])[: request.top_k] for at in places]
        if any(len(at) < request.top_k for at in likeliest):
            raise TeacherError(f"{self._url}: fewer than {request.top_k} ids a token; start it with --max-logprobs")
        ids = np.array([[int(token) for token, _ in at] for at in likeliest], np.int32)
        logprobs = np.array([[one["logprob"] for _, one in at] for at in likeliest], np.float32)
        shape = (len(tokens), request.top_k)
        return TokenScores(own, ids.reshape(shape), logprobs.reshape(shape), version=0)

    async def _complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        async with self._gate:
            answer = await self._ask("POST", f"{self._url}/completions", {"model": self.name} | body)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices:
            raise TeacherError(f"{self._url}/completions: this is no completion: {str(answer)[:200]}")
        return choices

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None) -> Any:
        assert self._client is not None, "`start` comes first"
        try:
            response = await ask(self._client, method, url, body, self._attempts)
        except ServerUnavailable as error:
            needed = f"; {_NEEDED}" if error.status in _NO_SUCH_PATH else ""
            raise TeacherError(f"{error}{needed}") from None
        try:
            return response.json()
        except ValueError:
            raise TeacherError(f"{url}: the answer is not JSON: {response.text[:200]}") from None


def _array(encoded: Any) -> NDArray[np.floating[Any]] | None:
    """An array in NumPy's own format, in base 64; None where there is none."""
    try:
        array: NDArray[np.floating[Any]] = np.load(io.BytesIO(base64.b64decode(encoded)), allow_pickle=False)
    except (TypeError, ValueError, EOFError):
        return None
    return array
