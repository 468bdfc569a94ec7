"""Reads a recipe: YAML -> `extends` -> overrides -> stages -> checked Recipe. All mistakes are reported at once.

Nothing heavy is imported; algorithm files are loaded for their Config only.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from alignkit.errors import ContentError, RecipeError
from alignkit.recipe.document import Document, KeyPath, Place, describe, parse_value, read_document
from alignkit.recipe.lookup.find import did_you_mean, find, load
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.lookup.outline import function_options
from alignkit.recipe.overlay import overlay
from alignkit.recipe.problems import Located, explain_validation
from alignkit.recipe.renamed import modernise
from alignkit.recipe.rules import broken_rules
from alignkit.recipe.schema import Recipe, Stage

if TYPE_CHECKING:
    from alignkit.algorithms.base import Algorithm, AlgorithmConfig

    Resolved = tuple[Algorithm, AlgorithmConfig] | tuple[None, None]

UNREAD: Resolved = (None, None)
"""Of an algorithm whose file was not imported."""

STAGE_SECTIONS = (
    "data",
    "rewards",
    "environment",
    "rollouts",
    "replay",
    "constraints",
    "critic",
    "algorithm",
    "optimizer",
    "train",
)
RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
PATH_KEYS = ("path", "source", "name", "type", "tools")  # whose value may be a path relative to the recipe's folder
COMMAND_LINE = "<command line>"


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe behind a file or a name on the shelf.

    source: a path that ends in .yaml (or .json), or a name of `alignkit ls recipes`. overrides: `a.b=value` strings,
    the value read as YAML; list items by number. An override of a top-level section holds for every stage.
    Raises RecipeError with one `file:line: key: problem` line per mistake, ContentError when there is no such recipe.
    """
    recipe, problems, _ = resolved(source, overrides)
    if recipe is None or problems:
        raise RecipeError(problems)
    return recipe


def resolved(
    source: str | Path, overrides: Sequence[str] = (), *, code: bool = True
) -> tuple[Recipe | None, list[str], Document]:
    """What `read_recipe` makes of a recipe, its problems, and the document behind both, its stages written out.

    code: whether an algorithm's file is imported; else one that alignkit does not ship is left unread, with its
    settings as they were written. The recipe is None when a section is wrong. Raises as `read_recipe` for files that
    cannot be read at all.
    """
    path = recipe_path(source)
    notes: list[str] = []
    document = _read_with_bases(path, _shown(path), (), notes, code=code)
    problems: list[str] = []
    for number, override in enumerate(overrides, start=1):
        try:
            notes += _apply_override(document, override, number, path.parent, code=code)
        except RecipeError as error:
            problems += error.problems
    for note in dict.fromkeys(notes) if os.environ.get("RANK", "0") == "0" else ():  # of many processes one says it
        logging.getLogger(__name__).warning(note)
    document = _expand_stages(document)
    located = Located(document.places)
    recipe = _validate(document.tree, path, located, code=code)
    return recipe, [*problems, *located.lines()], document


def recipe_path(source: str | Path) -> Path:
    """The file that `read_recipe` would read."""
    text = str(source)
    if text.endswith(RECIPE_SUFFIXES):
        path = Path(text).expanduser()
        if not path.is_file():
            raise ContentError(f"{text}: there is no such recipe file{' (it is a folder)' if path.is_dir() else ''}")
        return path.resolve()
    return find("recipes", text).path


def resolve_algorithm(stage: Stage, recipe: Recipe) -> tuple[Algorithm, AlgorithmConfig]:
    """The algorithm of a checked recipe's stage, and its Config. Imports no torch."""
    algorithm = load_algorithm(stage.algorithm["type"], beside=recipe.file.parent if recipe.file else None)
    return algorithm, algorithm.config.model_validate(stage.algorithm)


