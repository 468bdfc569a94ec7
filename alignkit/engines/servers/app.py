"""The trainer's side of a fleet over HTTP: who registers, what to start, and the weights of now."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from alignkit.engines.servers.registry import Changed, Registry
from alignkit.errors import EngineError
from alignkit.rewards.serve.gate import ServerLimits, guarded_app, json_response, read_body

MOST_BYTES = 32 * 2**20  # of the weights, in one answer


class Registration(BaseModel):
    """What a replica says of itself. run, version: of the weights that it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(max_length=300)
    instance: str = Field(max_length=100)
    fingerprint: str = Field(max_length=100)
    run: str = Field(max_length=100)
    version: int


def fleet_app(registry: Registry, token: str) -> FastAPI:
    """GET /engine, GET /weights/VERSION/digests, GET /weights/VERSION/BEGIN/END, POST /register; all want the token.

    Weights of another version than the one that lies ready are a 409.
    """
    app = guarded_app(token, ServerLimits(body_bytes=2**16))

    async def engine() -> Response:
        return json_response({"run": registry.run, "version": registry.version, **registry.description.as_json()})

    async def register(request: Request) -> Response:
        told = read_body(Registration, await request.body())
        try:
            return json_response(registry.register(**told.model_dump()))
        except EngineError as error:
            raise HTTPException(409, str(error)) from error

    async def digests(version: int) -> Response:
        try:
            return json_response(await asyncio.to_thread(registry.digests, version))
        except Changed as error:
            raise HTTPException(409, str(error)) from error

    async def weights(version: int, begin: int, end: int) -> Response:
        if not 0 <= begin < end <= registry.description.table["size"] or end - begin > MOST_BYTES:
            raise HTTPException(422, f"there are no bytes {begin} to {end}, or more than {MOST_BYTES} are asked for")
        try:
            content = await asyncio.to_thread(registry.read, version, begin, end)
        except Changed as error:
            raise HTTPException(409, str(error)) from error
        return Response(content, media_type="application/octet-stream")

    app.add_api_route("/engine", engine, methods=["GET"])
    app.add_api_route("/register", register, methods=["POST"])
    app.add_api_route("/weights/{version}/digests", digests, methods=["GET"])
    app.add_api_route("/weights/{version}/{begin}/{end}", weights, methods=["GET"])
    return app
