"""Single changes of the maths in a file: a sign, operator, comparison, constant, mask, shift, detach, least or most."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

PACKAGE = Path(__file__).resolve().parents[1] / "alignkit"
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
DROPPED = {"detach", "clamp", "exp", "float", "abs"}  # methods without which the value has the same shape
OPPOSITE = {"amin": "amax", "amax": "amin", "min": "max", "max": "min"}
LARGE = 10  # from there on a constant is doubled: 1 more would be too little to see
WORDS = ("explain", "requires")  # functions that say sentences, not maths
OPTIMIZED = 1  # CPython's flag of functions' code, which that of classes lacks
Change = Callable[[ast.AST], ast.AST]


@dataclass(frozen=True)
class Mutant:
    """One change. file: relative to alignkit/. line, becomes: the lines of the changed expression, on one line.
    first, last: the lines of which a test must run one to notice. whole: the file. node, change: what becomes what."""

    file: Path
    line: str
    becomes: str
    first: int
    last: int
    whole: ast.Module
    node: ast.AST
    change: Change

    def __str__(self) -> str:
        return f"{self.file}:{self.first}\n    {self.line}\n    {self.becomes}"

    def code(self) -> list[tuple[CodeType, CodeType]]:
        """The functions that it changes: as they are, and changed."""
        path = str(PACKAGE / self.file)
        return list(_differences(compile(self.whole, path, "exec"), compile(self._changed(), path, "exec")))

    def globals(self) -> CodeType | None:
        """The module's constant that it changes, as code to run in the module; None where it changes a function."""
        for before, after in zip(self.whole.body, self._changed().body, strict=True):
            if _is_constant(before) and before.lineno <= self.first <= (before.end_lineno or 0):
                return compile(ast.Module([after], []), str(PACKAGE / self.file), "exec")
        return None

    def _changed(self) -> ast.Module:
        """The file's tree with the node replaced by its changed copy."""
        memo: dict[int, ast.AST] = {}
        twin = copy.deepcopy(self.whole, memo)
        wanted, change, place = memo[id(self.node)], self.change, self.node

        class Replace(ast.NodeTransformer):
            def visit(self, node: ast.AST) -> ast.AST:
                return ast.copy_location(change(node), place) if node is wanted else self.generic_visit(node)

        return ast.fix_missing_locations(Replace().visit(twin))


def mutants(file: Path) -> list[Mutant]:
    """Every change of one file, relative to alignkit/; what a reader sees alike is one change."""
    source = (PACKAGE / file).read_text()
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    found = {}
    for node in _maths(tree):
        if _makes_no_difference(node, parents[node]):
            continue
        for change in _changes(node):
            first, last = _statement(node, parents), node.end_lineno or node.lineno
            before, after = _lines(source, node, change)
            found[before, after, first] = Mutant(file, before, after, first, last, tree, node, change)
    return list(found.values())


def _maths(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node of a function's body, of a lambda beside a module's functions, and of a module's constants."""
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef):
            if statement.name not in WORDS:
                yield from (node for one in statement.body for node in _spoken(one))
        elif isinstance(statement, ast.ClassDef):
            methods = (one for one in statement.body if isinstance(one, ast.FunctionDef))
            yield from (node for method in methods for one in method.body for node in _spoken(one))
        elif _is_constant(statement):
            yield from ast.walk(statement)
        else:
            lambdas = [keyword for keyword in ast.walk(statement) if isinstance(keyword, ast.keyword)]
            wanted = (one.value for one in lambdas if isinstance(one.value, ast.Lambda) and one.arg not in WORDS)
            yield from (node for one in wanted for node in ast.walk(one.body))


def _makes_no_difference(node: ast.AST, parent: ast.AST) -> bool:
    """The sign of -1 as an axis, which is the last one of a matrix anyway, and whether a zip is strict."""
    axis = isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant) and node.operand.value == 1
    return (axis and isinstance(parent, ast.Call | ast.keyword)) or getattr(parent, "arg", None) == "strict"


def _spoken(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement without those of errors and docstrings, whose numbers are words."""
    if isinstance(statement, ast.Raise) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    ):
        return
    plain = (node for one in ast.walk(statement) if _is_float(one) for node in ast.walk(one))
    detached = {node for node in plain if isinstance(node, ast.Attribute) and node.attr == "detach"}
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Raise | ast.JoinedStr):
            continue
        if not (isinstance(node, ast.Call) and node.func in detached):  # a float has no gradient
            yield node
        todo += ast.iter_child_nodes(node)


def _is_float(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "float"


def _is_constant(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Assign):
        return False
    return not (isinstance(statement.value, ast.Call) and ast.unparse(statement.value.func).endswith("Algorithm"))


def _changes(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPPED:
            yield _swap_operator
        case ast.Compare(ops=[op, *_]) if type(op) in SWAPPED:
            yield _swap_comparison
        case ast.UnaryOp(op=ast.USub() | ast.Invert() | ast.Not()):
            yield lambda one: one.operand
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            yield lambda one: ast.Constant(one.value + 1 if abs(one.value) < LARGE else one.value * 2)
        case ast.Constant(value=bool()):
            yield lambda one: ast.Constant(not one.value)
        case ast.Call(func=ast.Attribute(attr=name)) if name in DROPPED:
            yield _drop_method
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in OPPOSITE:
            yield _swap_extreme
        case ast.Subscript(value=ast.Attribute(attr="parent")):
            yield lambda one: one.slice
        case ast.Attribute(attr="action_mask", ctx=ast.Load()):
            yield lambda one: ast.parse(f"({ast.unparse(one.value)}.segment >= 0)", mode="eval").body


def _swap_operator(node: ast.AST) -> ast.AST:
    node.op = SWAPPED[type(node.op)]()
    return node


def _swap_comparison(node: ast.AST) -> ast.AST:
    node.ops[0] = SWAPPED[type(node.ops[0])]()
    return node


def _drop_method(node: ast.AST) -> ast.AST:
    value = node.func.value
    return node.args[0] if isinstance(value, ast.Name) and value.id in ("math", "torch") else value


def _swap_extreme(node: ast.AST) -> ast.AST:
    if isinstance(node.func, ast.Name):
        node.func.id = OPPOSITE[node.func.id]
    else:
        node.func.attr = OPPOSITE[node.func.attr]
    return node


def _statement(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> int:
    """The first line of the statement or lambda that holds the node."""
    while not isinstance(node, ast.stmt) and not isinstance(parents[node], ast.Lambda):
        node = parents[node]
    return node.lineno


def _lines(source: str, node: ast.AST, change: Change) -> tuple[str, str]:
    """The lines on which a node stands, without and with the change, each as one line."""
    lines = source.encode().splitlines()[node.lineno - 1 : node.end_lineno]
    end = len(lines[-1]) - node.end_col_offset
    text = b"\n".join(lines).decode()
    changed = change(copy.deepcopy(node))
    said = f"({ast.unparse(changed)})" if isinstance(changed, ast.Compare) else ast.unparse(changed)
    after = text[: node.col_offset] + said + text[len(text) - end :]
    return re.sub(r"\s+", " ", text).strip(), re.sub(r"\s+", " ", after).strip()


def _differences(before: CodeType, after: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    for old, new in zip(before.co_consts, after.co_consts, strict=False):
        if isinstance(old, CodeType) and isinstance(new, CodeType) and old != new:
            if old.co_flags & OPTIMIZED:
                yield old, new
            else:
                yield from _differences(old, new)
