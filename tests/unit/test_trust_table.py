"""The page on trust stands on tests that exist, and counts what they tried."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_pins import ROOT

TRUST = runpy.run_path(str(ROOT / ".ci" / "trust_table.py"))
ROWS = [row for kind in ("promise", "failure") for row in TRUST["rows"](kind)]
Row = TRUST["Row"]
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("test", sorted({test for row in ROWS for test in row.tests}))
def test_every_test_that_a_promise_names_exists(test):
    file, _, name = test.partition("::")
    functions = [node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert any(function.startswith("test_") for function in functions)
    assert not name or name in functions


def test_the_page_shows_every_promise_with_its_tests():
    for row in ROWS:
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| {row.what} |"))
        assert [test for test in row.tests if f"`{test}`" not in line] == [], "run: make trust-table"
    assert sum(line.startswith("| ") and not line.startswith("| ---") for line in between()) == len(ROWS) + 2


def test_no_promise_is_named_twice_and_all_fifteen_failures_are_there():
    assert len({row.what for row in ROWS}) == len(ROWS)
    assert [row.what.partition(":")[0] for row in TRUST["rows"]("failure")] == [str(n) for n in range(1, 16)]


def test_the_page_says_plainly_what_a_recipe_is():
    assert "**A recipe is code**" in PAGE
    assert "(rewards.md#a-recipe-is-code)" in PAGE


CASE = '<testcase classname="t" name="{name}"><properties>{said}</properties>{outcome}</testcase>'


def case(test: str, outcome: str = "", **said: int) -> str:
    properties = "".join(f'<property name="{name}" value="{value}"/>' for name, value in {"test": test, **said}.items())
    return CASE.format(name=test, said=properties, outcome=f'<{outcome} message="x"/>' if outcome else "")


def write_report(path: Path, *cases: str, time: float = 60.0) -> Path:
    head = f'<testsuite name="pytest" time="{time}" timestamp="2026-11-29T01:02:03">'
    path.write_text(f"<testsuites>{head}{''.join(cases)}</testsuite></testsuites>")
    return path


def test_tries_are_items_or_what_a_test_says_and_each_failure_counts_once(tmp_path):
    first = write_report(
        tmp_path / "fast.xml",
        case("a.py::plain"),
        case("a.py::many", tries=40),
        case("a.py::many", "failure", tries=2),
        case("a.py::drawn", examples=300),
        case("a.py::absent", "skipped"),
        case("b.py::other"),
    )
    counts = TRUST["count"]([first, write_report(tmp_path / "slow.xml", case("a.py::broken", "error"))])
    row = Row("it holds", ("a.py",))
    assert counts.total(counts.tries, row) == 1 + 40 + 2 + 300 + 1
    assert counts.total(counts.failures, row) == 2
    assert TRUST["cells"](row, counts) == ["it holds", "`a.py`", "344; 1 skipped here", "2"]
    assert TRUST["cells"](Row("late", ("c.py::late",)), counts)[2:] == ["not run", "-"]
    half = Row("half", ("a.py::plain", "c.py::late"))
    assert TRUST["cells"](half, counts)[2:] == ["1; 1 of 2 tests not run", "0"]
    assert TRUST["cells"](Row("open", ()), counts) == ["open", "none", "-", "not mended"]
    assert "2026-11-29" in counts.measured
    assert "2 minutes" in counts.measured


def test_a_report_of_a_real_run_says_tests_tries_and_examples(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\nfrom hypothesis import given, settings, strategies\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_some(n, record_property):\n    record_property('tries', 10)\n"
        "@settings(max_examples=7)\n@given(strategies.integers())\ndef test_drawn(n):\n    assert n != 0\n"
    )
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "trust_table", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".ci")}
    subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True)
    counts = TRUST["count"]([report])
    assert counts.tries == {"test_it.py::test_some": 20, "test_it.py::test_drawn": 7}
    assert +counts.failures == {"test_it.py::test_drawn": 1}


def test_a_report_that_was_written_without_the_plugin_is_refused(tmp_path):
    bare = write_report(tmp_path / "bare.xml", '<testcase classname="t" name="test_x"/>')
    with pytest.raises(SystemExit, match=r"bare\.xml: test_x does not say which test it is"):
        TRUST["count"]([bare])


def between() -> list[str]:
    return PAGE.partition(TRUST["START"])[2].partition(TRUST["END"])[0].splitlines()
