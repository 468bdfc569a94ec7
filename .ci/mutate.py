"""Changes one thing at a time in alignkit/algorithms and alignkit/ops, and says which changes no test notices.

python .ci/mutate.py                                            # every change; the numbers go to docs/testing.md
python .ci/mutate.py --sample 400 --seed 1                      # some of them, of every file in turn
python .ci/mutate.py algorithms/rollouts/grpo.py ops/kl.py      # every change of these files

The tests are imported and collected once, and run once with a trace of the lines that each of them runs. For each
change a process is forked, which gives the changed function its new code and runs the tests that run that line until
one fails: worked examples first, goldens, one update on a bandit, unit tests that name the file, the contract grid.
`mutants_equivalent.toml` lists changes that make no difference, with the reason; what else survives needs a test.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from mutants import PACKAGE, Mutant, mutants

ROOT = PACKAGE.parent
ROOMS = ("algorithms", "ops")
HOMES = "ops|algorithms|rollouts|preferences|reward_models|turns"
KINDS = ("test_examples", "/golden/", "test_meaning", "/unit/", "contracts/test_algorithms")
LISTED = Path(__file__).with_name("mutants_equivalent.toml")
PAGE, BEGIN, END = ROOT / "docs/testing.md", "<!-- make mutate -->\n", "<!-- /make mutate -->"
PATIENCE_S, PATIENCE = 20, 5  # a change that takes so much longer than its tests took is noticed
Line = tuple[str, int]


@dataclass
class Lab:
    """A pytest plugin: once the tests are collected it tries the changes instead of running them."""

    chosen: list[Mutant]
    survivors: list[Mutant] = field(default_factory=list)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for file in files():
            importlib.import_module(module_of(file))
        self.functions = defaultdict(list)
        for one in gc.get_objects():
            if isinstance(one, FunctionType) and one.__code__.co_filename.startswith(str(PACKAGE)):
                self.functions[one.__code__.co_filename, one.__code__.co_qualname].append(one)
        gc.freeze()  # what is forked shares these pages for as long as nobody writes to them
        self.survivors = self.chosen
        for kind in KINDS:
            items = [item for item in session.items if kind in str(item.path)]
            if kind == KINDS[-1]:
                items = grid(items, {mutant.file for mutant in self.survivors})
            if self.survivors and items:
                self.survivors = list(self._survivors(kind, items))
        return True

    def _survivors(self, kind: str, items: list[pytest.Item]) -> Iterator[Mutant]:
        """Those of the changes left that no test of this kind notices."""
        began = time.monotonic()
        runs, seconds = traced(items)
        print(f"{kind}: {len(items)} tests, traced in {time.monotonic() - began:.0f} s", flush=True)
        for mutant in self.survivors:
            order = sorted(running(mutant, runs), key=lambda number: (str(items[number].path), seconds[number]))
            limit_s = PATIENCE_S + PATIENCE * sum(seconds[number] for number in order)
            chosen = [items[number] for number in order]
            if not chosen or passes(lambda: self._passes(mutant, chosen), limit_s=int(limit_s)):  # noqa: B023
                yield mutant
        print(f"{kind}: {time.monotonic() - began:.0f} s", flush=True)

    def _passes(self, mutant: Mutant, chosen: list[pytest.Item]) -> bool:
        self._change(mutant)
        return not any(fails(item, after) for item, after in itertools.pairwise([*chosen, None]))

    def _change(self, mutant: Mutant) -> None:
        """The module's functions, wherever they are known, have the changed code from now on."""
        if (constant := mutant.globals()) is not None:
            exec(constant, sys.modules[module_of(mutant.file)].__dict__)
            return
        changed = 0
        for old, new in mutant.code():
            for function in self.functions[old.co_filename, old.co_qualname]:
                if same_place(function.__code__, old):
                    function.__code__ = new
                    changed += 1
        if not changed:
            raise LookupError(f"no function has the code of {mutant}")


