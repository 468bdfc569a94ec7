"""Pydantic's verdict on a recipe in plain, located words, each with the nearest thing that would have been right."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from alignkit.recipe.document import KeyPath, Place, describe
from alignkit.recipe.lookup.find import did_you_mean

_WANTED = {
    "int_type": "wants a whole number",
    "int_parsing": "wants a whole number",
    "int_from_float": "wants a whole number",
    "float_type": "wants a number",
    "float_parsing": "wants a number",
    "bool_type": "wants true or false",
    "bool_parsing": "wants true or false",
    "string_type": "wants text (put it in quotes if it looks like a number)",
    "path_type": "wants a path",
    "tuple_type": "wants a list",
    "list_type": "wants a list",
    "dict_type": "wants a mapping of `key: value` lines",
    "model_type": "wants a section of `key: value` lines",
    "finite_number": "wants a finite number",
}
_OF_ANYTHING = ("name", "options", "type", "weight")  # of a reward, say: no help for who wrote it of an optimizer
_BOUNDS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


class Located:
    """Collects problems of one recipe and puts each where its key stands."""

    def __init__(self, places: Mapping[KeyPath, Place]):
        self.places = places
        self._found: dict[str, Place] = {}

    def add(self, path: KeyPath, problem: str) -> None:
        """Notes a problem of the key at `path` (of its nearest existing parent, when the key itself is absent)."""
        place, key = self.locate(path)
        self._found.setdefault(place.says(problem, key), place)

    def locate(self, path: KeyPath) -> tuple[Place, str]:
        """The place of the key or its nearest parent, and the key's full dotted name as it would be written there."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        place = self.places[known]
        key = place.key
        for part in path[len(known) :]:
            key = f"{key}.{part}" if key else str(part)
        return place, key

    def lines(self) -> list[str]:
        """All problems, once each, by file and line."""
        return [line for line, _ in sorted(self._found.items(), key=lambda item: item[1])]

    def __bool__(self) -> bool:
        return bool(self._found)


def explain_validation(
    error: ValidationError, *, model: type[BaseModel], tree: Any, base: KeyPath, top: type[BaseModel], located: Located
) -> None:
    """Adds every error of validating `tree` as `model` to `located`.

    base: key path of `tree` in the recipe. top: the whole recipe's model, searched for where a strange key belongs.
    """
    by_path: dict[KeyPath, list[str]] = {}
    for detail in error.errors(include_url=False):
        missing = detail["type"] == "missing"
        path = _path_in(tree, detail["loc"], keep_last=missing)
        section = _section_at(model, path[:-1])
        by_path.setdefault(path, []).append(_sentence(detail, path, section, top))
    for path, sentences in by_path.items():
        located.add((*base, *path), " or ".join(dict.fromkeys(sentences)))


def _sentence(detail: Any, path: KeyPath, section: type[BaseModel] | None, top: type[BaseModel]) -> str:
    kind, got = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return _unknown(str(path[-1]), section, top)
    if kind == "missing":
        return _missing(str(path[-1]), section)
    if kind == "literal_error":
        allowed = str(detail["ctx"]["expected"])
        names = allowed.replace("'", "").replace(" or ", ", ").split(", ")
        return f"must be {allowed}; got {describe(got)}{did_you_mean(str(got), names)}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {detail['ctx'][name]:g}; got {describe(got)}"
    if kind in ("too_long", "too_short"):
        bound = f"at most {detail['ctx'].get('max_length')}" if kind == "too_long" else "more"
        return f"wants {bound} items; got {describe(got)}"
    wanted = _WANTED.get(kind, detail["msg"].removeprefix("Value error, "))
    return f"{wanted}; got {describe(got)}"


def _unknown(key: str, section: type[BaseModel] | None, top: type[BaseModel]) -> str:
    settings = list(section.model_fields) if section else []
    if section is top:  # written at the top for the only stage, or shared by all
        settings = [
            "extends",
            *(name for name in settings if name != "file"),
            *(_section_at(top, ("stages",)) or top).model_fields,
        ]
    guess = did_you_mean(key, settings)
    if guess:
        return f"is not a setting{guess}"
    elsewhere = [path for path, name in _all_settings(top) if name == key and (not section or name not in _OF_ANYTHING)]
    if elsewhere:
        return f"is not a setting here (did you mean {' or '.join(map(repr, elsewhere[:2]))}?)"
    if section and (guess := _did_you_mean_inside(key, section)):
        return f"is not a setting here{guess}"
    return f"is not a setting; the settings here are {', '.join(settings)}" if settings else "is not a setting"


def _did_you_mean_inside(key: str, section: type[BaseModel]) -> str:
    """The same for what is near in the sections below this one, by its path from here."""
    inside = {name: path for path, name in _all_settings(section) if "." in path}
    near = difflib.get_close_matches(key, inside, n=1)
    return f" (did you mean {inside[near[0]]!r}?)" if near else ""


def _missing(key: str, section: type[BaseModel] | None) -> str:
    field = section.model_fields.get(key) if section else None
    meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
    return f"is missing{meaning}"


def _path_in(tree: Any, loc: tuple[int | str, ...], keep_last: bool) -> KeyPath:
    """Pydantic's location without the parts that name a branch of a union instead of a key."""
    path: list[int | str] = []
    for number, part in enumerate(loc):
        is_key = isinstance(tree, dict) and part in tree
        is_index = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if is_key or is_index:
            path.append(part)
            tree = tree[part]
        elif keep_last and number == len(loc) - 1:
            path.append(part)
    return tuple(path)


def _section_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The model that describes the section at `path`, or None where the schema is open."""
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        current = next(models_in(field.annotation), None) if field else None
    return current


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside Optional, Annotated, tuple[...] and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated, tuple):
        for inner in get_args(annotation):
            yield from models_in(inner)


def _all_settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, name) of every setting, as a recipe without stages writes it; what every recipe has comes first."""
    for name, field in sorted(model.model_fields.items(), key=lambda item: not item[1].is_required()):
        inner = None if get_origin(field.annotation) is Literal else next(models_in(field.annotation), None)
        path = prefix if name == "stages" else f"{prefix}{name}."
        if name not in ("stages", "file"):
            yield f"{prefix}{name}", name
        if inner is not None:
            yield from _all_settings(inner, path)
