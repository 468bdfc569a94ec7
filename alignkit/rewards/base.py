"""The reward protocol, and `@reward`, which lifts a plain function to it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from alignkit.types.rollout import Rollout
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task


@runtime_checkable
class Reward(Protocol):
    """Scores all rollouts of one task at once, so that pairwise and diversity rewards need no special path."""

    @property
    def name(self) -> str: ...

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        """One Score per rollout, in order. Failures are Scores with a Fault; nothing is raised for a bad answer."""
        ...


@dataclass(frozen=True)
class FunctionReward:
    """A plain function `(completion, task, **options) -> float | bool | None | Score` (or async) as a Reward.

    A function with a parameter called `rollout` also gets the Rollout (token ids, stop reason, earlier turns).
    None means "cannot be scored" and becomes a REFUSED fault; NaN and infinities become NOT_A_NUMBER faults.
    Exceptions pass through: the pool (rewards/pool/pool.py) is the fence that records them.
    """

    function: Callable
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _wants_rollout(self) -> bool:
        return "rollout" in inspect.signature(self.function).parameters

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        results = []
        for rollout in rollouts:
            extra = {"rollout": rollout} if self._wants_rollout else {}
            result = self.function(rollout.text, task, **extra, **self.options)
            results.append(as_score(await result if inspect.isawaitable(result) else result, where=self.name))
        return results

    def __call__(self, completion: str, task: Task, **options):
        return self.function(completion, task, **{**self.options, **options})


def reward(function: Callable) -> FunctionReward:
    """Decorator: the function's name becomes the reward's name."""
    return FunctionReward(function=function, name=getattr(function, "__name__", type(function).__name__))


def as_score(result: object, *, where: str) -> Score:
    """A reward function's return value as a Score; anything that is not a finite number becomes a named Fault."""
    if isinstance(result, Score):
        numbers = [step.value for step in result.steps or ()] + [*(result.spread or ()), *(result.members or ())]
        wrong = next((n for n in [result.value, *numbers] if n is not None and not math.isfinite(n)), None)
        return result if wrong is None else unscorable(FaultKind.NOT_A_NUMBER, where, f"returned {wrong}")
    if result is None:
        return unscorable(FaultKind.REFUSED, where, "returned None; rows that are not its own are named with `only`")
    try:
        value = None if isinstance(result, str | bytes) else float(result)  # ty: ignore[invalid-argument-type]  # TypeError is caught
    except (TypeError, ValueError):
        value = None
    if value is None:
        message = f"returned {type(result).__name__}; wanted a number, None or Score"
        return unscorable(FaultKind.CONTRACT, where, message)
    if not math.isfinite(value):
        return unscorable(FaultKind.NOT_A_NUMBER, where, f"returned {value}")
    return Score(value=value, parts={where: value})


def unscorable(kind: FaultKind, where: str, message: str = "") -> Score:
    """The Score of a rollout that the reward `where` could not score."""
    return Score(value=None, parts={where: None}, fault=Fault(kind=kind, where=where, message=message))
