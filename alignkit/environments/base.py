"""The protocol of an environment that the policy talks with over several turns, and `Game`, a base for quick ones."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from alignkit.errors import EpisodeError
from alignkit.types.score import FaultKind
from alignkit.types.seeds import child
from alignkit.types.task import Message, Task

PRIVILEGED = "privileged"  # the name in `info` of what training may be told of the episode and the policy never reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the environment answers.

    text: what the policy reads next (it does not see the text of the last one), of a chat as one message of the user.
    messages: what it reads instead in a chat that says more: other roles, results of tools, several at once.
    tools: what it may call from now on, as JSON schemas (types/tools.py); from then on the environment is told messages
    (`ToolEnvironment.answer`). new_context: the policy forgets all that was said before, and reads only this.
    tool_faults: one word for each call of the utterance that failed.
    reward: paid for the utterance that
    led here; 0 for the first one. done: the episode is over. success: whether it counts as solved so far; None where
    the environment does not say. info: anything else, kept out of the policy's
    sight; its numbers and words reach algorithms as `Batch.turn_channels`. Of the first one, `info["privileged"]` is
    what a `privileged_advantage` model is told of the episode: text with the hidden number, the goal, the answer.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    new_context: bool = False
    tool_faults: tuple[str, ...] = ()
    reward: float = 0.0
    done: bool = False
    success: bool | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Environment(Protocol):
    """One episode. Single use: a second `start`, or a `step` before the start or after the end, raises.

    What goes wrong inside (a sandbox that dies, a service that is away) is raised. The driver turns it into a fault of
    the episode, which then leaves the batch; a reward never stands for a failure.
    """

    async def start(self, task: Task, seed: int) -> Observation:
        """Begins the episode: the same task and seed give the same episode for the same utterances."""
        ...

    async def step(self, text: str) -> Observation:
        """Takes the policy's utterance (without special tokens) and answers."""
        ...


@runtime_checkable
class ToolEnvironment(Environment, Protocol):
    """One that offers tools (`Observation.tools`): it is told what was said as a message, with the calls in it."""

    async def answer(self, message: Message) -> Observation:
        """Takes the policy's message and answers. Its calls are in `tool_calls`, in the order in which they were made.

        A call of type `malformed` is what could not be read: its arguments' `problem` says why.
        """
        ...

    async def cut(self) -> Observation:
        """What is paid at the end of an episode that is cut at a limit; only `reward` and `success` count."""
        ...


class EnvironmentFault(Exception):
    """What went wrong in an environment, where its process says of what kind it was."""

    def __init__(self, kind: FaultKind, message: str):
        super().__init__(message)
        self.kind = kind


def told(info: Any) -> dict[str, float | str]:
    """The numbers and words of an observation's `info`; whatever else an environment puts there stays with it."""
    values = info.items() if isinstance(info, Mapping) else ()
    return {str(name): one for name, value in values if (one := _number_or_word(value)) is not None}


def _number_or_word(value: Any) -> float | str | None:
    if isinstance(value, str):
        return value
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # numpy's scalars are numbers, too; lists are not
        return float(value)
    return None


class Game(ABC):
    """An Environment that computes its answers at once, knows its best move, and is guarded against a second use.

    Subclasses define `_begin` and `_act`; `choices` and `best` are for behaviour policies (environments/behaviour.py),
    and `privileged`, where there is something hidden, for advantage models.
    """

    def __init__(self) -> None:
        self._phase = "new"

    async def start(self, task: Task, seed: int) -> Observation:
        if self._phase != "new":
            raise EpisodeError(f"{type(self).__name__}: started twice; make a new environment for every episode")
        self._phase = "running"
        first = self._begin(task, np.random.Generator(np.random.Philox(key=child(seed, "game"))))
        return replace(first, info={**first.info, PRIVILEGED: self.privileged}) if self.privileged else first

    async def step(self, text: str) -> Observation:
        if self._phase != "running":
            when = "before its start" if self._phase == "new" else "after its end"
            raise EpisodeError(f"{type(self).__name__}: step {when}; make a new environment for every episode")
        observation = self._act(text)
        self._phase = "over" if observation.done else "running"
        return observation

    @property
    def privileged(self) -> str:
        """What decides a game that has begun and is hidden from the policy, as text; "" where nothing is."""
        return ""

    @abstractmethod
    def choices(self) -> list[str]:
        """Every legal utterance in the present state, in a fixed order."""

    @abstractmethod
    def best(self) -> str:
        """An optimal utterance in the present state."""

    @abstractmethod
    def _begin(self, task: Task, random: np.random.Generator) -> Observation: ...

    @abstractmethod
    def _act(self, text: str) -> Observation: ...
