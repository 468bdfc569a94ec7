"""What several recipes differ in, and which of them are one recipe with several seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.recipe.identity import Tree, computed, leaves

ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One setting with its value in each recipe, as JSON, or `absent`."""

    key: str
    values: Sequence[str]


def differences(recipes: Sequence[Tree]) -> list[Difference]:
    """Every setting that two of the recipes have with different values, in the order of the first recipe.

    Left out is what changes nothing of what is computed (the run's folder, the tracker, memory, workers, ...).
    """
    flat = [settings(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [Difference(key=key, values=[one.get(key, ABSENT) for one in flat]) for key in keys]
    return [row for row in rows if len(set(row.values)) > 1]


def same_recipe(recipes: Sequence[Tree]) -> list[list[int]]:
    """Indices of the recipes, those together that differ in `seed` alone; an empty recipe is alone."""
    groups: dict[str, list[int]] = {}
    for index, recipe in enumerate(recipes):
        flat = {key: value for key, value in settings(recipe).items() if key != "seed"}
        groups.setdefault(json.dumps(flat, sort_keys=True) if flat else f"unknown {index}", []).append(index)
    return list(groups.values())


def settings(recipe: Tree) -> dict[str, str]:
    """Dotted key -> value as JSON, of all that decides what is computed; {} of no recipe."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in leaves(computed(recipe)).items() if key}
