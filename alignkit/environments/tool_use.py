"""Tools around an environment, or around a task alone: calls are answered by their results."""

from __future__ import annotations

from dataclasses import replace

from alignkit.environments.base import Environment, Observation
from alignkit.environments.toolbox import Toolbox
from alignkit.types.task import Message, Task


class ToolUse:
    """Fulfils ToolEnvironment: the conversation goes on while the policy calls tools.

    inner: what is told an utterance without calls; None: such an utterance is the answer to the task, and the end.
    """

    def __init__(self, toolbox: Toolbox, inner: Environment | None = None):
        self._toolbox, self._inner = toolbox, inner
        self.pays = inner is not None

    async def start(self, task: Task, seed: int) -> Observation:
        tools = self._toolbox.schemas
        if self._inner is None:
            asked = task.messages or (Message(role="user", content=task.text or ""),)
            return Observation(messages=asked, tools=tools)
        seen = await self._inner.start(task, seed)
        return replace(seen, tools=tools)

    async def step(self, text: str) -> Observation:
        return await self.answer(Message(role="assistant", content=text))

    async def answer(self, message: Message) -> Observation:
        calls = message.get("tool_calls", [])
        if calls:
            results = await self._toolbox.call(calls)
            return Observation(
                messages=tuple(Message(role="tool", name=one.name, content=one.text) for one in results),
                tool_faults=tuple(one.fault for one in results if one.fault is not None),
            )
        if self._inner is None:
            return Observation(done=True)
        return await self._inner.step(message["content"])

    async def cut(self) -> Observation:
        return Observation()

    def close(self) -> None:
        getattr(self._inner, "close", lambda: None)()