def traced(items: list[pytest.Item]) -> tuple[dict[Line, set[int]], list[float]]:
    """Which tests, by number, run each line, and how long each takes. Raises SystemExit where one fails unchanged."""
    with tempfile.NamedTemporaryFile() as file:
        if not passes(lambda: _trace(items, Path(file.name)), limit_s=3600):
            raise SystemExit("a test fails without any change: see above")
        return pickle.loads(Path(file.name).read_bytes())


def _trace(items: list[pytest.Item], file: Path) -> bool:
    lines, seconds = defaultdict(set), []
    rooms = tuple(str(PACKAGE / room) for room in ROOMS)
    number = 0

    def each_line(frame: FrameType, event: str, argument: Any) -> Any:
        lines[frame.f_code.co_filename, frame.f_lineno].add(number)
        return each_line

    def each_call(frame: FrameType, event: str, argument: Any) -> Any:
        return each_line(frame, event, argument) if frame.f_code.co_filename.startswith(rooms) else None

    for number, item in enumerate(items):
        began = time.process_time()
        threading.settrace(each_call)  # ranks are threads in some tests
        sys.settrace(each_call)
        failed = fails(item, None if number + 1 == len(items) else items[number + 1])
        sys.settrace(None)
        seconds.append(time.process_time() - began)
        if failed:
            os.write(STDERR, f"{item.nodeid}\n{failed}\n".encode())
            return False
    file.write_bytes(pickle.dumps((dict(lines), seconds)))
    return True


def grid(items: list[pytest.Item], changed: set[Path]) -> list[pytest.Item]:
    """The contract tests of changed algorithms, and of those that name a changed file."""
    stems = re.compile(rf"\b({'|'.join(sorted(file.stem for file in changed))})\b")
    names = {one.stem for one in changed}
    names |= {one.stem for one in (PACKAGE / "algorithms").rglob("*.py") if stems.search(one.read_text())}
    return [item for item in items if re.split(r"[-\[\]]", f"{item.name}[")[1] in names]


def running(mutant: Mutant, runs: dict[Line, set[int]]) -> set[int]:
    """The tests that run a line of the change, of a constant any line of its file."""
    path = str(PACKAGE / mutant.file)
    if mutant.globals():
        return {number for (file, _), numbers in runs.items() if file == path for number in numbers}
    return set().union(*(runs.get((path, line), set()) for line in range(mutant.first, mutant.last + 1)))


def same_place(one: CodeType, other: CodeType) -> bool:
    """Of lambdas, which have one name, whether they stand at one place; what else has a name is known by it."""
    return one.co_name != "<lambda>" or list(one.co_positions()) == list(other.co_positions())


STDERR = os.dup(2)  # tests and their processes are not heard, what goes wrong around them is
BROKEN = 3


