"""The Python files that decide what a found reward, environment or algorithm does."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from alignkit.recipe.lookup.find import KINDS
from alignkit.recipe.lookup.outline import module_file
from alignkit.types.syntax import parsed

_PACKAGE = Path(__file__).resolve().parents[2]
_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")


def source_files(path: Path) -> list[Path]:
    """`path` and every file of the user's own that it imports, directly or through one another, sorted.

    Nothing is imported. What is installed, the standard library and alignkit itself are left out: their versions say
    what they are. A file that cannot be parsed is returned without what it imports.
    """
    found: dict[Path, None] = {}
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = None
        waiting += [imported for imported in _imported(file) if _is_own(imported)]
    return sorted(found)


def _is_own(file: Path) -> bool:
    folders = [Path(sysconfig.get_path(name)).resolve() for name in _INSTALLED]
    folders += [_PACKAGE, *(kind.shelf.resolve() for kind in KINDS.values())]
    return file.suffix == ".py" and not any(file.is_relative_to(folder) for folder in folders)


def _imported(file: Path) -> Iterator[Path]:
    try:
        tree = parsed(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            candidates = [module_file(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            candidates = [_module_at(base), *(_module_at(base / alias.name) for alias in node.names)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            candidates = [module_file(name) for name in (node.module, *inner)]
        else:
            continue
        yield from (candidate.resolve() for candidate in candidates if candidate is not None)


def _module_at(base: Path) -> Path | None:
    places = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((place for place in places if place.is_file()), None)
