"""A vLLM server that somebody else runs, as an engine to evaluate with: token ids in, token ids out, over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from alignkit.engines.engine import Part
from alignkit.errors import EngineError, RewardError
from alignkit.rewards.serve.endpoint import Endpoint, EndpointError
from alignkit.types.rollout import Completion, Request, StopReason

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT_S = 600.0  # for one answer
CONCURRENCY = 64


class ServerEngine:
    """Samples and scores like engines.engine.Engine; its weights are the server's and cannot be updated.

    url: http://HOST:PORT of `vllm serve` (version 0.10.2 or newer, which returns token ids). token: sent as a bearer
    token. The server must serve the model whose tokenizer the caller uses. Log-probs are those that the server
    reports. Raises EngineError when the server does not answer.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = TIMEOUT_S):
        self.policy_version = 0
        self._timeout_s = timeout_s
        try:
            self._endpoint = Endpoint(
                url, token=token, timeout_s=timeout_s, concurrency=CONCURRENCY, allow_private=True
            )  # the address is the user's own, from the command line
        except RewardError as error:
            raise EngineError(f"server engine: {error}") from error
        self._url = url
        models = asyncio.run(self._ask("GET", "/v1/models"))
        try:
            self.model: str = models["data"][0]["id"]
            self.context: int = models["data"][0].get("max_model_len") or 2**31
        except (KeyError, IndexError, TypeError) as error:
            raise EngineError(f"server engine {url}: it names no model at /v1/models") from error

    async def sample(self, request: Request) -> Completion:
        request.check(context=self.context, engine=f"server engine {self._url}")
        return self._completion(request, await self._complete(request))

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """What shares a batch there is chance: somebody else's server knows no lockstep."""
        return list(await asyncio.gather(*map(self.sample, requests)))

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        bodies = [{"prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0} for ids in sequences]
        answers = await asyncio.gather(*(self._ask("POST", "/v1/completions", body) for body in bodies))
        return [self._scores(*pair) for pair in zip(sequences, answers, strict=True)]

    def update(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        raise EngineError(f"server engine {self._url}: its weights are its own; train with rollouts.engine vllm or hf")

    def sleep(self) -> None:
        """Does nothing: the server is not ours."""

    def wake(self, part: Part) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    async def _complete(self, request: Request) -> dict[str, Any]:
        body = {
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "seed": request.seed % 2**63,
            "stop_token_ids": list(request.stop_token_ids),
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
        }
        return await self._ask("POST", "/v1/completions", body)

    def _completion(self, request: Request, answer: Any) -> Completion:
        try:
            [choice] = answer["choices"]
            token_ids = tuple(int(token) for token in choice["token_ids"])
            logprobs = tuple(float(value) for value in choice["logprobs"]["token_logprobs"])
            finish = choice["finish_reason"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange("token ids and their log-probs, as vLLM 0.10.2 and newer give") from error
        if len(logprobs) != len(token_ids):
            raise self._strange(f"as many log-probs as tokens; got {len(logprobs)} and {len(token_ids)}")
        stops = {"stop": StopReason.END_OF_TEXT, "length": StopReason.LENGTH}
        stop = stops.get(finish, StopReason.ERROR)
        if stop is StopReason.LENGTH and len(token_ids) < request.max_new_tokens:
            stop = StopReason.CONTEXT_FULL
        return Completion(token_ids=token_ids, logprobs=logprobs, stop=stop, versions=((0, 0),))

    def _scores(self, sequence: Sequence[int], answer: Any) -> list[float]:
        try:
            told = answer["choices"][0]["prompt_logprobs"][1:]
            values = [float(one[str(token)]["logprob"]) for token, one in zip(sequence[1:], told, strict=True)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._strange("the log-prob of every prompt token") from error
        return values

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        until = time.monotonic() + self._timeout_s
        try:
            if method == "GET":
                return await self._endpoint.get(path, until=until)
            content = json.dumps({"model": self.model, **(body or {})}).encode()
            return await self._endpoint.post(path, content, until=until)
        except EndpointError as error:
            raise EngineError(f"server engine {self._url}: {error}") from error

    def _strange(self, wanted: str) -> EngineError:
        return EngineError(f"server engine {self._url}: a completion without what was asked for; wanted {wanted}")
