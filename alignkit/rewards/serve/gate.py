"""What stands before every service: the token first, then the whole body within limits, then errors in one line."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import secrets
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError

from alignkit.errors import RewardError
from alignkit.rewards.serve.connections import TRUST
from alignkit.rewards.serve.wire import first_problem

LOG = logging.getLogger("alignkit.serve")


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """body_bytes: of one request. body_s: seconds in which it must have arrived. queue: completions being scored or
    waiting; more are turned away with 503, which clients try again."""

    body_bytes: int = 64 * 2**20
    body_s: float = 30.0
    queue: int = 20_000


def guarded_app(token: str, limits: ServerLimits, lifespan: Any = None) -> FastAPI:
    """An application without routes, behind the gate.

    token: wanted on every route as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic for clients that can
    only put it into their URL. lifespan: what runs beside it, as FastAPI has it.
    Raises RewardError for a token of less than 16 characters.
    """
    if len(token) < 16:
        raise RewardError(f"the token has {len(token)} characters; wanted at least 16: set ALIGNKIT_TOKEN")
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
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
            refusal = json_response({"error": "there are no WebSockets here"}, 403, {"Connection": "close"})
            await refusal(scope, receive, send)
            return
        if not self._knows_token(headers.get(b"authorization", b"")):
            refusal = json_response({"error": "the token is missing or wrong"}, 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        scope.get("state", {}).get(TRUST, _nothing)()
        try:
            async with asyncio.timeout(self._limits.body_s):
                body = await self._body(receive)
        except TimeoutError:
            await json_response({"error": "the body did not arrive in time"}, 408)(scope, receive, send)
            return
        if body is None:
            message = f"the body is larger than {self._limits.body_bytes} bytes"
            await json_response({"error": message}, 413, {"Connection": "close"})(scope, receive, send)
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


def read_body(model: type[Any], body: bytes) -> Any:
    """The body as a pydantic model; an HTTPException of 422 where it is none."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, first_problem(error)) from error


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON value as an answer."""
    return Response(json.dumps(value), status, headers, media_type="application/json")


def _answer_errors(app: FastAPI) -> None:
    """Every error as {"error": one line}; an unforeseen one with a number that the server's log has, too."""

    @app.exception_handler(404)
    @app.exception_handler(405)
    @app.exception_handler(HTTPException)
    async def told(_: Request, error: Any) -> Response:
        return json_response({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Any) -> Response:
        return json_response({"error": "the request is not valid"}, 422)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        number = secrets.token_hex(4)
        LOG.error("request %s failed: %s: %s", number, type(error).__name__, error)
        return json_response({"error": f"the server failed; its log says why under {number}"}, 500)
