"""Every setting that exists, from the schema and the algorithm files: as JSON Schema and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from alignkit.recipe.lookup.find import list_content
from alignkit.recipe.problems import models_in
from alignkit.recipe.read import STAGE_SECTIONS, load_algorithm
from alignkit.recipe.schema import Recipe, Stage


def recipe_json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file, for editors: stage sections at the top or under `stages`, `extends` anywhere.

    Nothing is required but in lists, which are replaced as a whole: what a section leaves out may stand in the recipe
    that is extended, at the top, or on the command line.
    """
    schema = Recipe.model_json_schema()
    stage = schema["$defs"]["Stage"]
    algorithm = _algorithm_schema(schema["$defs"])
    left_out = {"type": "null", "description": "Leaves out the stage of this name of the recipe that is extended."}
    stage["properties"]["algorithm"] = {"anyOf": [algorithm, left_out]}
    properties = schema["properties"]
    del properties["file"]
    properties |= {name: stage["properties"][name] for name in STAGE_SECTIONS} | {"algorithm": algorithm}
    name = {"type": "string", "description": "Name or path of a recipe that this one is laid over."}
    properties["extends"] = {"anyOf": [name, {"type": "array", "items": name}]}
    whole = {part["items"]["$ref"].rpartition("/")[2] for part in _lists(schema) if "$ref" in part["items"]} - {"Stage"}
    for section in [schema, *(section for name, section in schema["$defs"].items() if name not in whole)]:
        section.pop("required", None)
    schema["$defs"]["Tool"] = {"anyOf": [{"type": "string", "description": "Its name."}, schema["$defs"]["Tool"]]}
    schema["title"] = "alignkit recipe"
    return schema


def settings_markdown() -> str:
    """One table per section: setting, type, default, meaning. docs/recipes.md holds it."""
    parts = [_table("Top level", Recipe, skip=("file", "stages")), _table("Stages", Stage, skip=STAGE_SECTIONS)]
    seen: set[type[BaseModel]] = {Stage}
    for name, model in _sections(Recipe, ""):
        if model not in seen:
            parts.append(_table(name, model))
            seen.add(model)
    for found in list_content("algorithms"):
        config = load_algorithm(found.name).config
        parts.append(_table(f"algorithm, type: {found.name}", config, skip=("type",)))
        for name, model in _sections(config, "algorithm."):
            if model.__module__ == config.__module__:  # told where it stands, not with whoever shares it
                parts.append(_table(f"{name}, type: {found.name}", model))
    return "\n".join(parts)


def _algorithm_schema(definitions: dict[str, Any]) -> dict[str, Any]:
    """The settings of each shipped algorithm by its `type`; other types are open."""
    branches = []
    for found in list_content("algorithms"):
        own = f"{found.name}."  # sections of two algorithms may have one name
        schema = load_algorithm(found.name).config.model_json_schema(ref_template=f"#/$defs/{own}{{model}}")
        definitions.update({own + name: section for name, section in schema.pop("$defs", {}).items()})
        schema.pop("required", None)
        schema["properties"]["type"] = {"const": found.name}
        is_it = {"properties": {"type": {"const": found.name}}, "required": ["type"]}
        branches.append({"if": is_it, "then": schema})
    description = Stage.model_fields["algorithm"].description
    return {"type": "object", "description": description, "allOf": branches}


def _lists(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of a schema that describes a list."""
    if isinstance(schema, dict) and isinstance(schema.get("items"), dict):
        yield schema
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _lists(part)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted name, model) of every section below `model`; those of a stage without its prefix."""
    for name, field in model.model_fields.items():
        for section in models_in(field.annotation):
            path = f"{prefix}{name}"
            yield path, section
            yield from _sections(section, "" if name == "stages" else f"{path}.")


def _table(title: str, model: type[BaseModel], skip: tuple[str, ...] = ()) -> str:
    rows = [f"### `{title}`" if title.islower() else f"### {title}", ""]
    rows += [*([_first_line(model), ""] if _first_line(model) else [])]
    rows += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        default = "required" if field.is_required() else f"`{_default(field.default)}`"
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{name}` | {_type(properties[name])} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _first_line(model: type[BaseModel]) -> str:
    own = model.__dict__.get("__doc__") or ""
    return own.strip().partition("\n")[0]


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is PydanticUndefined:
        return "computed"
    return json.dumps(value)


def _type(schema: dict[str, Any]) -> str:
    """A JSON Schema type in a few words."""
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " \\| ".join(_type(branch) for branch in schema["anyOf"])
    if "$ref" in schema or "allOf" in schema:
        return "section"
    names = {"integer": "whole number", "string": "text", "boolean": "true/false", "array": "list", "object": "mapping"}
    kind = schema.get("type", "any")
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([names.get(kind, kind), *bounds])


_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
