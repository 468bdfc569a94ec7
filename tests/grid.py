"""Which settings of an algorithm's Config its contract tests try: its own, one at a time."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from alignkit.recipe.schema import Section


def alternatives(config: type[Section], source: str) -> Iterator[dict[str, Any]]:
    """Each value of each enumerated or boolean setting, one setting at a time.

    A section of another algorithm's, such as its loss, is read by the other's functions alone and tried there; so is a
    setting of another's Config that this one's `source` does not name.
    """
    for name, field in config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            if kind.__module__ == config.__module__:
                yield from ({name: change} for change in alternatives(kind, source))
        elif name in config.__annotations__ or f"config.{name}" in source:
            kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
            for one in kinds:
                values = get_args(one) if get_origin(one) is Literal else (True, False) if one is bool else ()
                yield from ({name: value} for value in values if value != field.default)


def weighed(config: type[Section]) -> dict[str, Any]:
    """Every coefficient that is off by default, on, so that the terms it weighs are tested too."""
    found: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = weighed(field.annotation)
        elif field.default == 0.0 and field.default is not False:
            found[name] = 0.1
    return found


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    inner = {name: laid_over(below[name], value) for name, value in above.items() if isinstance(value, dict)}
    return {**below, **above, **inner}


def words(change: dict[str, Any]) -> list[str]:
    """`loss`, `surrogate`, `cispo`."""
    return [
        word
        for name, value in change.items()
        for word in (name, *(words(value) if isinstance(value, dict) else [str(value)]))
    ]
