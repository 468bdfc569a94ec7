"""From what one reward said of a step's completions to what it adds to each: the settings of a RewardSpec, in order.

`only`; then `ensemble`, `risk` or `steps` (reading.py); then `normalise` and `clip`. Weights and gates come after
(blend.py). Only an ensemble (in its group) and normalising (in the step) let completions change one another's score.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignkit.errors import DataError
from alignkit.recipe.schema import RewardSpec
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
    """

    said: Score
    amount: float | None
    paid: tuple[StepScore, ...] = ()


def is_for(spec: RewardSpec, task: Task) -> bool:
    """Whether the reward judges this row; a row that lacks a column of `only` is judged, and then at fault."""
    return all(
        column not in task.columns or task.columns[column] in (wanted if isinstance(wanted, list | tuple) else [wanted])
        for column, wanted in spec.only.items()
    )


def check_rows(specs: Sequence[RewardSpec], tasks: Sequence[Task]) -> None:
    """Raises DataError for a reward whose `only` leaves it no row at all, as a mistyped value does."""
    for spec in specs:
        if spec.only and not any(is_for(spec, task) for task in tasks):
            found = {column: sorted({str(task.columns.get(column)) for task in tasks})[:8] for column in spec.only}
            there = "; ".join(f"{column} is {', '.join(values)}" for column, values in found.items())
            raise DataError(f"reward '{spec.name}' is only for {spec.only}, which fits no row; there {there}")


def shape(
    spec: RewardSpec, name: str, groups: Sequence[RolloutGroup], scores: Sequence[Sequence[Score]]
) -> list[list[Part] | None]:
    """Per group one Part per completion, in order; None for groups that the reward is not for.

    scores: what the reward said of each group's completions, nothing for those groups.
    """
    judged = [number for number, (task, _) in enumerate(groups) if is_for(spec, task)]
    said = {number: _said(spec, name, groups[number], scores[number]) for number in judged}
    numbers = {number: [_numbers(spec, score) for score in own] for number, own in said.items()}
    if spec.normalise is not None:
        numbers = _normalised(numbers, {number: _source(spec, groups[number][0]) for number in judged})
    parts: list[list[Part] | None] = [None] * len(groups)
    for number in judged:
        rollouts = groups[number][1]
        parts[number] = [_part(spec, *one) for one in zip(said[number], numbers[number], rollouts, strict=True)]
    return parts


def _said(spec: RewardSpec, name: str, group: RolloutGroup, scores: Sequence[Score]) -> list[Score]:
    task, rollouts = group
    named = [*spec.only, *([spec.normalise.by] if spec.normalise and spec.normalise.by else [])]
    missing = next((column for column in named if column not in task.columns), None)
    if missing is not None:
        message = f"the row has no column '{missing}', which `only` or `normalise` names; its columns are "
        fault = unscorable(FaultKind.CONTRACT, name, message + (", ".join(task.columns) or "none"))
        return [fault for _ in rollouts]
    return read(spec, name, rollouts, scores)


def _numbers(spec: RewardSpec, score: Score) -> list[float]:
    """What is normalised and clipped: the scores of the steps, or the one value; nothing of a fault."""
    if score.value is None:
        return []
    return [step.value for step in score.steps] if spec.steps and score.steps else [score.value]


def _source(spec: RewardSpec, task: Task) -> str:
    by = spec.normalise.by if spec.normalise else None
    return repr(task.columns.get(by)) if by else ""


def _normalised(numbers: dict[int, list[list[float]]], sources: dict[int, str]) -> dict[int, list[list[float]]]:
    """(number - mean) / standard deviation (divisor n) among the numbers of the same source; 0 where all are equal."""
    pools: dict[str, list[float]] = defaultdict(list)
    for group, own in numbers.items():
        pools[sources[group]] += [number for one in own for number in one]
    scales = {source: _mean_and_std(pool) for source, pool in pools.items() if pool}

    def scaled(number: float, source: str) -> float:
        mean, std = scales[source]
        return (number - mean) / std if std else 0.0

    return {group: [[scaled(x, sources[group]) for x in one] for one in own] for group, own in numbers.items()}


def _mean_and_std(pool: Sequence[float]) -> tuple[float, float]:
    """Exact sums, so that the order of the completions changes nothing; of equal numbers the deviation is 0."""
    mean = math.fsum(pool) / len(pool)
    variance = math.fsum((number - mean) ** 2 for number in pool) / len(pool)
    equal = max(pool) - min(pool) <= 1e-9 * max(1.0, abs(mean))  # rounding errors are no signal to be blown up
    return mean, 0.0 if equal else math.sqrt(variance)


def _part(spec: RewardSpec, said: Score, numbers: list[float], rollout: Rollout) -> Part:
    if said.value is None:
        return Part(said, None)
    if spec.clip is not None:
        low, high = spec.clip
        kept = [min(max(number, low), high) for number in numbers]
        clipped = sum(new != old for new, old in zip(kept, numbers, strict=True)) / len(numbers)
        said, numbers = replace(said, parts={**said.parts, "clipped": clipped}), kept
    if spec.steps is None or not said.steps:
        return Part(said, numbers[0])
    worth, amounts = step_amounts(numbers, spec.steps)
    if spec.steps.place == "end":
        return Part(said, worth)
    paid = [replace(step, value=amount) for step, amount in zip(said.steps, amounts, strict=True)]
    return Part(said, worth, tuple(_at_turn_ends(paid, rollout) if spec.steps.place == "turn" else paid))


def _at_turn_ends(paid: Sequence[StepScore], rollout: Rollout) -> list[StepScore]:
    totals: dict[int, float] = {}
    for step in paid:
        turn = turn_of(step, rollout)
        totals[turn] = totals.get(turn, 0.0) + step.value
    return [StepScore(len(rollout.turns[turn].text), total, turn) for turn, total in totals.items()]
