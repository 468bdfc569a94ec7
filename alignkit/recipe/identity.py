"""What of a recipe decides what a run computes: its hash, and in what two recipes differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from alignkit.recipe.document import describe
from alignkit.recipe.schema import Recipe

Tree = Mapping[str, Any]
"""A resolved recipe as JSON has it."""
IMMATERIAL = ("run", "tracker", "tracker_table_every", "checkpoints", "health", "file", "launch")


def recipe_hash(recipe: Recipe) -> str:
    """Hex digest of all that decides what a run computes; equal hashes may resume one another."""
    text = json.dumps(_resumed(recipe), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def difference(old: Recipe, new: Recipe) -> list[str]:
    """One `key: old -> new` line for each setting that differs and decides what a run computes."""
    before, after = ({key: describe(v) for key, v in leaves(_resumed(recipe)).items()} for recipe in (old, new))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, "absent"), after.get(key, "absent")
        if was != now:
            lines.append(f"{key}: {was} -> {now}")
    return lines


def computed(tree: Tree) -> dict[str, Any]:
    """A recipe without what changes only where, how fast or how watched it runs; what it lacks stays absent."""
    kept = _without(tree, IMMATERIAL)
    if "engine" in kept:
        kept["engine"] = {key: kept["engine"].get(key) for key in ("options", "lora")}
    if "stages" in kept:
        kept["stages"] = [_stage(stage) for stage in kept["stages"]]
    return kept


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every setting within; empty lists and mappings are values."""
    if isinstance(value, Mapping | list) and value:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {path: leaf for key, inner in pairs for path, leaf in leaves(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def _resumed(recipe: Recipe) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    tree = computed(recipe.model_dump(mode="json"))
    last = tree["stages"][-1]
    if last["optimizer"]["schedule"] == "constant":
        del last["train"]["steps"]  # a run may be made longer: no earlier step depends on its length
    return tree


def _stage(stage: Tree) -> dict[str, Any]:
    left_out = {
        "train": ("micro_batch_tokens",),
        "rollouts": ("memory_gib", "gpu_memory_fraction", "reward_workers"),
        "environment": ("memory_mib",),
    }
    kept = {**stage, **{name: _without(stage[name], keys) for name, keys in left_out.items() if stage.get(name)}}
    if "rewards" in stage:
        kept["rewards"] = [_without(reward, ("memory_mib", "secrets")) for reward in stage["rewards"]]
    return kept


def _without(section: Tree, keys: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name not in keys}