def load_algorithm(name: str, *, beside: Path | None = None) -> Algorithm:
    """The Algorithm called `name`. Raises ContentError when there is none, or no such kind of data as it names."""
    found = find("algorithms", name, beside=beside)
    algorithm: Any = load(found)
    if not (hasattr(algorithm, "config") and hasattr(algorithm, "requires")):
        raise ContentError(f"{found.path}: {found.attribute} is not an alignkit.algorithms.base.Algorithm")
    kind_of(algorithm.source)
    return algorithm


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as JSON (JSON keeps nulls); it can be read again as a recipe of the same hash."""
    return json.dumps(recipe.model_dump(mode="json", exclude={"file"}), indent=2) + "\n"


def _read_with_bases(path: Path, name: str, above: tuple[Path, ...], notes: list[str], *, code: bool) -> Document:
    """The document, laid over those it `extends`, recursively; notes: gets a line for each older key."""
    document = read_document(path, name)
    bases = document.tree.pop("extends", None)
    bases = bases if isinstance(bases, list) else [bases] if bases is not None else []
    place = document.places.get(("extends",), document.places[()])
    below: Document | None = None
    for base in bases:
        if not isinstance(base, str):
            raise RecipeError(place.says(f"wants names or paths of recipes; got {describe(base)}"))
        try:
            base_path = _base_path(base, path.parent)
        except ContentError as error:
            raise RecipeError(place.says(str(error))) from error
        if base_path in (*above, path):
            circle = " -> ".join(step.name for step in (*above, path, base_path))
            raise RecipeError(place.says(f"recipes extend one another in a circle: {circle}"))
        found = _read_with_bases(base_path, _shown(base_path), (*above, path), notes, code=code)
        found.tree = _rebase(found.tree, base_path.parent, path.parent)
        below = found if below is None else overlay(below, found)
    notes += modernise(document, beside=path.parent, below=below.tree if below else None, code=code)
    return overlay(below, document) if below else document


def _base_path(base: str, folder: Path) -> Path:
    if base.endswith(RECIPE_SUFFIXES):
        return recipe_path(folder / Path(base).expanduser())
    return find("recipes", base, beside=folder).path


def _rebase(value: Any, old: Path, new: Path, key: str = "") -> Any:
    """Rewrites `./` and `../` paths that were written relative to folder `old` so that they hold from `new`."""
    if isinstance(value, dict):
        return {name: _rebase(inner, old, new, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rebase(inner, old, new, key) for inner in value]
    if isinstance(value, str) and key in PATH_KEYS and value.startswith(("./", "../")) and old != new:
        return f"./{os.path.relpath(old / value, new)}"
    return value


def _apply_override(document: Document, override: str, number: int, folder: Path, *, code: bool) -> list[str]:
    """Sets `a.b=value` in the tree, and in every stage that has its own section of that name; returns notes."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{COMMAND_LINE}:{number}: '{override}' is not an override; write key=value")
    if key == "extends":
        raise RecipeError(
            f"{COMMAND_LINE}:{number}: extends: belongs in a recipe file; overrides only replace settings"
        )
    parts = tuple(int(part) if part.isdecimal() and part.isascii() else part for part in key.split("."))
    value, places = parse_value(text, COMMAND_LINE, number, key)
    value = _rebase(value, Path.cwd(), folder, str(parts[-1]))
    stages = document.tree.get("stages")
    owners: list[KeyPath] = []
    if parts[0] in STAGE_SECTIONS and isinstance(stages, list):
        owners = [("stages", i) for i, stage in enumerate(stages) if isinstance(stage, dict) and parts[0] in stage]
    if not owners or parts[0] in document.tree:
        owners.append(())
    notes: list[str] = []
    for owner in owners:
        path = (*owner, *parts)
        given = Document(_nested(path, value), {(*path, *inner): place for inner, place in places.items()})
        notes += modernise(given, beside=folder, below=document.tree, code=code)
        path, now = next(_leaves(given.tree, value))
        _set(document, path, now, Place(COMMAND_LINE, number, key))
        document.places.update(given.places)
    return notes


def _nested(path: KeyPath, value: Any) -> dict[Any, Any]:
    """The value alone at its path; where a recipe has a list, a mapping from its numbers."""
    return {path[0]: _nested(path[1:], value) if path[1:] else value}


