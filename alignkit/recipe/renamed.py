"""Older keys and values of recipes, which are still read: each is moved to its new name before anything else looks.

A section declares its own (`Section.renamed`, `Section.renamed_values`), an algorithm's Config likewise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from alignkit.errors import ContentError, RecipeError
from alignkit.recipe.document import Document, KeyPath, Place
from alignkit.recipe.lookup.find import find, load
from alignkit.recipe.problems import models_in
from alignkit.recipe.schema import Recipe, Section, Stage

OPPOSITE = "not "  # before a new key: of true it makes false
NOWHERE = Place("", 0)  # of a resolved recipe's keys: nobody wrote them
Sections = Iterator[tuple[KeyPath, dict[Any, Any], type[Section]]]


def modernise(
    document: Document, *, beside: Path | None, below: Mapping[str, Any] | None = None, code: bool = True
) -> list[str]:
    """Moves what stands under an older name to the present one, and returns one located line for each.

    beside: folder of the recipe. below: what the document is laid over, for the algorithms it does not name itself.
    code: whether the Config of an algorithm that alignkit does not ship is imported. Raises RecipeError where a setting
    stands under both names.
    """
    notes: list[tuple[Place, str]] = []
    for path, node, model in _sections(document.tree, below or {}, beside, code):
        for old, new in model.renamed.items():
            was, now = old.split("."), new.removeprefix(OPPOSITE).split(".")
            if _has(node, was):
                note = _move(document, path, node, was, now)
                notes.append(_turn(node, now, *note) if new.startswith(OPPOSITE) else note)
        for key, values in model.renamed_values.items():
            *way, last = key.split(".")
            holder = _at(node, way)
            if isinstance(holder, dict) and isinstance(value := holder.get(last), str) and value in values:
                holder[last] = values[value]
                place = document.places.get((*path, *way, last), NOWHERE)
                notes.append((place, f"'{value}' is now '{values[value]}'; the older name is still read"))
    return [place.says(sentence) for place, sentence in sorted(notes)]


def _sections(tree: dict[str, Any], below: Mapping[str, Any], beside: Path | None, code: bool) -> Sections:
    """Every section of a recipe, those above first: what is moved out of one is met again further down."""
    yield from _walk(Recipe, tree, ())
    for path, stage, _ in [((), tree, Stage), *_inside(Stage, tree.get("stages"), ("stages",))]:
        yield from _walk(Stage, stage, path)
        section = stage.get("algorithm")
        config = _config([stage, _same(stage, path, below), tree, below], beside, code)
        if config is not None and isinstance(section, dict):
            yield from _walk(config, section, (*path, "algorithm"))


def _walk(model: type[Section], node: dict[Any, Any], path: KeyPath) -> Sections:
    """A section and those inside it, but for stages, which `_sections` goes through."""
    yield path, node, model
    for name, field in model.model_fields.items():
        mapping = get_origin(field.annotation) is dict
        kinds = get_args(field.annotation)[1:] if mapping else (field.annotation,)
        for inner in (found for kind in kinds for found in models_in(kind)):
            if issubclass(inner, Section) and inner is not Stage:
                for place, child, _ in _inside(inner, node.get(name), (*path, name), mapping=mapping):
                    yield from _walk(inner, child, place)


def _inside(model: type[Section], value: Any, path: KeyPath, *, mapping: bool = False) -> Sections:
    """The section at `path`, or all in the list or mapping there; an override writes a list as {number: item}."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    elif isinstance(value, dict) and not mapping and not any(isinstance(key, int) for key in value):
        value, path = {path[-1]: value}, path[:-1]
    for key, child in value.items() if isinstance(value, dict) else ():
        if isinstance(child, dict):
            yield (*path, key), child, model


def _same(stage: dict[Any, Any], path: KeyPath, below: Mapping[str, Any]) -> Any:
    """The stage that this one will be laid over: by its name, or by its number in an override."""
    stages = below.get("stages")
    if len(path) < 2 or not isinstance(stages, list):  # of the recipe itself, or where no list is, which is told later
        return None
    if "name" not in stage:
        return stages[path[1]] if isinstance(path[1], int) and path[1] < len(stages) else None
    return next((one for one in stages if isinstance(one, dict) and one.get("name") == stage["name"]), None)


def _config(owners: list[Any], beside: Path | None, code: bool) -> type[Section] | None:
    """The Config of the first algorithm named; None where none is, or its file is not to be had."""
    sections = [owner.get("algorithm") for owner in owners if isinstance(owner, Mapping)]
    name = next((one["type"] for one in sections if isinstance(one, dict) and "type" in one), None)
    if not isinstance(name, str):
        return None
    try:
        found = find("algorithms", name, beside=beside)
        config = getattr(load(found), "config", None) if code or found.is_shipped else None
    except ContentError:  # told where the algorithm is needed
        return None
    return config if isinstance(config, type) and issubclass(config, Section) else None


def _move(
    document: Document, path: KeyPath, section: dict[Any, Any], was: list[str], now: list[str]
) -> tuple[Place, str]:
    """Moves a value within the section at `path`; returns what to say where, raises RecipeError where it cannot."""
    place = document.places.get((*path, *was), NOWHERE)
    written = place.key.split(".")
    name = ".".join([*written[: len(written) - len(was)], *now])
    if _has(section, now):
        raise RecipeError(place.says(f"is the older name of '{name}', which stands here too; leave one of them out"))
    node = section
    for depth, part in enumerate(now[:-1], start=1):
        if node.get(part) is None:
            node[part] = {}
            document.places.setdefault((*path, *now[:depth]), place)
        node = node[part]
        if not isinstance(node, dict):
            raise RecipeError(place.says(f"is now '{name}', but '{part}' is no section here"))
    node[now[-1]] = _at(section, was[:-1]).pop(was[-1])
    older = (*path, *was)
    for moved in [one for one in document.places if one[: len(older)] == older]:
        document.places[(*path, *now, *moved[len(older) :])] = document.places.pop(moved)
    return place, f"is now '{name}'; the older key is still read"


def _turn(section: dict[Any, Any], now: list[str], place: Place, said: str) -> tuple[Place, str]:
    """Makes the opposite of the value under the new key; what is neither true nor false is left to the schema."""
    value = _at(section, now)
    if isinstance(value, bool):
        _at(section, now[:-1])[now[-1]] = not value
    return place, said.replace(";", f", its opposite ({json.dumps(not value)});" if isinstance(value, bool) else ";", 1)


def _at(node: Any, keys: list[str]) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _has(section: dict[Any, Any], keys: list[str]) -> bool:
    holder = _at(section, keys[:-1])
    return isinstance(holder, dict) and keys[-1] in holder
