"""Several rewards as one number: a weighted sum times a product of gates, with every part kept."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from alignkit.errors import RewardError
from alignkit.recipe.schema import RewardSpec
from alignkit.types.score import Fault, FaultKind, Score


def part_names(specs: Sequence[RewardSpec]) -> list[str]:
    """One name per reward, unique in the list: the function's own name, numbered `name#2` from the second use on."""
    used: Counter[str] = Counter()
    names = []
    for spec in specs:
        short = re.split("[:/]", spec.name)[-1].removesuffix(".py")
        used[short] += 1
        names.append(short if used[short] == 1 else f"{short}#{used[short]}")
    return names


def blend(parts: Mapping[str, Score], specs: Sequence[RewardSpec]) -> Score:
    """(sum of weight * value over the rewards that are not gates) * (product of the gates' values).

    parts: one Score per spec, under the names of `part_names(specs)`.
    Returns a Score whose `parts` are the unweighted values. A part is needed when it is a gate or its weight is not 0;
    one needed part without a value leaves the blend without a value, for that part's fault (it never counts as 0).
    """
    named = list(zip(part_names(specs), specs, strict=True))
    fault = next((parts[name].fault for name, spec in named if _needed(spec) and parts[name].value is None), None)
    value = None if fault else _value(parts, named)
    if value is not None and not math.isfinite(value):
        fault = Fault(kind=FaultKind.NOT_A_NUMBER, where="blend", message=f"the weighted sum is {value}")
    return Score(
        value=None if fault else value,
        parts=_breakdown(parts),
        steps=next((part.steps for part in parts.values() if part.steps is not None), None),
        spread=next((part.spread for part in parts.values() if part.spread is not None), None),
        members=next((part.members for part in parts.values() if part.members is not None), None),
        fault=fault or next((part.fault for part in parts.values() if part.fault), None),
    )


def check_blend(specs: Sequence[RewardSpec]) -> None:
    """Raises RewardError for a list of rewards that could only ever give one constant number."""
    if not specs:
        raise RewardError("rewards: the list is empty; name at least one reward (`alignkit ls rewards`)")
    if not any(_needed(spec) and not spec.gate for spec in specs):
        names = ", ".join(spec.name for spec in specs)
        raise RewardError(f"rewards: got only gates or zero weights ({names}); at least one reward must add something")


def _needed(spec: RewardSpec) -> bool:
    return spec.gate or spec.weight != 0


def _value(parts: Mapping[str, Score], named: list[tuple[str, RewardSpec]]) -> float:
    total = sum(spec.weight * _number(parts[name]) for name, spec in named if _needed(spec) and not spec.gate)
    return total * math.prod(_number(parts[name]) for name, spec in named if spec.gate)


def _number(part: Score) -> float:
    assert part.value is not None
    return part.value


def _breakdown(parts: Mapping[str, Score]) -> dict[str, float | None]:
    result: dict[str, float | None] = {}
    for name, part in parts.items():
        own_name = name.partition("#")[0]
        result[name] = part.value
        result.update({f"{name}.{inner}": value for inner, value in part.parts.items() if inner != own_name})
    return result