def passes(work: Callable[[], bool], *, limit_s: int) -> bool:
    """Whether work() is true, in a process of its own that nobody hears and that ends after its limit."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        code = BROKEN
        try:
            signal.alarm(limit_s)
            gc.disable()  # it would write to every page that is shared
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            code = 0 if work() else 1
        except BaseException:
            os.write(STDERR, traceback.format_exc().encode())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if (code := os.waitstatus_to_exitcode(status)) == BROKEN:
        raise SystemExit("a change could not be tried: see above")
    return code == 0


def fails(item: pytest.Item, after: pytest.Item | None) -> str:
    """Runs one test; the report of its failure, empty where it passes."""
    reports = runtestprotocol(item, nextitem=after, log=False)
    return "\n".join(report.longreprtext or report.outcome for report in reports if report.failed)


def files() -> list[Path]:
    """The files with maths, relative to alignkit/."""
    found = [one.relative_to(PACKAGE) for room in ROOMS for one in (PACKAGE / room).rglob("*.py")]
    return sorted(one for one in found if one.stem != "__init__" and one.parent.name != "examples")


def module_of(file: Path) -> str:
    return ".".join(("alignkit", *file.with_suffix("").parts))


def tests_of(chosen: list[Mutant]) -> list[str]:
    """The contract tests, the goldens, and the unit tests that import a changed file or load it by its name."""
    names = "|".join(sorted({mutant.file.stem for mutant in chosen}))
    imported = rf"\b({HOMES})\.({names})\b|\b({HOMES}) import .*\b({names})\b|^ +({names}),$"
    loaded = rf"(?s:\bload_algorithm\(.*[\"']({names})[\"']|[\"']({names})[\"'].*\bload_algorithm\()"
    pattern = re.compile(f"{imported}|{loaded}", re.MULTILINE)
    named = [path for path in sorted((ROOT / "tests/unit").glob("test_*.py")) if pattern.search(path.read_text())]
    contracts = [f"tests/contracts/test_{name}.py" for name in ("examples", "meaning", "algorithms")]
    return ["tests/golden", *(str(path.relative_to(ROOT)) for path in named), *contracts]


def equivalents(every: list[Mutant]) -> set[tuple[str, str, str]]:
    """(file, line, becomes) of changes that make no difference. Raises SystemExit where one is no change any more."""
    known = {(str(one.file), one.line, one.becomes) for one in every}
    listed = {(one["file"], one["line"], one["becomes"]) for one in tomllib.loads(LISTED.read_text())["equivalent"]}
    for file, line, becomes in listed - known:
        if file in {str(one.file) for one in every}:
            raise SystemExit(f"{LISTED.name}: {file} has no change of {line!r} to {becomes!r} any more: remove it")
    return listed


def sampled(every: list[Mutant], size: int, seed: int) -> list[Mutant]:
    """`size` changes drawn at random, as evenly over the files as these have them."""
    by_file = defaultdict(list)
    for mutant in Random(seed).sample(every, len(every)):
        by_file[mutant.file].append(mutant)
    rounds: Iterator[Mutant] = (
        mutants[number] for number in range(len(every)) for mutants in by_file.values() if number < len(mutants)
    )
    return [mutant for mutant, _ in zip(rounds, range(size), strict=False)]


def sentence(tried: int, equivalent: int, left: list[Mutant], seconds: float) -> str:
    numbers = (
        f"{tried} changes tried, {tried - len(left)} noticed, {len(left)} not; {equivalent} more make no difference"
    )
    by_file = Counter(str(mutant.file) for mutant in left).most_common()
    where = "".join(f"; {file} {number}" for file, number in by_file)
    return f"{numbers}{where} ({seconds / 60:.0f} min of one core)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "files", nargs="*", type=Path, help="relative to alignkit/; default: all of algorithms/ and ops/"
    )
    parser.add_argument("--sample", type=int, default=0, help="how many changes, drawn at random; default: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.process_time(), os.times().children_user
    every = [mutant for file in arguments.files or files() for mutant in mutants(file)]
    equivalent = equivalents(every)
    real = [mutant for mutant in every if (str(mutant.file), mutant.line, mutant.becomes) not in equivalent]
    chosen = sampled(real, arguments.sample, arguments.seed) if arguments.sample else real
    print(f"{len(chosen)} of {len(every)} changes, {len(every) - len(real)} make no difference", flush=True)
    lab = Lab(chosen)
    with tempfile.TemporaryDirectory() as folder:
        options = ["-s", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder}/tests"]
        options += ["-m", "not slow and not gpu"]  # those of tests/ci.toml, too
        os.chdir(ROOT)
        code = pytest.main([*options, *tests_of(chosen)], plugins=[lab])
    if code not in (0, 5):
        raise SystemExit(int(code))
    spent = time.process_time() + os.times().children_user - sum(began)
    said = sentence(len(chosen), len(every) - len(real), lab.survivors, spent)
    print("\n".join(f"NOT NOTICED  {mutant}" for mutant in lab.survivors))
    print(said)
    if not arguments.files and not arguments.sample:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + said + "\n" + END + rest.partition(END)[2])
    sys.exit(1 if lab.survivors else 0)


if __name__ == "__main__":
    main()
