"""Prints how much there is to read, checked against the promises of docs/architecture.md; exit 1 when one is broken.

Lines are all lines of a file, comments and blank lines included. Counted are: every file of the package, every
algorithm, every algorithm with the pure functions it calls and the step that applies it, and the path of one training
step through the files that tell it. That path leaves out the pure functions and what lies behind an interface: the
processes of the engine and of the rewards, attention kernels.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "alignkit"
FILE_LINES = 400
ALGORITHM_LINES = 120
METHOD_FILES, METHOD_LINES = 5, 600
PATH_FILES, PATH_LINES = 10, 1850

STEP = "train/step.py"
PATH = {
    "the loop": "train/loop.py",
    "sample": "rollout/vllm.py",
    "collect": "rollout/collect.py",
    "score": "rewards/pool.py",
    "draw and pack": "train/source.py",
    "batch": "types/batch.py",
    "log-probs": "models/forward.py",
    "loss": "algorithms/grpo.py",
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


def called_ops(algorithm: Path) -> list[Path]:
    """The files of alignkit/ops that an algorithm's source names."""
    text = algorithm.read_text()
    names = set(re.findall(r"\bops\.(\w+)\.", text)) | set(re.findall(r"\bops\.(\w+) import", text))
    names |= set(re.findall(r"getattr\(ops\.(\w+)", text))
    return [PACKAGE / "ops" / f"{name}.py" for name in sorted(names)]


def method(algorithm: Path) -> list[Count]:
    """What must be read to know everything about one method."""
    beside = [*called_ops(algorithm), PACKAGE / STEP]
    names = ", ".join(path.stem for path in beside)
    total = lines(algorithm) + sum(map(lines, beside))
    return [
        Count(f"lines of algorithms/{algorithm.name}", lines(algorithm), ALGORITHM_LINES),
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


def counts() -> list[Count]:
    longest = max(PACKAGE.rglob("*.py"), key=lines)
    algorithms = sorted(path for path in (PACKAGE / "algorithms").glob("*.py") if "ALGORITHM = " in path.read_text())
    result = [Count(f"lines of the longest file, {longest.relative_to(ROOT)}", lines(longest), FILE_LINES)]
    for algorithm in algorithms:
        result += method(algorithm)
    return result + path_of_a_step()


def main() -> int:
    found = counts()
    print(*found, sep="\n")
    total = sum(map(lines, PACKAGE.rglob("*.py")))
    print(f"       {total:5} lines of Python in alignkit/ in all")
    return int(not all(count.holds for count in found))


if __name__ == "__main__":
    sys.exit(main())
