"""Any TRL reward function, unchanged: `(prompts, completions, completion_ids, **columns) -> list[float | None]`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from alignkit.errors import RewardError
from alignkit.rewards.base import as_score, unscorable
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

OWN_ARGUMENTS = ("prompts", "completions", "completion_ids")


def is_trl_style(function: Callable) -> bool:
    """True for a function that takes lists under TRL's names; `(completion, task)` is alignkit's own form."""
    return any(name in OWN_ARGUMENTS for name in inspect.signature(function).parameters)


@dataclass(frozen=True)
class TrlReward:
    """A TRL reward function (sync or async) as a Reward that scores one group per call.

    It gets what GRPOTrainer of TRL 1.16 passes: prompts and completions (message lists for chat tasks, else strings),
    completion_ids, every column of the task and `reference` repeated per completion, `trainer_state` (its
    `global_step` is the number of updates behind the sampled weights), `log_extra` and `log_metric` (what they are
    given is dropped). None becomes a REFUSED fault; a wrong count is a CONTRACT fault of the whole group.
    Source: `GRPOTrainer._calculate_rewards`, TRL 1.16.
    """

    function: Callable
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        result = self.function(**self._accepted(trl_arguments(task, rollouts)), **self.options)
        result = await result if inspect.isawaitable(result) else result
        values = list(result) if hasattr(result, "__iter__") else None
        if values is None or isinstance(result, str | bytes) or len(values) != len(rollouts):
            got = type(result).__name__ if values is None else f"{len(values)} values"
            message = f"returned {got}; wanted a list of {len(rollouts)} numbers, one per completion"
            return [unscorable(FaultKind.CONTRACT, self.name, message) for _ in rollouts]
        return [as_score(value, where=self.name) for value in values]

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters.values()
        missing = [
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and parameter.name not in {*arguments, *self.options}
        ]
        if missing:
            columns = ", ".join(sorted(set(arguments) - {*OWN_ARGUMENTS, "trainer_state", "log_extra", "log_metric"}))
            raise RewardError(
                f"needs the column {missing[0]}, the data has {columns or 'none'}; rename one with `data.columns`"
            )
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return {name: value for name, value in arguments.items() if name not in self.options}
        names = {parameter.name for parameter in parameters}
        return {name: value for name, value in arguments.items() if name in names and name not in self.options}


def trl_arguments(task: Task, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The keyword arguments that TRL 1.16 would pass for these completions of one prompt."""
    count = len(rollouts)
    columns = {name: value for name, value in task.columns.items() if name not in ("prompt", "completion")}
    if task.messages is None:
        prompts: list[Any] = [task.text] * count
        completions: list[Any] = [rollout.text for rollout in rollouts]
    else:
        prompts = [[dict(message) for message in task.messages] for _ in rollouts]
        completions = [[{"role": "assistant", "content": rollout.text}] for rollout in rollouts]
    return {
        **{name: [value] * count for name, value in {"reference": task.reference, **columns}.items()},
        "prompts": prompts,
        "completions": completions,
        "completion_ids": [[*r.turns[-1].completion_ids, *r.turns[-1].finish_ids] for r in rollouts],
        "trainer_state": SimpleNamespace(global_step=rollouts[0].policy_version if rollouts else 0),
        "log_extra": _dropped,
        "log_metric": _dropped,
    }


def _dropped(name: str, values: object) -> None:
    """TRL's logging hooks; alignkit logs the score and its parts instead."""
