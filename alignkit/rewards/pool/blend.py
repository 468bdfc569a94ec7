"""Several rewards as one number: a weighted sum times a product of gates, with every part kept."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignkit.errors import DataError, RewardError
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.shape import Part, RolloutGroup, transforms
from alignkit.types.score import Fault, FaultKind, Score, StepScore
from alignkit.types.task import Task

Scores = list[list[Score]]


def part_names(specs: Sequence[RewardSpec]) -> list[str]:
    """One name per reward, unique in the list: the function's own name, numbered `name#2` from the second use on."""
    used: Counter[str] = Counter()
    names = []
    for spec in specs:
        short = re.split("[:/]", spec.name)[-1].removesuffix(".py")
        used[short] += 1
        names.append(short if used[short] == 1 else f"{short}#{used[short]}")
    return names


class Blend:
    """(sum of weight * amount over the rewards that are not gates) * (product of the gates' amounts).

    What a reward said becomes an amount by its settings (shape.py); without any it is what it said.
    """

    def __init__(self, specs: Sequence[RewardSpec]):
        self.names = part_names(specs)
        self._specs = dict(zip(self.names, specs, strict=True))
        self._transforms = {name: transforms(spec, name) for name, spec in self._specs.items()}
        self._pays_before_the_end = places_steps(specs)

    def scores(self, groups: Sequence[RolloutGroup], said: Sequence[Sequence[Sequence[Score]]]) -> Scores:
        """One blended Score per completion of each group. said: by group and reward what the reward said of each
        completion, nothing where it is not for that row (`is_for`)."""
        by_group: list[dict[str, list[Part]]] = [{} for _ in groups]
        for i, name in enumerate(self.names):
            judged = [number for number, by_reward in enumerate(said) if by_reward[i]]
            parts = [[Part(score, score.value) for score in said[number][i]] for number in judged]
            for transform in self._transforms[name]:
                parts = transform([groups[number] for number in judged], parts)
            for number, own in zip(judged, parts, strict=True):
                by_group[number][name] = own
        return [
            [self.score({name: parts[i] for name, parts in own.items()}) for i in range(len(rollouts))]
            for own, (_, rollouts) in zip(by_group, groups, strict=True)
        ]

    def score(self, parts: Mapping[str, Part]) -> Score:
        """The Score of one completion. parts: one for each reward that is for its row, by name.

        Its own `parts` are the unweighted values that the rewards said. A part is needed when it is a gate or its
        weight is not 0; one needed part without a value leaves the blend without a value, for that part's fault (it
        never counts as 0). A part that abstained adds nothing, as one whose `only` leaves the row out; where no part is
        left to add, the row is refused. Where a spec places steps, `steps` is what the blend pays where, and what the
        value has beyond their sum is paid at the end; else steps, spread and members are those that a reward said.
        """
        said = {name: part.said for name, part in parts.items()}
        abstained = [name for name, score in said.items() if score.value is None and _abstains(score)]
        named = [(name, spec) for name, spec in self._specs.items() if name in parts and name not in abstained]
        fault = next((said[name].fault for name, spec in named if _needed(spec) and said[name].value is None), None)
        if not fault and len(named) < len(self.names) and not any(_adds(spec) for _, spec in named):
            fault = Fault(kind=FaultKind.REFUSED, where="blend", message=_unwanted(abstained))
        value, paid = (None, ()) if fault else _value(parts, named)
        if value is not None and not math.isfinite(value):
            fault = Fault(kind=FaultKind.NOT_A_NUMBER, where="blend", message=f"the weighted sum is {value}")
        return Score(
            value=None if fault else value,
            parts=_breakdown(said),
            steps=paid if self._pays_before_the_end else _first(said, "steps"),
            spread=_first(said, "spread"),
            members=_first(said, "members"),
            fault=fault or next((score.fault for score in said.values() if score.fault and not _abstains(score)), None),
        )


def places_steps(specs: Sequence[RewardSpec]) -> bool:
    """Whether some of the reward is paid before the end."""
    return any(spec.steps is not None and spec.steps.place != "end" for spec in specs)


def check_blend(specs: Sequence[RewardSpec]) -> None:
    """Raises RewardError for a list of rewards that could only ever give one constant number."""
    if not specs:
        raise RewardError("rewards: the list is empty; name at least one reward (`alignkit ls rewards`)")
    if not any(map(_adds, specs)):
        names = ", ".join(spec.name for spec in specs)
        raise RewardError(f"rewards: got only gates or zero weights ({names}); at least one reward must add something")


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


def _abstains(score: Score) -> bool:
    return score.fault is not None and score.fault.kind is FaultKind.ABSTAINED


def _unwanted(abstained: Sequence[str]) -> str:
    """Why no reward scored a row, and what mends it."""
    if not abstained:
        return "no reward is for this row; see their `only`"
    return (
        f"no reward scored this row: {', '.join(abstained)} returned None; give such rows a reward of their own, "
        "or take them out of the data (`only` names the rows that a reward is for)"
    )


def _needed(spec: RewardSpec) -> bool:
    return spec.gate or spec.weight != 0


def _adds(spec: RewardSpec) -> bool:
    return _needed(spec) and not spec.gate


def _value(parts: Mapping[str, Part], named: list[tuple[str, RewardSpec]]) -> tuple[float, tuple[StepScore, ...]]:
    """The blend's value, and what of it is paid where."""
    factor = math.prod(_number(parts[name]) for name, spec in named if spec.gate)
    added = [(parts[name], spec.weight) for name, spec in named if _adds(spec)]
    total = sum(weight * _number(part) for part, weight in added) * factor
    paid = (replace(step, value=weight * step.value * factor) for part, weight in added for step in part.paid)
    return total, tuple(paid)


def _number(part: Part) -> float:
    assert part.amount is not None
    return part.amount


def _first(said: Mapping[str, Score], field: str) -> Any:
    return next((value for score in said.values() if (value := getattr(score, field)) is not None), None)


def _breakdown(said: Mapping[str, Score]) -> dict[str, float | None]:
    result: dict[str, float | None] = {}
    for name, score in said.items():
        own_name = name.partition("#")[0]
        result[name] = score.value
        result.update({f"{name}.{inner}": value for inner, value in score.parts.items() if inner != own_name})
    return result
