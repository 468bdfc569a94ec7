"""OpenEnv's wire: a session per episode, actions by their schema, tools, refusals and closed doors by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from alignkit.environments.adapters.openenv import OpenEnv
from alignkit.environments.base import Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

TASK = Task(id="t", text="q", reference="7", columns={"level": 3})
TEXT = {"message": {"type": "string"}, "metadata": {"type": "object"}}
TOOL = {
    "name": "add",
    "description": "Adds.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


class Server:
    """Speaks as OpenEnv's server does, with sessions of its own; `seen` has every message."""

    def __init__(self, schema: Any):
        self.schema, self.seen, self.closed = schema, [], 0

    async def talk(self, socket: Any) -> None:
        async for raw in socket:
            asked = json.loads(raw)
            self.seen.append(asked)
            await socket.send(json.dumps(self.answer(asked)))
            if asked["data"].get("message") == "die":
                await socket.close(1011)
        self.closed += 1

    def answer(self, asked: Any) -> Any:
        data = asked["data"]
        if asked["type"] == "reset":
            return told({"prompt": f"level {data.get('level')}", "tries": 0, "metadata": {}})
        if data.get("type") == "list_tools":
            return told({"tools": [TOOL]})
        if data.get("type") == "call_tool":
            if data["tool_name"] != "add":
                return told({"error": {"error_type": "tool_not_found", "message": "no such tool"}, "result": None})
            content = [{"type": "text", "text": str(data["arguments"]["a"] + 1)}]
            return told({"result": {"content": content}, "error": None}, reward=0.5, done=data["arguments"]["a"] > 8)
        if set(data) != {"message"}:
            return {"type": "error", "data": {"message": "Invalid message", "code": "VALIDATION_ERROR", "errors": []}}
        return told({"prompt": data["message"], "metadata": {"n": 1}}, reward=-0.25, done=data["message"] == "end")


def told(observation: Any, *, reward: Any = None, done: bool = False) -> Any:
    data = {"observation": observation, "reward": reward, "done": done, "metadata": observation.get("metadata") or None}
    return {"type": "observation", "data": {name: value for name, value in data.items() if name != "metadata" or value}}


def over(schema: Any, play: Callable[[str], Awaitable[Any]]) -> tuple[Any, Server]:
    """What a play comes to against a server whose actions have these fields."""
    from http import HTTPStatus

    from websockets.asyncio.server import serve
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    server = Server(schema)

    def page(connection: Any, request: Any) -> Any:
        if request.path == "/schema":
            body = json.dumps({"action": {"properties": schema}}).encode()
            headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
            return Response(HTTPStatus.OK, "OK", headers, body)
        return None

    async def run() -> Any:
        async with serve(server.talk, "127.0.0.1", 0, process_request=page) as listening:
            port = listening.sockets[0].getsockname()[1]
            result = await play(f"http://127.0.0.1:{port}")
            await asyncio.sleep(0.05)
            return result

    return asyncio.run(run()), server


def test_the_only_text_of_an_action_is_what_the_policy_says_and_the_task_fills_the_reset():
    async def play(url: str) -> list[Observation]:
        one = OpenEnv(url=url, reset={"level": "{level}", "mode": "easy"})
        seen = [await one.start(TASK, 2**40 + 5), await one.step("hi"), await one.step("end")]
        one.close()
        return seen

    (first, second, third), server = over(TEXT, play)
    assert server.seen[0] == {"type": "reset", "data": {"seed": 5, "level": 3, "mode": "easy"}}
    assert server.seen[1] == {"type": "step", "data": {"message": "hi"}}
    assert (first.text, first.reward) == ("level 3", 0.0)
    assert json.loads(json.dumps(first.text)) == "level 3"
    assert (second.text, second.reward, second.done, second.info) == ("hi", -0.25, False, {"n": 1})
    assert third.done
    assert server.closed == 1, "the episode's session is closed"


def test_an_action_of_several_fields_is_written_as_json_and_what_is_none_is_told():
    async def play(url: str) -> list[Observation]:
        one = OpenEnv(url=url)
        await one.start(TASK, 1)
        return [await one.step("left"), await one.step('{"message": "go"}')]

    (refused, taken), server = over({**TEXT, "speed": {"type": "number"}}, play)
    assert refused.info == {"malformed": 1}
    assert "JSON object" in refused.text
    assert (taken.text, taken.reward) == ("go", -0.25)
    assert len(server.seen) == 2


def test_tools_of_a_server_are_offered_and_called_there_with_their_faults():
    call = {"tool_name": {"type": "string"}, "arguments": {"type": "object"}, "type": {"const": "call_tool"}}

    def calls(*named: tuple[str, dict[str, Any]]) -> Any:
        made = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in named]
        return {"role": "assistant", "content": "", "tool_calls": made}

    async def play(url: str) -> list[Observation]:
        one = OpenEnv(url=url)
        return [
            await one.start(TASK, 1),
            await one.answer(calls(("add", {"a": 1}), ("sub", {}))),
            await one.answer(calls(("add", {"a": 9}))),
            await one.answer({"role": "assistant", "content": "done"}),
        ]

    (first, second, third, last), _ = over(call, play)
    assert first.tools[0]["function"]["name"] == "add"
    assert first.tools[0]["function"]["parameters"] == TOOL["input_schema"]
    assert second.messages[0]["content"] == "2"
    assert "tool_not_found" in second.messages[1]["content"]
    assert second.tool_faults == ("tool_not_found",)
    assert second.reward == 0.5
    assert third.done
    assert last.done


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('{"wrong": 1}', "refuses step: VALIDATION_ERROR: Invalid message"),
        ('{"message": "die"}', "closed the connection"),
    ],
)
def test_what_goes_wrong_on_the_wire_is_raised_with_the_servers_words(said: str, told: str):
    async def play(url: str) -> str:
        one = OpenEnv(url=url)
        await one.start(TASK, 1)

        async def twice() -> None:
            for _ in range(2):
                await one.step(said)

        with pytest.raises(EpisodeError, match=told) as raised:
            await twice()
        return str(raised.value)

    words, _ = over({**TEXT, "speed": {"type": "number"}}, play)
    assert "http://127.0.0.1" in words


def test_no_server_a_wrong_address_and_a_missing_column_are_named():
    with pytest.raises(EpisodeError, match=r"no server answers at http://127\.0\.0\.1:9"):
        asyncio.run(OpenEnv(url="http://127.0.0.1:9").start(TASK, 1))
    with pytest.raises(EpisodeError, match="url is 'localhost:8000'"):
        OpenEnv(url="localhost:8000")

    async def play(url: str) -> None:
        await OpenEnv(url=url, reset={"x": "{colour}"}).start(TASK, 1)

    with pytest.raises(EpisodeError, match="the column 'colour'"):
        over(TEXT, play)
