"""The routes of OpenAI's chat and text completions, answered by the session that a request's key opens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from alignkit.errors import EngineError
from alignkit.rollout.gateway.session import Session
from alignkit.rollout.gateway.wire import (
    MODEL,
    Asked,
    ChatAsked,
    Refusal,
    TextAsked,
    chat_answer,
    streamed,
    text_answer,
)

MOST_BYTES = 32 * 2**20
"""Of a request's body."""
Find = Callable[[str], tuple[Session, asyncio.AbstractEventLoop]]
Ask = Callable[[Session, Any], Coroutine[Any, Any, dict[str, Any]]]


def build_app(find: Find) -> FastAPI:
    """The application. find: the session of an `Authorization` header and the loop that it samples in, else Refusal."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(find, request, ChatAsked, _chat)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(find, request, TextAsked, _text)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        try:
            find(request.headers.get("authorization", ""))
        except Refusal as refusal:
            return JSONResponse(refusal.body, refusal.status)
        one = {"id": MODEL, "object": "model", "created": 0, "owned_by": "alignkit"}
        return JSONResponse({"object": "list", "data": [one]})

    return app


async def _answer(find: Find, request: Request, model: type[Asked], ask: Ask) -> Response:
    try:
        session, loop = find(request.headers.get("authorization", ""))
        asked = model.model_validate_json(await _body(request))
        asked.check()
        whole = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(session, asked), loop))
    except Refusal as refusal:
        return JSONResponse(refusal.body, refusal.status)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        return JSONResponse(Refusal(400, "body", f"{place}: {first['msg']}").body, 400)
    except EngineError as error:
        return JSONResponse(Refusal(500, "engine", str(error)).body, 500)
    if not asked.stream:
        return JSONResponse(whole)
    usage = bool((asked.stream_options or {}).get("include_usage"))
    return StreamingResponse(streamed(whole, usage=usage), media_type="text/event-stream")


async def _chat(session: Session, asked: ChatAsked) -> dict[str, Any]:
    call = await session.chat(asked.conversation(), asked.offered(), longest=asked.longest)
    return chat_answer(call, asked, _tokens(session, call.completion.token_ids))


async def _text(session: Session, asked: TextAsked) -> dict[str, Any]:
    call = await session.complete(asked.one(), longest=asked.longest)
    return text_answer(call, asked, _tokens(session, call.completion.token_ids))


def _tokens(session: Session, ids: Sequence[int]) -> list[str]:
    return [session.renderer.tokenizer.decode([token]) for token in ids]


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refusal(413, "body", f"the body is larger than {MOST_BYTES} bytes; send less")
    return bytes(body)
