"""What a recipe says when none of the code that it names is imported, and what was not looked into for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import ContentError
from alignkit.recipe.document import KeyPath
from alignkit.recipe.lookup.find import Found, find, find_suite
from alignkit.recipe.lookup.rows_function import find_rows_function
from alignkit.recipe.problems import Located
from alignkit.recipe.read import recipe_path, resolved

if TYPE_CHECKING:
    from alignkit.recipe.schema import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """One thing that a recipe names and alignkit does not ship. key: where the recipe names it. path: the file."""

    name: str
    key: str
    path: Path

    def __str__(self) -> str:
        what = "imported" if self.path.suffix == ".py" else "looked into"
        return f"not {what}: {self.name} ({self.key})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """recipe: None when it has mistakes. problems: one located line each."""

    recipe: Recipe | None
    problems: list[str]
    unread: list[Unread]


def read_without_code(source: str | Path, overrides: Sequence[str] = ()) -> Reading:
    """A recipe read as data: no file that it names is imported or run, whatever kind of thing it stands for.

    Names, and the options of rewards, environments and data functions, are compared with the text of their files. The
    settings of an algorithm that alignkit does not ship, and the rules that hang on it, are left out.
    Raises RecipeError or ContentError when the recipe itself cannot be read.
    """
    recipe, problems, document = resolved(source, overrides, code=False)
    folder, located = recipe_path(source).parent, Located(document.places)
    unread = []
    for key, kind, name in _names(document.tree):
        found = _find(kind, name, folder)
        if found is not None and not found.is_shipped:
            unread.append(Unread(name=name, key=located.locate(key)[1], path=found.path))
    return Reading(recipe=None if problems else recipe, problems=problems, unread=unread)


def _find(kind: str, name: str, folder: Path) -> Found | None:
    """Where a name leads; None when nowhere, which is among the problems, or to something that is no file of code."""
    try:
        if kind == "data":
            return find_rows_function(name, beside=folder)
        return find_suite(name, beside=folder) if kind == "evals" else find(kind, name, beside=folder)
    except ContentError:
        return None


def _names(tree: Any) -> Iterator[tuple[KeyPath, str, str]]:
    """(key path, kind of content, name) of all that a recipe names and that can hold code."""
    for path, value in _texts(tree, ()):
        match path:
            case ("stages", int(), "rewards", int(), "name"):
                yield path, "rewards", value
            case ("stages", int(), "environment", "name"):
                yield path, "environments", value
            case ("stages", int(), "environment", "tools", int(), *rest) if rest in ([], ["name"]):
                yield path, "tools", value
            case ("stages", int(), "algorithm", "type"):
                yield path, "algorithms", value
            case (*_, "data", "source") | (*_, "data", "mixture", _, "source"):
                yield path, "data", value
            case ("evaluation", "suite"):
                yield path, "evals", value
            case ("launch",):
                yield path, "launch", value


def _texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
        return
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from _texts(below, (*path, key))
