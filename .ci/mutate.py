"""Changes one thing at a time in alignkit/algorithms and alignkit/ops, and says which changes no test notices.

python .ci/mutate.py                          # 100 changes, drawn by the seed 0, two at a time
python .ci/mutate.py --sample 40 --seed 1     # others
python .ci/mutate.py algorithms/rollouts/grpo.py ops/kl.py --sample 0      # every change of these files

A change: a sign, an operator, a comparison, a constant, a mask, a shift by one token (`parent`), a detach. Each is
tried in a copy of the tree, on the tests that name the changed file and on the contract tests of the algorithms that
use it. One that makes no difference is for a reader to tell; whatever else survives needs a test.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("algorithms", "ops")
LIMIT_S = 600
CONTRACTS = [f"tests/contracts/test_{name}.py" for name in ("algorithms", "meaning", "examples")]
HOMES = "ops|algorithms|rollouts|preferences|reward_models|turns"
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip
DROPPED = {"detach", "clamp", "exp", "float", "abs"}  # methods without which the value has the same shape


@dataclass(frozen=True)
class Mutant:
    file: Path
    line: int
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def mutants(file: Path) -> Iterator[Mutant]:
    """Every change of one file, relative to alignkit/."""
    tree = ast.parse((ROOT / "alignkit" / file).read_text())
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        if function.name in ("explain", "requires"):  # words, not maths
            continue
        body = [statement for statement in function.body if not _is_docstring(statement)]
        for node in (one for statement in body for one in ast.walk(statement)):
            for what, change in _changes(node):
                yield Mutant(file, node.lineno, what, _changed(tree, node, change))


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST]]]:
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        yield f"{_text(node)} with {SWAPPED[type(node.op)].__name__}", _swap_operator
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield f"{_text(node)} with {SWAPPED[type(node.ops[0])].__name__}", _swap_comparison
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert):
        yield f"{_text(node)} without {type(node.op).__name__}", lambda one: one.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield f"constant {node.value} + 1", lambda one: ast.Constant(one.value + 1)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED:
        yield f"{_text(node)} without {node.func.attr}", lambda one: one.func.value
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "parent":
        yield f"{_text(node)} not shifted", lambda one: one.slice
    if isinstance(node, ast.Attribute) and node.attr == "action_mask" and isinstance(node.ctx, ast.Load):
        yield (
            f"{_text(node)} true for every completion token",
            lambda one: ast.parse(f"({_text(one.value)}.segment >= 0)", mode="eval").body,
        )


def _swap_operator(node: ast.AST) -> ast.AST:
    node.op = SWAPPED[type(node.op)]()
    return node


def _swap_comparison(node: ast.AST) -> ast.AST:
    node.ops[0] = SWAPPED[type(node.ops[0])]()
    return node


def _changed(tree: ast.Module, node: ast.AST, change: Callable[[ast.AST], ast.AST]) -> str:
    """The source with `node` replaced by its changed copy."""

    class Replace(ast.NodeTransformer):
        def visit(self, one: ast.AST) -> ast.AST:
            return change(copy.deepcopy(node)) if one is node else self.generic_visit(one)

    memo: dict[int, ast.AST] = {}
    twin = copy.deepcopy(tree, memo)
    node = memo[id(node)]
    return ast.unparse(ast.fix_missing_locations(Replace().visit(twin)))


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _text(node: ast.AST) -> str:
    return re.sub(r"\s+", " ", ast.unparse(node))[:70]


def tests_of(file: Path) -> list[str]:
    """The test files that name the module, and the arguments that choose the contract tests of an algorithm."""
    name = file.stem
    pattern = re.compile(rf"\b({HOMES})\.{name}\b|\b({HOMES}) import .*\b{name}\b|^ +{name},$", re.MULTILINE)
    files = sorted((ROOT / "tests").glob("unit/test_*.py")) + sorted((ROOT / "tests").glob("golden/test_*.py"))
    named = [str(path.relative_to(ROOT)) for path in files if pattern.search(path.read_text())]
    return named or [str(path.relative_to(ROOT)) for path in files if path.parent.name == "golden"]


def contracts_of(file: Path) -> list[str]:
    """Contract tests of the algorithms whose source names the module, its own first."""
    users = [file.stem] if file.parts[0] == "algorithms" else []
    for path in sorted((ROOT / "alignkit" / "algorithms").rglob("*.py")):
        if re.search(rf"\b{file.stem}\b", path.read_text()) and "ALGORITHM = " in path.read_text():
            users.append(path.stem)
    chosen = " or ".join(f"[{user}" for user in dict.fromkeys(users[:3]))
    return ["-k", chosen, *(one for one in CONTRACTS if (ROOT / one).is_file())] if chosen else []


def survives(mutant: Mutant, tree: Path) -> bool:
    """Whether all its tests pass. tree: a copy of the project that nobody else uses."""
    chosen = [arguments for arguments in (tests_of(mutant.file), contracts_of(mutant.file)) if arguments]
    target = tree / "alignkit" / mutant.file
    before = target.read_text()
    target.write_text(mutant.source)
    try:
        return all(_passes(tree, arguments) for arguments in chosen)
    finally:
        target.write_text(before)


def check_unchanged(chosen: list[Mutant], tree: Path) -> None:
    """Raises SystemExit when tests fail on the tree as it is: they would notice every change."""
    for file in dict.fromkeys(mutant.file for mutant in chosen):
        for arguments in filter(None, (tests_of(file), contracts_of(file))):
            if not _passes(tree, arguments):
                raise SystemExit(f"{file}: its tests fail without any change: pytest {' '.join(arguments)}")


def _passes(tree: Path, arguments: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode in (0, 5)  # 5: no test was chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "files", nargs="*", type=Path, help="relative to alignkit/; default: all of algorithms/ and ops/"
    )
    parser.add_argument("--sample", type=int, default=100, help="how many changes, drawn at random; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    package = ROOT / "alignkit"
    files = arguments.files or [one.relative_to(package) for room in ROOMS for one in (package / room).rglob("*.py")]
    every = list({(m.line, m.source): m for file in sorted(files) for m in mutants(file)}.values())
    chosen = Random(arguments.seed).sample(every, arguments.sample) if 0 < arguments.sample < len(every) else every
    print(f"{len(chosen)} of {len(every)} changes in {len(files)} files", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        left = list(_survivors(chosen, Path(folder), arguments.jobs))
    print(f"{len(chosen) - len(left)} of {len(chosen)} noticed, {len(left)} not")
    sys.exit(1 if left else 0)


def _survivors(chosen: list[Mutant], folder: Path, jobs: int) -> Iterator[Mutant]:
    trees = []
    for number in range(jobs):
        trees.append(folder / str(number))
        for name in (
            "alignkit",
            "tests",
            "recipes",
            "reward_models",
            "evals",
            "launch",
            "docs",
            ".ci",
            "pyproject.toml",
        ):
            copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            trees[-1].mkdir(exist_ok=True)
            copied(ROOT / name, trees[-1] / name)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:

        def work(number: int) -> list[Mutant]:
            check_unchanged(chosen[number::jobs], trees[number])
            left = []
            for mutant in chosen[number::jobs]:
                if survives(mutant, trees[number]):
                    left.append(mutant)
                    print(f"NOT NOTICED  {mutant}", flush=True)
            return left

        for left in pool.map(work, range(jobs)):
            yield from left


if __name__ == "__main__":
    main()
