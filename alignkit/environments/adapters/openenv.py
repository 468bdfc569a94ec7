"""Environments that OpenEnv serves, over its WebSocket protocol; its package cannot stand beside vLLM's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from alignkit.environments.base import Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Message, Task

LARGEST = 2**24
"""Bytes of one message from the server."""
PLUMBING = ("metadata", "type", "done", "reward")
"""Fields of actions and observations that are the protocol's own."""
SEEDS = 2**31


class OpenEnv:
    """One episode on a server, in a session of its own.

    url: of the server (`http://127.0.0.1:8000`). action: the field that takes what the policy says; None: the only text
    that an action needs, else the policy writes the whole action as a JSON object. observation: the field that the
    policy reads; None: the only text among them, else all of them as JSON. reset: more for the server's reset; columns
    of the task by the names that it takes stand there as `{column}`.
    A server of tools (MCP) shows them to the policy, and its calls are made there.
    Raises EpisodeError for what the server refuses; it names the server and says its words.
    """

    def __init__(
        self,
        *,
        url: str,
        action: str | None = None,
        observation: str | None = None,
        reset: Mapping[str, Any] | None = None,
    ):
        place = urlsplit(url)
        if place.scheme not in ("http", "https", "ws", "wss") or not place.netloc:
            raise EpisodeError(f"openenv: url is {url!r}; wanted one such as http://127.0.0.1:8000")
        secure = "s" if place.scheme in ("https", "wss") else ""
        rest = place.netloc + place.path.rstrip("/").removesuffix("/ws")
        self._socket_url, self._http = f"ws{secure}://{rest}/ws", f"http{secure}://{rest}"
        self._action, self._observation, self._reset = action, observation, dict(reset or {})
        self._socket: Any = None
        self._tools: list[Mapping[str, Any]] = []

    async def start(self, task: Task, seed: int) -> Observation:
        from websockets.asyncio.client import connect

        try:
            self._socket = await connect(self._socket_url, max_size=LARGEST, ping_timeout=None)
        except OSError as error:
            raise EpisodeError(f"openenv: no server answers at {self._http} ({error}); start it first") from error
        given = {name: _filled(value, task) for name, value in self._reset.items()}
        told = await self._asked("reset", {"seed": seed % SEEDS, **given})
        fields = await self._action_fields()
        if {"tool_name", "arguments"} <= fields.keys():
            self._tools = await self._listed()
        elif self._action is None:
            texts = [name for name, schema in fields.items() if schema.get("type") == "string"]
            self._action = texts[0] if len(texts) == len(fields) == 1 else None
        return self._seen(told, first=True)

    async def step(self, text: str) -> Observation:
        if self._action is not None:
            return self._seen(await self._asked("step", {self._action: text}))
        try:
            action = json.loads(text)
        except ValueError:
            action = None
        if not isinstance(action, dict):
            return Observation(text="That is no action: write one as a JSON object.", info={"malformed": 1})
        return self._seen(await self._asked("step", action))

    async def answer(self, message: Message) -> Observation:
        """Makes the calls of a message, one after another; a message without any ends the episode."""
        calls = message.get("tool_calls", ())
        if not calls:
            return Observation(text="", done=True)
        results: list[Message] = []
        faults: list[str] = []
        reward, done = 0.0, False
        for call in calls:
            function = call["function"]
            asked = {"type": "call_tool", "tool_name": function["name"], "arguments": dict(function["arguments"])}
            told = await self._asked("step", asked)
            seen = told.get("observation") or {}
            failed = seen.get("error")
            if failed:
                faults.append(str(failed.get("error_type", "failed")) if isinstance(failed, Mapping) else "failed")
            content = json.dumps(failed) if failed else _result(seen.get("result"))
            results.append({"role": "tool", "name": function["name"], "content": content})
            reward += _reward(told)
            done = done or bool(told.get("done"))
        return Observation(messages=tuple(results), reward=reward, done=done, tool_faults=tuple(faults))

    async def cut(self) -> Observation:
        """Nothing is paid for an episode that is cut."""
        return Observation()

    def close(self) -> None:
        """Ends the session on the server."""
        if self._socket is not None:
            with suppress(RuntimeError):
                self._closing = asyncio.get_running_loop().create_task(self._socket.close())
            self._socket = None

    async def _asked(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        from websockets.exceptions import ConnectionClosed

        if self._socket is None:
            raise EpisodeError(f"openenv: {kind} before the start, or after the end; make a new environment")
        try:
            await self._socket.send(json.dumps({"type": kind, "data": data}))
            answer = json.loads(await self._socket.recv())
        except ConnectionClosed as error:
            raise EpisodeError(f"openenv: {self._http} closed the connection at {kind}: {error}") from error
        except ValueError as error:
            raise EpisodeError(f"openenv: {self._http} answered {kind} with what is no JSON") from error
        if answer.get("type") == "error":
            said = answer.get("data") or {}
            more = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in said.get("errors", ())[:3])
            what = ": ".join(filter(None, (str(said.get("code", "")), str(said.get("message", "")), more)))
            raise EpisodeError(f"openenv: {self._http} refuses {kind}: {what}")
        return answer.get("data") or {}

    async def _action_fields(self) -> dict[str, Any]:
        """What an action of the server has to say, by name, as JSON schemas; {} where it does not tell."""
        import httpx

        try:
            async with httpx.AsyncClient(timeout=10) as client:
                schema = (await client.get(f"{self._http}/schema")).json()
            fields = schema["action"]["properties"]
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return {}
        return {name: one for name, one in fields.items() if name not in PLUMBING}

    async def _listed(self) -> list[Mapping[str, Any]]:
        told = await self._asked("step", {"type": "list_tools"})
        return [
            {
                "type": "function",
                "function": {
                    "name": tool["name"],
                    "description": tool.get("description", ""),
                    "parameters": tool.get("input_schema") or {"type": "object", "properties": {}},
                },
            }
            for tool in (told.get("observation") or {}).get("tools", ())
        ]

    def _seen(self, told: Mapping[str, Any], *, first: bool = False) -> Observation:
        fields = {k: v for k, v in (told.get("observation") or {}).items() if k not in PLUMBING and v is not None}
        info = told.get("metadata") if isinstance(told.get("metadata"), Mapping) else {}
        return Observation(
            text=self._text(fields),
            tools=tuple(self._tools) if first else (),
            reward=0.0 if first else _reward(told),
            done=bool(told.get("done")),
            info=info or {},
        )

    def _text(self, fields: Mapping[str, Any]) -> str:
        if self._observation is not None:
            if self._observation not in fields:
                have = ", ".join(fields) or "none"
                raise EpisodeError(f"openenv: the observation has no field '{self._observation}'; it has {have}")
            value = fields[self._observation]
            return value if isinstance(value, str) else json.dumps(value)
        texts = [value for value in fields.values() if isinstance(value, str)]
        return texts[0] if len(texts) == 1 else json.dumps(fields)


