"""From a row's columns to its tests: HumanEval's `test`, MBPP's `test_list`, assert statements, inputs with outputs."""

from __future__ import annotations

import ast
import builtins
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignkit.sandbox.completion import finished
from alignkit.sandbox.process import Suite
from alignkit.types.syntax import parsed


class BadTests(ValueError):
    """The row's tests are missing or cannot be read: the row is at fault, not the policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What a script is given on its standard input and what it has to print."""

    stdin: str
    output: str


def read_tests(columns: Mapping[str, Any], reference: Any, code_prompt: str) -> Suite | tuple[Example, ...]:
    """The tests of a row. code_prompt: the prompt's own code, whose imports and helpers the tests may use.

    Taken from `test` (with `entry_point`), else `test_list` (with `test_imports` and `test_setup_code`), else `tests`,
    else the reference: source, a list of statements, a list of {"input", "output"}, {"inputs", "outputs"}, or any of
    these as JSON. Raises BadTests.
    """
    name = columns.get("entry_point")
    given = next((columns[key] for key in ("test", "test_list", "tests") if columns.get(key) is not None), reference)
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise BadTests(f"the tests are neither JSON nor Python: {error}") from error
    examples = _examples(given)
    if examples:
        return examples
    tests = [given] if isinstance(given, str) else given
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise BadTests("there are no tests in `test`, `test_list`, `tests` or the reference")
    setup = "\n".join([*(columns.get("test_imports") or ()), columns.get("test_setup_code") or ""])
    return _suite(tests, name, setup + "\n" + (finished(code_prompt) if code_prompt else ""))


def _examples(given: Any) -> tuple[Example, ...]:
    if isinstance(given, Mapping) and {"inputs", "outputs"} <= set(given):
        inputs, outputs = given["inputs"], given["outputs"]
        if len(inputs) != len(outputs):
            raise BadTests(f"the tests have {len(inputs)} inputs and {len(outputs)} outputs")
        given = [{"input": one, "output": other} for one, other in zip(inputs, outputs, strict=True)]
    if not isinstance(given, list) or not given or not all(isinstance(case, Mapping) for case in given):
        return ()
    try:
        return tuple(Example(stdin=_text(case["input"]), output=_text(case["output"])) for case in given)
    except KeyError as error:
        raise BadTests(f"a test has no {error}; wanted `input` and `output`") from error


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise BadTests(f"a test's input or output is a {type(value).__name__}; wanted text")
    return value


def _suite(tests: list[str], name: str | None, setup: str) -> Suite:
    try:
        trees = [parsed(test) for test in tests]
        known = _defined(parsed(setup)).union(*map(_defined, trees))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTests(f"the tests are no Python: {error}") from error
    called, used = _names(trees)
    own = [one for one in used if one not in known and not hasattr(builtins, one)]
    modules = [one for one in own if one in sys.stdlib_module_names and one not in called]
    names = [one for one in own if one not in modules]
    if name is None and not names:
        names = called[:1]  # a function of the program that has the name of a builtin
    check = name if name is not None and "check" in known else None
    names = list(dict.fromkeys([*names, *([name] if name else [])]))
    if not names:
        raise BadTests("the tests use no function of the program")
    imports = "".join(f"import {module}\n" for module in modules)
    return Suite(tests=tuple(tests), names=tuple(names), setup=imports + setup, check=check)


def _names(trees: list[ast.Module]) -> tuple[list[str], list[str]]:
    """Names that are called directly, outermost first, and all names that are read."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    called = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    used = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return list(dict.fromkeys(called)), list(dict.fromkeys(used))


def _defined(tree: ast.Module) -> set[str]:
    """Names that a source binds anywhere: definitions, imports, assignments, parameters."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names
