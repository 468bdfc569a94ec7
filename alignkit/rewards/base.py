"""The reward protocol, and `@reward`, which lifts a plain function to it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from alignkit.types.rollout import Rollout
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task


@runtime_checkable
class Reward(Protocol):
    """Scores all rollouts of one task at once, so that pairwise and diversity rewards need no special path."""

    name: str

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        """One Score per rollout, in order. Failures are Scores with a Fault; nothing is raised for a bad answer."""
        ...


@dataclass(frozen=True)
class FunctionReward:
    """A plain function `(completion, task) -> float | bool | None | Score` (or async) as a Reward.

    None means "cannot be scored" and becomes a REFUSED fault; NaN and infinities become NOT_A_NUMBER faults.
    Exceptions pass through: the pool (rewards/pool.py) is the fence that records them.
    """

    function: Callable
    name: str

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        results = []
        for rollout in rollouts:
            result = self.function(rollout.text, task)
            results.append(as_score(await result if inspect.isawaitable(result) else result, where=self.name))
        return results

    def __call__(self, completion: str, task: Task):
        return self.function(completion, task)


def reward(function: Callable) -> FunctionReward:
    """Decorator: the function's name becomes the reward's name."""
    return FunctionReward(function=function, name=function.__name__)


def as_score(result: object, *, where: str) -> Score:
    """A reward function's return value as a Score; anything that is not a finite number becomes a named Fault."""
    if isinstance(result, Score):
        return result
    if result is None:
        return Score(value=None, parts={where: None}, fault=Fault(kind=FaultKind.REFUSED, where=where))
    try:
        value = float(result)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        message = f"returned {type(result).__name__}; wanted a number, None or Score"
        return Score(
            value=None, parts={where: None}, fault=Fault(kind=FaultKind.CONTRACT, where=where, message=message)
        )
    if not math.isfinite(value):
        fault = Fault(kind=FaultKind.NOT_A_NUMBER, where=where, message=f"returned {value}")
        return Score(value=None, parts={where: None}, fault=fault)
    return Score(value=value, parts={where: value})
