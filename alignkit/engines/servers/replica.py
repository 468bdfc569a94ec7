"""A replica of a fleet in a process of its own: it pulls the trainer's weights, registers itself, and samples."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from alignkit.engines.engine import Engine
from alignkit.engines.servers.description import Description
from alignkit.engines.servers.pull import pull
from alignkit.engines.wire import completion_to_wire, request_from_wire
from alignkit.errors import EngineError
from alignkit.rewards.serve.endpoint import Endpoint, EndpointError
from alignkit.rewards.serve.gate import ServerLimits, guarded_app, json_response, read_body
from alignkit.types.score import FaultKind
from alignkit.weights.shared_weights import Table

if TYPE_CHECKING:
    from torch import Tensor

LOG = logging.getLogger("alignkit.fleet")
REGISTER_S = 1.0  # between two times that it says that it is there
ATTEMPTS = 20  # to pull weights that change meanwhile
LIMITS = ServerLimits(body_bytes=2**28, body_s=120.0)

Start = Callable[[Description, Iterable[tuple[str, "Tensor"]], int], Engine]
"""A description, the weights of a version and its number -> the engine."""


class _Asked(BaseModel):
    """What every question says: of which run's weights, and of which version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    version: int


class _Sample(_Asked):
    lockstep: bool
    requests: list[dict[str, Any]]


class _Score(_Asked):
    sequences: list[list[int]]


class ReplicaServer:
    """The engine and what it holds. trainer: the fleet's address. start: makes the engine. patience_s: how long the
    trainer may be away, until this ends.

    Raises EngineError when the trainer cannot be reached, or the engine does not start.
    """

    def __init__(self, trainer: Endpoint, start: Start, *, patience_s: float):
        self._trainer, self._patience_s = trainer, patience_s
        self.instance = secrets.token_hex(8)
        self._ended: str | None = None
        told = asyncio.run(self._asked("/engine"))
        self._run, wanted = told.pop("run"), told.pop("version")
        self._description = Description(**told)
        self._table = Table.from_json(told["table"])
        for attempt in range(ATTEMPTS):
            try:
                self._engine = start(self._description, pull(trainer, self._table, wanted), wanted)
                break
            except EngineError:
                now = asyncio.run(self._asked("/engine"))["version"]
                if now == wanted or attempt == ATTEMPTS - 1:
                    raise
                wanted = now
        self._version: int | None = wanted
        self._sampling, self._updating = 0, asyncio.Lock()

    def app(self, token: str, url: str, gone: Callable[[str], None]) -> FastAPI:
        """GET /health, POST /sample, /score and /update; all want the token. What is asked of weights that it does not
        hold is a 409, and a request that the engine does not take an answer `refused`.

        Beside it the trainer is told, again and again, that it is at `url`. gone: told why it cannot go on.
        """

        @asynccontextmanager
        async def beside(_: FastAPI) -> AsyncGenerator[None]:
            staying = asyncio.create_task(self._keep_registered(url, gone))
            yield
            staying.cancel()

        app = guarded_app(token, LIMITS, beside)
        app.add_api_route("/health", self._health, methods=["GET"])
        app.add_api_route("/sample", self._sample, methods=["POST"])
        app.add_api_route("/score", self._score, methods=["POST"])
        app.add_api_route("/update", self._update, methods=["POST"])
        return app

    async def _keep_registered(self, url: str, gone: Callable[[str], None]) -> None:
        """Says that it is there, and pulls what it has missed."""
        heard = time.monotonic()
        while self._ended is None:
            holds = {"run": self._run, "version": -1 if self._version is None else self._version}
            who = {"url": url, "instance": self.instance, "fingerprint": self._description.fingerprint}
            try:
                until = time.monotonic() + 10
                told = await self._trainer.post("/register", json.dumps({**who, **holds}).encode(), until=until)
                heard = time.monotonic()
                if told["version"] is not None:
                    await self._bring(told["run"], told["version"])
            except EndpointError as error:
                if error.kind is FaultKind.CONTRACT or "token" in str(error):
                    self._ended = str(error)
                elif time.monotonic() - heard > self._patience_s:
                    self._ended = f"the trainer has been away for {self._patience_s:g} s: {error}"
            except EngineError as error:
                if getattr(self._engine, "closed", False):
                    self._ended = str(error)
                LOG.info("%s", error)  # the weights changed while they were pulled: the next answer says to what
            await asyncio.sleep(REGISTER_S)
        gone(self._ended)

    def close(self) -> None:
        self._engine.close()

    async def _asked(self, path: str) -> dict[str, Any]:
        """What the trainer answers, as soon as it has weights that lie ready."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                told = await self._trainer.get(path, until=until)
                if told["version"] is not None:
                    return told
            except EndpointError as error:
                if "token" in str(error) or time.monotonic() > until:
                    raise EngineError(f"replica: {self._trainer.url}: {error}") from error
            await asyncio.sleep(REGISTER_S)

    async def _health(self) -> Response:
        return json_response({"status": "ok", "version": self._version, "run": self._run, "instance": self.instance})

    async def _sample(self, request: Request) -> Response:
        asked = read_body(_Sample, await request.body())
        try:
            wanted = [request_from_wire(one) for one in asked.requests]
        except (KeyError, TypeError, ValueError) as error:
            raise HTTPException(422, f"no request: {error}") from error
        engine = self._engine
        if asked.lockstep:
            said = await self._with(asked, lambda: engine.generate(wanted))
        else:
            said = await self._with(asked, lambda: asyncio.gather(*map(engine.sample, wanted)))
        return (
            said if isinstance(said, Response) else json_response({"completions": list(map(completion_to_wire, said))})
        )

    async def _score(self, request: Request) -> Response:
        asked = read_body(_Score, await request.body())
        said = await self._with(asked, lambda: self._engine.score(asked.sequences))
        return said if isinstance(said, Response) else json_response({"scores": said})

    async def _update(self, request: Request) -> Response:
        asked = read_body(_Asked, await request.body())
        try:
            await self._bring(asked.run, asked.version)
        except EngineError as error:
            raise HTTPException(500, str(error)) from error
        return json_response({"version": self._version, "unknown": list(getattr(self._engine, "unverified", ()))})

    async def _with(self, asked: _Asked, answer: Callable[[], Any]) -> Any:
        """The engine's answer, if it holds the weights that are meant; a refusal where it does not take a request."""
        if (asked.run, asked.version) != (self._run, self._version):
            wanted = f"version {asked.version} of run {asked.run}"
            raise HTTPException(409, f"it holds version {self._version} of run {self._run}, wanted {wanted}")
        self._sampling += 1
        try:
            return await answer()
        except EngineError as error:
            if getattr(self._engine, "closed", False):
                self._ended = str(error)
                raise HTTPException(500, str(error)) from error
            return json_response({"refused": str(error)})
        finally:
            self._sampling -= 1

    async def _bring(self, run: str, version: int) -> None:
        """Pulls and loads a version, unless it is there. Raises EngineError; it holds none then."""
        async with self._updating:
            if (run, version) == (self._run, self._version):
                return
            while self._sampling:  # for a trainer that is gone
                await asyncio.sleep(0.05)
            self._run, self._version = run, None
            weights = pull(self._trainer, self._table, version)
            await asyncio.to_thread(self._engine.update, weights, version=version)
            self._version = version
