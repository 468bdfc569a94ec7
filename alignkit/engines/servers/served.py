"""A replica server as the trainer sees it: asked over HTTP, and gone when it does not answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from alignkit.engines.engine import Part
from alignkit.engines.wire import completion_from_wire, request_to_wire
from alignkit.errors import EngineError, RewardError
from alignkit.rewards.serve.endpoint import Endpoint, EndpointError
from alignkit.types.rollout import Completion, Request

ANSWER_S = 3600.0
LARGEST = 2**30  # bytes of an answer
LOOK_S, LOOKS = 5.0, 3  # a server that is asked for longer is asked whether it is there


class ServedReplica:
    """Fulfils engines.fleet.Replica. url: at which it has registered itself. instance: changes when it starts anew.
    run: of the trainer, so that the weights of another run of the same number are not taken for this one's.

    Raises EngineError for a url that cannot be asked. After any failure of the server it is closed.
    """

    def __init__(self, url: str, *, instance: str, run: str, version: int, token: str, ca_file: str | None = None):
        self.name, self.instance, self.closed = f"replica {url}", instance, False
        self.policy_version = version
        self._run = run
        try:
            self._endpoint, self._watch = (
                Endpoint(
                    url,
                    token=token,
                    timeout_s=timeout_s,
                    attempts=attempts,
                    concurrency=256,
                    allow_private=True,
                    ca_file=ca_file,
                    largest=LARGEST,
                )
                for timeout_s, attempts in ((ANSWER_S, 2), (LOOK_S, LOOKS))
            )
        except RewardError as error:
            raise EngineError(f"replica: {error}") from error

    async def sample(self, request: Request) -> Completion:
        return (await self._sample([request], lockstep=False))[0]

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return await self._sample(requests, lockstep=True)

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return (await self._ask("/score", {"sequences": [list(ids) for ids in sequences]}))["scores"]

    def take(self, message: dict[str, Any]) -> dict[str, Any]:
        version = message["version"]
        told = asyncio.run(self._ask("/update", {}, version=version))
        self.policy_version = version
        return told

    def sleep(self) -> None:
        """Does nothing: its memory is its own."""

    def wake(self, part: Part) -> None:
        """Does nothing."""

    def close(self) -> None:
        """It is asked no more; the server goes on, for the next run."""
        self.closed = True

    async def _sample(self, requests: Sequence[Request], *, lockstep: bool) -> list[Completion]:
        wanted = self.policy_version
        told = await self._ask(
            "/sample", {"lockstep": lockstep, "requests": [request_to_wire(one) for one in requests]}
        )
        try:
            said = [completion_from_wire(one) for one in told["completions"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._failed(f"answered what is no completion: {error}") from error
        if len(said) != len(requests) or any(one.versions != ((0, wanted),) for one in said):
            raise self._failed(f"answered other completions than {len(requests)} of version {wanted}")
        return said

    async def _ask(self, path: str, body: dict[str, Any], version: int | None = None) -> dict[str, Any]:
        """Its answer. Raises EngineError; the replica is closed then, unless it only refuses what it was asked."""
        content = json.dumps({"run": self._run, "version": self.policy_version if version is None else version, **body})
        try:
            asked = self._endpoint.post(path, content.encode(), until=time.monotonic() + ANSWER_S)
            told = await self._while_it_is_there(asked)
        except EndpointError as error:
            raise self._failed(str(error)) from error
        if not isinstance(told, dict):
            raise self._failed("answered something that is no object")
        if "refused" in told:
            raise EngineError(str(told["refused"]))
        return told

    async def _while_it_is_there(self, answer: Awaitable[Any]) -> Any:
        """The answer, unless the server is silent meanwhile: a lost machine closes no connection."""
        asked, watched = asyncio.ensure_future(answer), asyncio.ensure_future(self._silence())
        try:
            await asyncio.wait({asked, watched}, return_when=asyncio.FIRST_COMPLETED)
            return await (asked if asked.done() else watched)
        finally:
            for task in (asked, watched):
                task.cancel()
            await asyncio.gather(asked, watched, return_exceptions=True)

    async def _silence(self) -> None:
        """Ends, by EndpointError, when the server does not say that it is there."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self._watch.get("/health", until=time.monotonic() + LOOK_S * LOOKS)

    def _failed(self, why: str) -> EngineError:
        self.closed = True
        return EngineError(why)
