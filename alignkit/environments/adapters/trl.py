"""TRL's environments unchanged: a class with `reset(**row)`, whose public methods are tools, and perhaps `get_reward`.

The contract is that of `environment_factory` in trl 1.16 (trl/trainer/grpo_trainer.py): what `reset` returns is put
behind the last message of the prompt, the methods are called as tools are, and `get_reward` is asked once, when the
policy calls no more tools or the episode is cut.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from alignkit.environments.base import Observation
from alignkit.environments.tool_use import ToolUse
from alignkit.environments.toolbox import Toolbox
from alignkit.errors import ContentError
from alignkit.types.task import Message, Task

OWN = ("reset", "get_reward")


def is_trl(one: Any) -> bool:
    """Whether an object is an environment as TRL has them."""
    return callable(getattr(type(one), "reset", None)) and not hasattr(one, "start")


class TrlEnvironment(ToolUse):
    """Fulfils ToolEnvironment over one of TRL's. tools: functions beside its own methods."""

    def __init__(
        self, one: Any, tools: Sequence[Callable[..., Any]] = (), *, deadline_s: float = 30.0, characters: int = 8000
    ):
        functions = [*tools, *methods(one)]
        if not functions:
            raise ContentError(f"{type(one).__name__} has no public method that the policy could call; add one")
        super().__init__(Toolbox.of(functions, deadline_s=deadline_s, characters=characters))
        self._one = one
        self.pays = hasattr(one, "get_reward")

    async def start(self, task: Task, seed: int) -> Observation:
        begun = await super().start(task, seed)
        said = await _done(self._one.reset(**_row(task)))
        if said is None:
            return begun
        if not isinstance(said, str):
            raise TypeError(f"reset returned {type(said).__name__}; wanted text or None")
        last = begun.messages[-1]
        with_it: Message = {**last, "content": last["content"] + said}
        return replace(begun, messages=(*begun.messages[:-1], with_it))

    async def answer(self, message: Message) -> Observation:
        if message.get("tool_calls"):
            return await super().answer(message)
        return replace(await self.cut(), done=True)

    async def cut(self) -> Observation:
        get_reward = getattr(self._one, "get_reward", None)
        paid = 0.0 if get_reward is None else await _done(get_reward())
        if paid is None:
            raise TypeError("get_reward returned None; wanted a number")
        return Observation(reward=float(paid))


def methods(one: Any) -> list[Callable[..., Any]]:
    """The tools of one of TRL's environments: its public methods, sorted by name, but the two that TRL calls itself."""
    names = [name for name, _ in inspect.getmembers(type(one), inspect.isfunction)]
    return [getattr(one, name) for name in names if not name.startswith("_") and name not in OWN]


def _row(task: Task) -> dict[str, Any]:
    """The row of the data, as TRL hands it over: every column, the prompt and the reference among them."""
    prompt = task.text if task.messages is None else [dict(message) for message in task.messages]
    return {"prompt": prompt, "reference": task.reference, **task.columns}


async def _done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
