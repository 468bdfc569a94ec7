"""A reward as an HTTP service. Every route, known or not, asks for the token first."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError

from alignkit.errors import RewardError
from alignkit.rewards.serve.connections import TRUST
from alignkit.rewards.serve.openrlhf import OpenRlhfRequest, groups_from_openrlhf
from alignkit.rewards.serve.wire import ScoreRequest, first_problem, group_from_wire, printable, score_to_wire
from alignkit.types.rollout import Rollout
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task

LOG = logging.getLogger("alignkit.serve")


class RolloutScorer(Protocol):
    """A RewardPool or a Batcher."""

    @property
    def per_rollout(self) -> bool: ...

    async def score(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]: ...


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """body_bytes: of one request. body_s: seconds in which it must have arrived. queue: completions being scored or
    waiting; more are turned away with 503, which clients try again."""

    body_bytes: int = 64 * 2**20
    body_s: float = 30.0
    queue: int = 20_000


class Service:
    """What the routes do, and the counts that /health shows."""

    def __init__(self, scorer: RolloutScorer, *, reward: str, fingerprint: str, queue: int):
        self._scorer, self._reward, self._fingerprint, self._queue = scorer, reward, fingerprint, queue
        self._waiting = self._scored = self._unscorable = 0

    async def health(self) -> Response:
        told = {"status": "ok", "reward": self._reward, "fingerprint": self._fingerprint}
        counts = {"waiting": self._waiting, "scored": self._scored, "unscorable": self._unscorable}
        return _json({**told, "per_rollout": self._scorer.per_rollout, **counts})

    async def score(self, request: Request) -> Response:
        body = _read(ScoreRequest, await request.body())
        scores = await self._scores([group_from_wire(group) for group in body.groups])
        wire = [[score_to_wire(score, self._reward) for score in group] for group in scores]
        return _json({"reward": self._reward, "fingerprint": self._fingerprint, "scores": wire})

    async def get_reward(self, request: Request) -> Response:
        """OpenRLHF's shape, which knows numbers only: one unscorable completion fails the request, because a made-up
        number would train the policy on nothing."""
        try:
            groups = groups_from_openrlhf(_read(OpenRlhfRequest, await request.body()))
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        scores = [score for [score] in await self._scores(groups)]
        values = [score.value for score in scores]
        if None in values:
            fault = next(score.fault for score in scores if score.value is None)
            told = f"{values.count(None)} of {len(values)} completions could not be scored"
            raise HTTPException(
                502, f"{told}; the first: {_cause(fault, labelled=any(t.reference is not None for t, _ in groups))}"
            )
        return _json({"rewards": values, "scores": values, "extra_logs": {self._reward: values}})

    async def _scores(self, groups: list[tuple[Task, list[Rollout]]]) -> list[list[Score]]:
        count = sum(len(rollouts) for _, rollouts in groups)
        if self._waiting + count > self._queue:
            message = f"{self._waiting} completions wait already; at most {self._queue}"
            raise HTTPException(503, message, headers={"Retry-After": "1"})
        self._waiting += count
        try:
            scores = await self._scorer.score(groups)
        except RewardError as error:
            raise HTTPException(503, str(error)) from error
        finally:
            self._waiting -= count
        self._scored += count
        self._unscorable += sum(score.value is None for group in scores for score in group)
        return scores


def build_app(
    scorer: RolloutScorer, *, reward: str, token: str, fingerprint: str = "", limits: ServerLimits | None = None
) -> FastAPI:
    """The application: GET /health, POST /score, POST /get_reward (OpenRLHF's shape).

    token: wanted on every route as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic for clients that
    can only put it into their URL. fingerprint: of the reward, its options and code; clients remember scores under it.
    Raises RewardError for a token of less than 16 characters.
    """
    if len(token) < 16:
        raise RewardError(f"the token has {len(token)} characters; wanted at least 16: set ALIGNKIT_TOKEN")
    limits = limits or ServerLimits()
    service = Service(scorer, reward=reward, fingerprint=fingerprint, queue=limits.queue)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/score", service.score, methods=["POST"])
    app.add_api_route("/get_reward", service.get_reward, methods=["POST"])
    _answer_errors(app)
    app.add_middleware(Gate, token=token, limits=limits)
    return app


class Gate:
    """Outermost layer: the token, then the whole body within its limits, then the application."""

    def __init__(self, app: Any, *, token: str, limits: ServerLimits):
        self._app, self._token, self._limits = app, token.encode(), limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: 403
            return
        headers = dict(scope["headers"])
        if headers.get(b"upgrade", b"").lower() == b"websocket":
            await _json({"error": "there are no WebSockets here"}, 403, {"Connection": "close"})(scope, receive, send)
            return
        if not self._knows_token(headers.get(b"authorization", b"")):
            refusal = _json({"error": "the token is missing or wrong"}, 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        scope.get("state", {}).get(TRUST, _nothing)()
        try:
            async with asyncio.timeout(self._limits.body_s):
                body = await self._body(receive)
        except TimeoutError:
            await _json({"error": "the body did not arrive in time"}, 408)(scope, receive, send)
            return
        if body is None:
            message = f"the body is larger than {self._limits.body_bytes} bytes"
            await _json({"error": message}, 413, {"Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _knows_token(self, header: bytes) -> bool:
        scheme, _, given = header.partition(b" ")
        if scheme.lower() == b"basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(given.strip(), self._token)

    async def _body(self, receive: Any) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self._limits.body_bytes:
                return None
            if not message.get("more_body"):
                return bytes(body)


def _nothing() -> None:
    """For servers that do not keep their connections by `Connections`."""


def _replay(body: bytes, receive: Any) -> Any:
    """What the application receives: the body that was read already, then whatever else the client does."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def next_message() -> Any:
        return next(messages, None) or await receive()

    return next_message


def _cause(fault: Fault | None, *, labelled: bool) -> str:
    """The fault in one line. A reference that cannot be read is first of all one that was not sent."""
    if fault is None:
        return "no cause given"
    told = ": ".join(filter(None, (f"{fault.kind.value} in {fault.where}", printable(fault.message))))
    missing = "the request has no labels, and this reward compares with a reference"
    return f"{told}; {missing}" if fault.kind is FaultKind.GOLD and not labelled else told


def _read(model: type[Any], body: bytes) -> Any:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, first_problem(error)) from error


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(value), status, headers, media_type="application/json")


def _answer_errors(app: FastAPI) -> None:
    """Every error as {"error": one line}; an unforeseen one with a number that the server's log has, too."""

    @app.exception_handler(404)
    @app.exception_handler(405)
    @app.exception_handler(HTTPException)
    async def told(_: Request, error: Any) -> Response:
        return _json({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Any) -> Response:
        return _json({"error": "the request is not valid"}, 422)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        number = secrets.token_hex(4)
        LOG.error("request %s failed: %s: %s", number, type(error).__name__, error)
        return _json({"error": f"the server failed; its log says why under {number}"}, 500)
