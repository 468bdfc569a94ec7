"""Writes tries and failures of every promise into docs/trust.md, for the tests that .ci/trust.toml names.

python .ci/trust_table.py docs/trust.md                  # runs these tests, slow ones too
python .ci/trust_table.py docs/trust.md REPORT.xml ...   # reads reports of runs that were made already, with
                                                         # PYTHONPATH=.ci pytest -p trust_table --junitxml=REPORT.xml

A test item is one try. One that tries more says so with `record_property("tries", n)`, and a property of hypothesis
counts the examples it may draw.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / ".ci" / "trust.toml"
START, END = "<!-- trust: begin (make trust-table) -->", "<!-- trust: end -->"


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """As a pytest plugin: every item says in the report which test it is, and how many examples it may draw."""
    for item in items:
        item.user_properties.append(("test", item.nodeid.partition("[")[0]))
        settings = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if settings is not None:
            item.user_properties.append(("examples", settings.max_examples))


@dataclass(frozen=True)
class Row:
    """A promise, or a failure that once was, with the tests that prove it."""

    what: str
    tests: tuple[str, ...]


@dataclass
class Counts:
    """Tries, failures and skipped items by test (`path::name`); seconds and days of the reports they are from."""

    tries: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    seconds: float = 0.0
    days: set[str] = field(default_factory=set)

    def add(self, report: Path) -> None:
        """Counts the items of one report. Raises SystemExit for one that was written without this plugin."""
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            self.seconds += float(suite.get("time", 0))
            self.days.add(suite.get("timestamp", "")[:10])
            for case in suite.iter("testcase"):
                self._add_case(case, report)

    def _add_case(self, case: ElementTree.Element, report: Path) -> None:
        said = {one.get("name"): one.get("value", "") for one in case.iter("property")}
        test = said.get("test")
        if test is None:
            sys.exit(
                f"trust_table: {report}: {case.get('name')} does not say which test it is; run with -p trust_table"
            )
        if case.find("skipped") is not None:
            self.skipped[test] += 1
            return
        self.tries[test] += int(said.get("tries", said.get("examples", 1)))
        self.failures[test] += case.find("failure") is not None or case.find("error") is not None

    def total(self, counter: Counter, row: Row) -> int:
        return sum(number for test, number in counter.items() if test in row.tests or file_of(test) in row.tests)

    @property
    def measured(self) -> str:
        """When, where and how long."""
        system = f"{platform.system()} {platform.release().partition('-')[0]}, {os.cpu_count()} cores"
        return f"Counted on {' and '.join(sorted(self.days))}, {system}, {self.seconds / 60:.0f} minutes."


def file_of(test: str) -> str:
    return test.partition("::")[0]


def rows(kind: str) -> list[Row]:
    """The rows of one kind, `promise` or `failure`, as the list names them."""
    return [Row(entry["what"], tuple(entry["tests"])) for entry in tomllib.loads(LIST.read_text())[kind]]


def all_tests() -> list[str]:
    """Every test that a row names, once; where a file is named, not its tests again."""
    named = {test for kind in ("promise", "failure") for row in rows(kind) for test in row.tests}
    return sorted(test for test in named if "::" not in test or file_of(test) not in named)


def cells(row: Row, counts: Counts) -> list[str]:
    """What, tests, tries and failures of a row, as the table shows them."""
    if not row.tests:
        return [row.what, "none", "-", "not mended"]
    tries, skipped = counts.total(counts.tries, row), counts.total(counts.skipped, row)
    shown = [f"{tries:,}"] if tries else []
    shown += [f"{skipped} skipped here"] if skipped else []
    seen = {*counts.tries, *counts.skipped}
    waiting = [test for test in row.tests if not any(test in (one, file_of(one)) for one in seen)]
    shown += [f"{len(waiting)} of {len(row.tests)} tests not run"] if waiting and shown else []
    failures = str(counts.total(counts.failures, row)) if tries else "-"
    return [row.what, "<br>".join(f"`{test}`" for test in row.tests), "; ".join(shown) or "not run", failures]


def table(kind: str, head: str, counts: Counts) -> list[str]:
    lines = [f"| {head} | tests | tries | failures |", "| --- | --- | --- | --- |"]
    return lines + [f"| {' | '.join(cells(row, counts))} |" for row in rows(kind)]


def markdown(counts: Counts) -> str:
    between = "Failures that were once found, and what proves that they are mended:"
    promises, failures = table("promise", "promise", counts), table("failure", "what happened", counts)
    return "\n".join([counts.measured, "", *promises, "", between, "", *failures])


def run(report: Path) -> None:
    """Runs the tests, two at a time, into one report. Raises SystemExit when pytest could not run them."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".ci"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *all_tests(), "-m", "not gpu", "--timeout", "1800", "-n", "2",
               "-p", "trust_table", f"--junitxml={report}"]  # fmt: skip
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if code not in (0, 1):  # 1: tests failed, which is what the table is there to say
        sys.exit(f"trust_table: pytest ended with {code}; nothing was written")


def count(reports: Iterable[Path]) -> Counts:
    counts = Counts()
    for report in reports:
        counts.add(report)
    return counts


def main() -> int:
    target, *given = (Path(argument).resolve() for argument in sys.argv[1:])
    before, _, rest = target.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"{target} lacks the lines `{START}` and `{END}`")
    with tempfile.TemporaryDirectory() as folder:
        if not given:
            given = [Path(folder) / "report.xml"]
            run(given[0])
        counts = count(given)
    target.write_text(f"{before}{START}\n{markdown(counts)}\n{END}{after}", encoding="utf-8")
    every = Row("all", tuple(all_tests()))
    failures = counts.total(counts.failures, every)
    print(f"{target}: {counts.total(counts.tries, every)} tries, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
