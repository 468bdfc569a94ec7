"""The protocol of an environment that the policy talks with over several turns, and `Game`, a base for quick ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from alignkit.errors import EpisodeError
from alignkit.types.seeds import child
from alignkit.types.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the environment answers.

    text: what the policy reads next (it does not see the text of the last one). reward: paid for the utterance that
    led here; 0 for the first one. done: the episode is over. success: whether it counts as solved so far; None where
    the environment does not say. info: anything else, kept out of the policy's
    sight; its numbers and words reach algorithms as `Batch.turn_channels`.
    """

    text: str
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


class Game(ABC):
    """An Environment that computes its answers at once, knows its best move, and is guarded against a second use.

    Subclasses define `_begin` and `_act`; `choices` and `best` are for behaviour policies (environments/behaviour.py).
    """

    def __init__(self) -> None:
        self._phase = "new"

    async def start(self, task: Task, seed: int) -> Observation:
        if self._phase != "new":
            raise EpisodeError(f"{type(self).__name__}: started twice; make a new environment for every episode")
        self._phase = "running"
        return self._begin(task, np.random.Generator(np.random.Philox(key=child(seed, "game"))))

    async def step(self, text: str) -> Observation:
        if self._phase != "running":
            when = "before its start" if self._phase == "new" else "after its end"
            raise EpisodeError(f"{type(self).__name__}: step {when}; make a new environment for every episode")
        observation = self._act(text)
        self._phase = "over" if observation.done else "running"
        return observation

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
