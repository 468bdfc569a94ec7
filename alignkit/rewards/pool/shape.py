"""From what one reward said of a step's completions to what it adds to each: the settings of a RewardSpec, in order.

`only`; then `ensemble`, `risk` or `steps` (reading.py); then `normalise` and `clip`; then the places of steps. Weights
and gates come after (blend.py). Only an ensemble (in its group) and normalising (in the step) let completions change
one another's score.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from alignkit.recipe.schema import Normalise, RewardSpec, Steps
from alignkit.rewards.base import unscorable
from alignkit.rewards.pool.reading import read, step_amounts, turn_of
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score, StepScore
from alignkit.types.task import Task

RolloutGroup = tuple[Task, Sequence[Rollout]]


@dataclass(frozen=True, slots=True)
class Part:
    """What one reward makes of one completion.

    said: its Score, the value read as the spec asks, before normalising and clipping. amount: what it adds before its
    weight; None where it has no value. paid: where along the completion the amount is paid; what it leaves, at the end.
    Of a reward that scores steps `paid` holds their scores until the last transform makes rewards of them.
    """

    said: Score
    amount: float | None
    paid: tuple[StepScore, ...] = ()


Parts = list[list[Part]]  # by group that the reward is for, one per completion
Transform = Callable[[Sequence[RolloutGroup], Parts], Parts]


def transforms(spec: RewardSpec, name: str) -> list[Transform]:
    """What a reward's settings do to what it said, in their order; nothing for a reward without settings."""
    found: list[Transform] = []
    if spec.only or (spec.normalise and spec.normalise.by):
        found.append(partial(_with_columns, spec, name))
    if spec.ensemble or spec.risk or spec.steps:
        found.append(partial(_read, spec, name))
    if spec.normalise:
        found.append(partial(_normalised, spec.normalise))
    if spec.clip:
        found.append(partial(_clipped, *spec.clip))
    if spec.steps:
        found.append(partial(_placed, spec.steps))
    return found


def _with_columns(spec: RewardSpec, name: str, groups: Sequence[RolloutGroup], parts: Parts) -> Parts:
    """Rows that lack a column which the settings name are at fault."""
    named = [*spec.only, *([spec.normalise.by] if spec.normalise and spec.normalise.by else [])]
    result = []
    for (task, _), own in zip(groups, parts, strict=True):
        missing = next((column for column in named if column not in task.columns), None)
        if missing is not None:
            message = f"the row has no column '{missing}', which `only` or `normalise` names; its columns are "
            fault = unscorable(FaultKind.CONTRACT, name, message + (", ".join(task.columns) or "none"))
            own = [Part(fault, None)] * len(own)
        result.append(own)
    return result


def _read(spec: RewardSpec, name: str, groups: Sequence[RolloutGroup], parts: Parts) -> Parts:
    result = []
    for (_, rollouts), own in zip(groups, parts, strict=True):
        scores = read(spec, name, rollouts, [part.said for part in own])
        steps = [score.steps or () if spec.steps and score.value is not None else () for score in scores]
        result.append([Part(score, score.value, paid) for score, paid in zip(scores, steps, strict=True)])
    return result


def _numbers(part: Part) -> list[float]:
    """What is normalised and clipped: the scores of the steps, or the one value; nothing of a fault."""
    if part.amount is None:
        return []
    return [step.value for step in part.paid] or [part.amount]


def _with_numbers(part: Part, numbers: Sequence[float]) -> Part:
    if part.paid:
        return replace(part, paid=tuple(replace(step, value=x) for step, x in zip(part.paid, numbers, strict=True)))
    return replace(part, amount=numbers[0]) if numbers else part


def _normalised(settings: Normalise, groups: Sequence[RolloutGroup], parts: Parts) -> Parts:
    """(number - mean) / standard deviation (divisor n) among the numbers of the same source; 0 where all are equal."""
    sources = [repr(task.columns.get(settings.by)) if settings.by else "" for task, _ in groups]
    pools: dict[str, list[float]] = defaultdict(list)
    for source, own in zip(sources, parts, strict=True):
        pools[source] += [number for part in own for number in _numbers(part)]
    scales = {source: _mean_and_std(pool) for source, pool in pools.items() if pool}

    def scaled(number: float, source: str) -> float:
        mean, std = scales[source]
        return (number - mean) / std if std else 0.0

    return [
        [_with_numbers(part, [scaled(number, source) for number in _numbers(part)]) for part in own]
        for source, own in zip(sources, parts, strict=True)
    ]


def _mean_and_std(pool: Sequence[float]) -> tuple[float, float]:
    """Exact sums, so that the order of the completions changes nothing; of equal numbers the deviation is 0."""
    mean = math.fsum(pool) / len(pool)
    variance = math.fsum((number - mean) ** 2 for number in pool) / len(pool)
    equal = max(pool) - min(pool) <= 1e-9 * max(1.0, abs(mean))  # rounding errors are no signal to be blown up
    return mean, 0.0 if equal else math.sqrt(variance)


def _clipped(low: float, high: float, groups: Sequence[RolloutGroup], parts: Parts) -> Parts:
    """The said parts gain the share of the numbers that was changed."""
    return [[_clip(part, low, high) for part in own] for own in parts]


def _clip(part: Part, low: float, high: float) -> Part:
    numbers = _numbers(part)
    if not numbers:
        return part
    kept = [min(max(number, low), high) for number in numbers]
    share = sum(new != old for new, old in zip(kept, numbers, strict=True)) / len(numbers)
    said = replace(part.said, parts={**part.said.parts, "clipped": share})
    return _with_numbers(replace(part, said=said), kept)


def _placed(steps: Steps, groups: Sequence[RolloutGroup], parts: Parts) -> Parts:
    """The scores of steps as rewards, where the setting says."""
    return [
        [_place(steps, part, rollout) for part, rollout in zip(own, rollouts, strict=True)]
        for (_, rollouts), own in zip(groups, parts, strict=True)
    ]


def _place(steps: Steps, part: Part, rollout: Rollout) -> Part:
    if not part.paid:
        return part
    worth, amounts = step_amounts([step.value for step in part.paid], steps)
    if steps.place == "end":
        return Part(part.said, worth)
    paid = [replace(step, value=amount) for step, amount in zip(part.paid, amounts, strict=True)]
    return Part(part.said, worth, tuple(_at_turn_ends(paid, rollout) if steps.place == "turn" else paid))


def _at_turn_ends(paid: Sequence[StepScore], rollout: Rollout) -> list[StepScore]:
    totals: dict[int, float] = {}
    for step in paid:
        turn = turn_of(step, rollout)
        totals[turn] = totals.get(turn, 0.0) + step.value
    return [StepScore(len(rollout.turns[turn].text), total, turn) for turn, total in totals.items()]
