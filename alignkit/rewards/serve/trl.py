"""Any TRL reward function, unchanged: `(prompts, completions, completion_ids, **columns) -> list[float | None]`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alignkit.errors import RewardError
from alignkit.rewards.base import as_score, unscorable
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

OWN_ARGUMENTS = ("prompts", "completions", "completion_ids")
GIVEN = (*OWN_ARGUMENTS, "trainer_state", "log_extra", "log_metric", "reference")
"""What a function gets whatever the columns of the data."""
CONSTANT_STATE = {
    "is_local_process_zero": True,
    "is_world_process_zero": True,
    "is_hyper_param_search": False,
    "best_metric": None,
    "best_global_step": None,
    "best_model_checkpoint": None,
    "train_batch_size": None,
    "trial_name": None,
    "trial_params": None,
}


def is_trl_style(function: Callable) -> bool:
    """True for a function that takes lists under TRL's names; `(completion, task)` is alignkit's own form."""
    return any(name in OWN_ARGUMENTS for name in inspect.signature(function).parameters)


@dataclass(frozen=True)
class TrlReward:
    """A TRL reward function (sync or async) as a Reward that scores one group per call.

    It gets what GRPOTrainer of TRL 1.16 passes: prompts and completions (message lists for chat tasks, else strings),
    completion_ids, every column of the task and `reference` repeated per completion, `trainer_state` (`state` says what
    is known of it), `log_extra` and `log_metric` (what they are given is dropped). None becomes an ABSTAINED fault, for
    which other rewards may stand in; the part `abstained` counts them. A wrong count is a CONTRACT fault of the group.
    Source: `GRPOTrainer._calculate_rewards`, TRL 1.16.
    """

    function: Callable
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] | None = None

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        result = self.function(**self._accepted(trl_arguments(task, rollouts, self.state)), **self.options)
        result = await result if inspect.isawaitable(result) else result
        values = list(result) if hasattr(result, "__iter__") else None
        if values is None or isinstance(result, str | bytes) or len(values) != len(rollouts):
            got = type(result).__name__ if values is None else f"{len(values)} values"
            message = f"returned {got}; wanted a list of {len(rollouts)} numbers, one per completion"
            return [unscorable(FaultKind.CONTRACT, self.name, message) for _ in rollouts]
        return [self._score(value) for value in values]

    @property
    def required(self) -> list[str]:
        """The columns without which the function cannot be called."""
        return [
            parameter.name
            for parameter in inspect.signature(self.function).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and parameter.name not in {*GIVEN, *self.options}
        ]

    def _score(self, value: Any) -> Score:
        if value is None:
            score = unscorable(FaultKind.ABSTAINED, self.name, "returned None")
        else:
            score = as_score(value, where=self.name)
        return replace(score, parts={**score.parts, "abstained": float(value is None)})

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in self.required if name not in arguments]
        if missing:
            columns = ", ".join(sorted(set(arguments) - {*GIVEN} | {"reference"}))
            raise RewardError(f"needs the column {missing[0]}, the data has {columns}; rename one with `data.columns`")
        parameters = inspect.signature(self.function).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return {name: value for name, value in arguments.items() if name not in self.options}
        names = {parameter.name for parameter in parameters}
        return {name: value for name, value in arguments.items() if name in names and name not in self.options}


def trl_arguments(task: Task, rollouts: Sequence[Rollout], state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keyword arguments that TRL 1.16 would pass for these completions of one prompt.

    state: what is known of the trainer's state; by default the number of updates behind the sampled weights.
    """
    count = len(rollouts)
    columns = {name: value for name, value in task.columns.items() if name not in ("prompt", "completion")}
    if task.messages is None:
        prompts: list[Any] = [task.text] * count
        completions: list[Any] = [rollout.text for rollout in rollouts]
    else:
        prompts = [[dict(message) for message in task.messages] for _ in rollouts]
        completions = [_messages(rollout) for rollout in rollouts]
    return {
        **{name: [value] * count for name, value in {"reference": task.reference, **columns}.items()},
        "prompts": prompts,
        "completions": completions,
        "completion_ids": [[*r.turns[-1].completion_ids, *r.turns[-1].finish_ids] for r in rollouts],
        "trainer_state": _TrainerState(state or {"global_step": rollouts[0].policy_version if rollouts else 0}),
        "log_extra": _dropped,
        "log_metric": _dropped,
    }


def _messages(rollout: Rollout) -> list[dict[str, Any]]:
    """The answer as a message; with tools all messages of the conversation, as TRL has them."""
    if not any(turn.calls for turn in rollout.turns):
        return [{"role": "assistant", "content": rollout.text}]
    return [dict(one) for turn in rollout.turns for one in (turn.message, *turn.answers) if one is not None]


class _TrainerState:
    """The part of transformers' TrainerState that is known; the rest is an error with its name and not a made-up 0."""

    def __init__(self, known: Mapping[str, Any]):
        vars(self).update({**CONSTANT_STATE, "log_history": [], "stateful_callbacks": {}, **known})

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(name for name in vars(self) if name not in CONSTANT_STATE))
        raise AttributeError(f"trainer_state.{name} is not known here; known are {known}")


def _dropped(name: str, values: object) -> None:
    """TRL's logging hooks; alignkit logs the score and its parts instead."""