def openenv(
    *, url: str, action: str | None = None, observation: str | None = None, reset: Mapping[str, Any] | None = None
) -> OpenEnv:
    """One episode on the OpenEnv server at `url`."""
    return OpenEnv(url=url, action=action, observation=observation, reset=reset)


def _filled(value: Any, task: Task) -> Any:
    """`{column}` as the task's own; else the value as it is."""
    if not (isinstance(value, str) and value.startswith("{") and value.endswith("}")):
        return value
    name = value[1:-1]
    own = {"prompt": task.text, "reference": task.reference, "id": task.id}
    if name not in {**task.columns, **own}:
        raise EpisodeError(f"openenv: reset asks for the column '{name}', which the task lacks")
    return {**own, **task.columns}[name]


def _reward(told: Mapping[str, Any]) -> float:
    reward = told.get("reward")
    return 0.0 if reward is None else float(reward)


def _result(value: Any) -> str:
    """A tool's result as the policy reads it: MCP's text parts one after another, anything else as JSON."""
    if isinstance(value, Mapping) and isinstance(value.get("content"), Sequence):
        parts = [part.get("text") for part in value["content"] if isinstance(part, Mapping)]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    data = value.get("data", value) if isinstance(value, Mapping) else value
    return data if isinstance(data, str) else json.dumps(data)
