"""Prints how much there is to read, checked against the promises of docs/architecture.md; exit 1 when one is broken.

Lines are all lines of a file, comments and blank lines included. Counted are: every file of the package, the statements
of every algorithm, every algorithm with the pure functions and other algorithms it calls and the step that applies it,
and two paths of one GRPO step: the one that a reader is told, which leaves out the pure functions and what lies behind
an interface, and the one that the trainer's process really passes, measured (.ci/step_files.py).
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "alignkit"
FILE_LINES = 400
ALGORITHM_STATEMENTS = 65  # statements rather than lines, so that nobody writes five assignments on a line
METHOD_FILES, METHOD_LINES = 7, 701  # the terms of a policy gradient stand once, in ops/policy_terms.py
PATH_FILES, PATH_LINES = 10, 1850
STEP_FILES, STEP_LINES = 36, 4500
RUN_FILES = 25
HEALTH = ("train/health.py", "train/untrained.py")  # the second sees gradients as they come about

STEP = "train/step.py"
PATH = {
    "the loop": "train/loop.py",
    "sample": "engines/vllm/engine.py",
    "collect": "rollout/collect.py",
    "score": "rewards/pool/pool.py",
    "draw and pack": "train/source.py",
    "batch": "types/batch.py",
    "log-probs": "models/forward.py",
    "loss": "algorithms/rollouts/grpo.py",
    "step": STEP,
    "sync": "train/sync.py",
}


@dataclass(frozen=True)
class Count:
    """One promise: `got` must not exceed `limit`."""

    what: str
    got: int
    limit: int

    @property
    def holds(self) -> bool:
        return self.got <= self.limit

    def __str__(self) -> str:
        return f"{'ok    ' if self.holds else 'BROKEN'} {self.got:5} of {self.limit:5}  {self.what}"


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def statements(path: Path) -> int:
    """Statements of a file; docstrings and imports are none."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.stmt)]
    bare = (ast.Import, ast.ImportFrom)
    return sum(not isinstance(node, bare) and not _is_text(node) for node in nodes)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def called_algorithms(algorithm: Path) -> list[Path]:
    """The files of other algorithms that an algorithm's source imports, and those that these import."""
    found: list[Path] = []
    for node in ast.walk(ast.parse(algorithm.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alignkit.algorithms"):
            folder = PACKAGE.parent / str(node.module).replace(".", "/")
            near = [path for alias in node.names if (path := folder / f"{alias.name}.py").is_file()]
            found += [path for path in near if path.name != "base.py"]
    return list(dict.fromkeys([*found, *(path for one in found for path in called_algorithms(one))]))


def called_ops(algorithm: Path) -> list[Path]:
    """The files of alignkit/ops that an algorithm's source names."""
    text = algorithm.read_text()
    names = set(re.findall(r"\bops\.(\w+)\.", text)) | set(re.findall(r"\bops\.(\w+) import", text))
    names |= set(re.findall(r"getattr\(ops\.(\w+)", text))
    return [PACKAGE / "ops" / f"{name}.py" for name in sorted(names)]


def method(algorithm: Path) -> list[Count]:
    """What must be read to know everything about one method."""
    others = called_algorithms(algorithm)
    called = dict.fromkeys(path for one in (algorithm, *others) for path in called_ops(one))
    beside = [*others, *called, PACKAGE / STEP]
    names = ", ".join(path.stem for path in beside)
    total = lines(algorithm) + sum(map(lines, beside))
    return [
        Count(f"statements of {algorithm.relative_to(PACKAGE)}", statements(algorithm), ALGORITHM_STATEMENTS),
        Count(f"files {algorithm.stem} stands on: {names}", len(beside), METHOD_FILES),
        Count(f"lines of {algorithm.stem} and of these", total, METHOD_LINES),
    ]


def path_of_a_step() -> list[Count]:
    files = [PACKAGE / name for name in PATH.values()]
    told = " -> ".join(f"{what} ({lines(file)})" for what, file in zip(PATH, files, strict=True))
    return [
        Count(f"files on the path of one step: {told}", len(files), PATH_FILES),
        Count("lines on that path", sum(map(lines, files)), PATH_LINES),
    ]


def step_measured() -> list[Count]:
    """The files that one warm step executes, with and without what follows it: records, health, the life cycle."""
    command = [sys.executable, str(ROOT / ".ci" / "step_files.py")]
    passed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    told = {path: count for path, count in passed["step"].items() if path not in HEALTH}
    whole = passed["step"] | passed["finish"]
    everything = f"{len(whole)} files and {sum(whole.values())} lines with records, health and run/"
    return [
        Count(f"files that a GRPO step passes, measured; {everything}", len(told), STEP_FILES),
        Count("lines of these", sum(told.values()), STEP_LINES),
        Count("files of run/ for `alignkit train`", len([*(PACKAGE / "run" / "train").glob("[!_]*.py")]), RUN_FILES),
    ]


def counts() -> list[Count]:
    longest = max(PACKAGE.rglob("*.py"), key=lines)
    algorithms = sorted(path for path in (PACKAGE / "algorithms").rglob("*.py") if "ALGORITHM = " in path.read_text())
    result = [Count(f"lines of the longest file, {longest.relative_to(ROOT)}", lines(longest), FILE_LINES)]
    for algorithm in algorithms:
        result += method(algorithm)
    return result + path_of_a_step() + step_measured()


def main() -> int:
    found = counts()
    print(*found, sep="\n")
    total = sum(map(lines, PACKAGE.rglob("*.py")))
    print(f"       {total:5} lines of Python in alignkit/ in all")
    return int(not all(count.holds for count in found))


if __name__ == "__main__":
    sys.exit(main())
