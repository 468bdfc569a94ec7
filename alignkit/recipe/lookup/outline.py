"""What a file says about itself, read without importing it: its first line, the names it defines, their options."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from alignkit.types.syntax import parsed


def outline(path: Path) -> tuple[str, frozenset[str] | None]:
    """First docstring (or comment) line of a file, and the names a Python file defines.

    Where a Python file cannot be read or parsed, the line says so and the names are None.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot be read: {error}", None
    return _outline_of(text) if path.suffix == ".py" else (_first_comment(text), frozenset())


@functools.lru_cache(maxsize=1024)  # a recipe's names are looked up in the same files again and again
def _outline_of(text: str) -> tuple[str, frozenset[str] | None]:
    try:
        module = parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"is not valid Python: {error}", None
    summary = (ast.get_docstring(module) or "").partition("\n")[0]
    return summary, frozenset(_defined_names(module))


_tree = functools.lru_cache(maxsize=16)(parsed)  # of the few files that a recipe names, each asked several times


def function_options(path: Path, function: str) -> set[str] | None:
    """Names of the arguments of a function or class in a file that parses; None when it takes any or is neither."""
    for node in _tree(path.read_text(encoding="utf-8")).body:
        if getattr(node, "name", None) == function:
            definition = _initializer(node) if isinstance(node, ast.ClassDef) else node
            if isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef) and not definition.args.kwarg:
                return _arguments(definition)
    return None


def keyword_functions(path: Path, wanted: set[str]) -> dict[str, set[str]]:
    """The public functions of a file that parses whose arguments are all keywords, `wanted` among them; the others."""
    functions = [node for node in _tree(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    public = {node.name: _arguments(node) for node in functions if not node.name.startswith("_") and not node.args.args}
    return {name: arguments - wanted for name, arguments in public.items() if wanted <= arguments}


def module_file(module: str) -> Path | None:
    """The file of a dotted module name. Only the top-level package is looked up, nothing is imported."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for location in spec.submodule_search_locations or ():
        base = Path(location, *rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def _arguments(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {argument.arg for argument in (*definition.args.args, *definition.args.kwonlyargs)}


def _initializer(node: ast.ClassDef) -> ast.stmt | None:
    return next((inner for inner in node.body if getattr(inner, "name", None) == "__init__"), None)


def _defined_names(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)


def _first_comment(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("# ") and not line.startswith("# yaml-language-server"):
            return line[2:].strip()
    return ""