def _leaves(tree: dict[Any, Any], value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Where the value of `_nested` stands now, and what it is now."""
    for key, node in tree.items():
        if node is value or not isinstance(node, dict):
            yield (*path, key), node
        else:
            yield from _leaves(node, value, (*path, key))


def _set(document: Document, path: KeyPath, value: Any, place: Place) -> None:
    """Puts `value` at `path`, making the sections on the way; raises RecipeError where the way is blocked."""
    node: Any = document.tree
    for depth, part in enumerate(path):
        here, last = path[: depth + 1], depth == len(path) - 1
        if isinstance(node, list) and not (isinstance(part, int) and part < len(node)):
            raise RecipeError(
                place.says(f"'{_dotted(path[:depth])}' is a list of {len(node)}; there is no item '{part}'")
            )
        if not isinstance(node, dict | list):
            raise RecipeError(place.says(f"'{_dotted(path[:depth])}' is a value, not a section"))
        key = part if isinstance(node, list) else str(part)
        if last:
            node[key] = value
        elif isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
            document.places[here] = place
        node = node[key]


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _expand_stages(document: Document) -> Document:
    """Moves the stage sections at the top into the stages: under each stage's own keys, or as the only stage."""
    shared = {key: value for key, value in document.tree.items() if key in STAGE_SECTIONS}
    tree = {key: value for key, value in document.tree.items() if key not in STAGE_SECTIONS}
    places = {path: at for path, at in document.places.items() if not path or path[0] not in STAGE_SECTIONS}
    base = Document(shared, {path: at for path, at in document.places.items() if path and path[0] in STAGE_SECTIONS})
    if "stages" not in tree:
        tree["stages"] = [shared]
        places |= {("stages",): document.places[()], ("stages", 0): document.places[()]}
        places |= {("stages", 0, *path): at for path, at in base.places.items()}
        return Document(tree, places)
    if not isinstance(tree["stages"], list):
        return Document(tree, places)
    stages = []
    for i, stage in enumerate(tree["stages"]):
        if not isinstance(stage, dict):
            stages.append(stage)
            continue
        own = {path[2:]: at for path, at in document.places.items() if path[:2] == ("stages", i)}
        merged = overlay(base, Document(stage, own))
        stages.append(merged.tree)
        places |= {("stages", i, *path): at for path, at in merged.places.items()}
    return Document({**tree, "stages": stages}, places)


def _validate(tree: dict[str, Any], path: Path, located: Located, *, code: bool) -> Recipe | None:
    """The checked recipe; None (and problems in `located`) when a section is wrong."""
    if "file" in tree:
        located.add(("file",), "is not a setting")
        del tree["file"]
    recipe = None
    try:
        recipe = Recipe.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        explain_validation(error, model=Recipe, tree=tree, base=(), top=Recipe, located=located)
    stages = tree["stages"] if isinstance(tree["stages"], list) else []
    found = [_check_stage(stage, i, path.parent, located, code=code) for i, stage in enumerate(stages)]
    algorithms = [pair for pair in found if pair is not None]
    if recipe is None or located or len(algorithms) < len(found):
        return None
    filled = tuple(
        stage if config is None else stage.model_copy(update={"algorithm": config.model_dump(mode="json")})
        for stage, (_, config) in zip(recipe.stages, algorithms, strict=True)
    )
    recipe = recipe.model_copy(update={"file": path, "stages": filled})
    for key_path, problem in broken_rules(recipe, algorithms):
        located.add(key_path, problem)
    return recipe


def _check_stage(stage: Any, i: int, folder: Path, located: Located, *, code: bool) -> Resolved | None:
    """Looks up what a stage names, whatever else may be wrong with it; returns its algorithm and Config."""
    if not isinstance(stage, dict):
        return None
    rewards = stage.get("rewards")
    for j, spec in enumerate(rewards if isinstance(rewards, list) else []):
        _check_named("rewards", spec, ("stages", i, "rewards", j), folder, located)
    environment = stage.get("environment")
    _check_named("environments", environment, ("stages", i, "environment"), folder, located)
    tools = environment.get("tools") if isinstance(environment, dict) else None
    for j, spec in enumerate(tools if isinstance(tools, list) else []):
        named = {"name": spec} if isinstance(spec, str) else spec
        _check_named("tools", named, ("stages", i, "environment", "tools", j), folder, located)
    section = stage.get("algorithm")
    if not isinstance(section, dict):
        return None
    key = ("stages", i, "algorithm")
    name = section.get("type")
    if not isinstance(name, str):
        problem = f"wants a name; got {describe(name)}" if "type" in section else "is missing"
        located.add((*key, "type"), f"{problem} (see `alignkit ls algorithms`)")
        for near in difflib.get_close_matches("type", [other for other in section if other != "type"], n=1):
            located.add((*key, near), "is not a setting (did you mean 'type'?)")
        return None
    try:
        if not code and not find("algorithms", name, beside=folder).is_shipped:
            return UNREAD
        algorithm = load_algorithm(name, beside=folder)
    except ContentError as error:
        located.add((*key, "type"), str(error))
        return None
    try:
        return algorithm, algorithm.config.model_validate_json(json.dumps(section), strict=True)
    except ValidationError as error:
        explain_validation(error, model=algorithm.config, tree=section, base=key, top=Recipe, located=located)
    return None


def _check_named(kind: str, spec: Any, key: KeyPath, folder: Path, located: Located) -> None:
    """That the reward or environment exists and takes the options; its file is read, not imported."""
    name = spec.get("name") if isinstance(spec, dict) else None
    if not isinstance(name, str):
        return
    try:
        found = find(kind, name, beside=folder)
    except ContentError as error:
        located.add((*key, "name"), str(error))
        return
    known = function_options(found.path, found.attribute or found.name)
    options = spec.get("options")
    if known is None or not isinstance(options, dict):
        return
    for option in options:
        if option not in known:
            problem = f"is not an option of {found.name}{did_you_mean(option, known)}"
            located.add((*key, "options", option), problem)


def _shown(path: Path) -> str:
    """The path as errors show it: relative to the working folder when it lies in it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
