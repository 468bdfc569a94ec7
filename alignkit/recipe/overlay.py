"""One recipe laid over another: key by key, its stages by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from alignkit.errors import RecipeError
from alignkit.recipe.document import Document, KeyPath, Place
from alignkit.recipe.lookup.find import did_you_mean


def overlay(base: Document, over: Document) -> Document:
    """`over` laid over `base` key by key; every place is that of the file in which the value stands.

    A list is replaced as a whole, an `algorithm` when its type changes. Stages on both sides meet by name: a stage that
    `base` has is laid over it, others follow in their order, and one with `algorithm: null` is left out. Raises
    RecipeError for stages without a name, two of one name, and stages to leave out that `base` does not have.
    """
    if not (_has_stages(base) and _has_stages(over)):
        return _laid(base, over)
    below, above = _by_name(base), _by_name(over)
    left_out = [name for name, stage in above.tree["stages"].items() if stage.get("algorithm", ...) is None]
    _refuse(
        above.places["stages", name, "algorithm"].says(_nothing_to_leave_out(name, below.tree["stages"]))
        for name in left_out
        if name not in below.tree["stages"]
    )
    return _in_order(_laid(below, above), left_out)


def _laid(base: Document, over: Document) -> Document:
    replaced: list[KeyPath] = []
    tree = _merge(base.tree, over.tree, (), replaced)
    kept = {path: at for path, at in base.places.items() if not any(path[: len(old)] == old for old in replaced)}
    return Document(tree, {**kept, **over.places})


def _merge(base: dict[str, Any], over: dict[str, Any], path: KeyPath, replaced: list[KeyPath]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = base.get(key)
        other_algorithm = key == "algorithm" and isinstance(value, dict) and "type" in value
        mergeable = isinstance(value, dict) and isinstance(old, dict)
        if mergeable and not (other_algorithm and value["type"] != old.get("type")):
            result[key] = _merge(old, value, (*path, key), replaced)
        else:
            replaced.append((*path, key))
            result[key] = value
    return result


def _has_stages(document: Document) -> bool:
    return isinstance(document.tree.get("stages"), list)


def _by_name(document: Document) -> Document:
    """The document with its stages as a mapping from their names; raises RecipeError where names are no such keys."""
    stages = document.tree["stages"]
    names = [stage.get("name") if isinstance(stage, dict) else None for stage in stages]
    _refuse(_wrong_names(names, [document.places["stages", i] for i in range(len(names))]))
    tree = {**document.tree, "stages": dict(zip(names, stages, strict=True))}
    return Document(tree, _moved(document.places, dict(enumerate(names))))


def _in_order(document: Document, left_out: list[str]) -> Document:
    """The document with its stages as a list again, without those left out."""
    stages = {name: stage for name, stage in document.tree["stages"].items() if name not in left_out}
    tree = {**document.tree, "stages": list(stages.values())}
    return Document(tree, _moved(document.places, {name: i for i, name in enumerate(stages)}))


def _moved(places: Mapping[KeyPath, Place], keys: Mapping[Any, Any]) -> dict[KeyPath, Place]:
    """The places, those of stages under the new `keys` of these; stages without a new key lose theirs."""
    moved: dict[KeyPath, Place] = {}
    for path, place in places.items():
        if path[:1] != ("stages",) or len(path) == 1:
            moved[path] = place
        elif path[1] in keys:
            moved["stages", keys[path[1]], *path[2:]] = place
    return moved


def _wrong_names(names: list[Any], places: list[Place]) -> Iterable[str]:
    for i, (name, place) in enumerate(zip(names, places, strict=True)):
        if not isinstance(name, str):
            yield place.says("has no `name`; the stages of recipes that extend one another meet by name")
        elif name in names[:i]:
            first = places[names.index(name)].line
            yield place.says(f"a stage called '{name}' already stands in line {first}; give each its own `name`")


def _nothing_to_leave_out(name: str, stages: dict[str, Any]) -> str:
    return (
        f"null leaves out a stage of the recipe that is extended, which has no '{name}'{did_you_mean(name, stages)}; "
        f"its stages are {', '.join(stages)}"
    )


def _refuse(problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        raise RecipeError(found)
