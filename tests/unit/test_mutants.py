"""What .ci/mutants.py changes in a file, and that a changed function computes something else."""

import runpy
from pathlib import Path
from types import FunctionType

import pytest

MUTANTS = runpy.run_path(str(Path(__file__).resolve().parents[2] / ".ci" / "mutants.py"))
SOURCE = '''"""Words of 3 numbers."""

LIMIT = 20

def step(batch, rate):
    """At most 5."""
    if rate < 0:
        raise ValueError(f"got {rate}; wanted 1 - 2")
    return min(rate * 2, LIMIT) - float(batch.loss.detach())

ALGORITHM = Algorithm(heads=lambda config: config.count + 1, requires=lambda config: 7)
'''


@pytest.fixture
def changes(tmp_path) -> list:
    (tmp_path / "one.py").write_text(SOURCE)
    MUTANTS["mutants"].__globals__["PACKAGE"] = tmp_path
    return MUTANTS["mutants"](Path("one.py"))


def test_signs_operators_comparisons_constants_and_extremes_are_changed_and_words_are_not(changes):
    assert sorted(one.becomes for one in changes) == [
        "ALGORITHM = Algorithm(heads=lambda config: config.count + 2, requires=lambda config: 7)",
        "ALGORITHM = Algorithm(heads=lambda config: config.count - 1, requires=lambda config: 7)",
        "LIMIT = 40",
        "if (rate <= 0):",
        "if rate < 1:",
        "return max(rate * 2, LIMIT) - float(batch.loss.detach())",
        "return min(rate * 2, LIMIT) + float(batch.loss.detach())",
        "return min(rate * 3, LIMIT) - float(batch.loss.detach())",
        "return min(rate / 2, LIMIT) - float(batch.loss.detach())",
    ]


def test_a_changed_function_computes_something_else_and_a_constant_is_run_anew(changes):
    [added] = [one for one in changes if "config.count - 1" in one.becomes]
    [(before, after)] = added.code()
    config = type("Config", (), {"count": 4})
    assert FunctionType(before, {})(config) == 5
    assert FunctionType(after, {})(config) == 3
    assert added.globals() is None
    [limit] = [one for one in changes if one.becomes == "LIMIT = 40"]
    names: dict[str, int] = {}
    exec(limit.globals(), names)
    assert names["LIMIT"] == 40
