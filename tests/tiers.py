"""Which tests `make test` leaves to CI (tests/ci.toml) and which slow ones CI leaves out (tests/release.toml)."""

import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).parent
CI = HERE / "ci.toml"
RELEASE = HERE / "release.toml"


def read(file: Path) -> dict[str, list[str]]:
    """By the beginning of a test's id the patterns of what is run of it where the others are left out."""
    return {
        f"tests/{folder}/{name}": patterns
        for folder, tests in tomllib.loads(file.read_text()).items()
        for name, patterns in tests.items()
    }


def kind(test: str, table: Mapping[str, Sequence[str]]) -> str | None:
    """The line of `table` that a test's id is of: a whole file, or one function of it."""
    function = test.split("[", 1)[0]
    return next((name for name in (function, function.split("::")[0]) if name in table), None)


def is_left_out(test: str, table: Mapping[str, Sequence[str]]) -> bool:
    """Whether it is: its line is there, and what stands in its brackets fits no pattern."""
    name = kind(test, table)
    parameters = test.split("[", 1)[1].removesuffix("]") if "[" in test else ""
    if name is None or (not parameters and table[name]):
        return False
    return not any(fnmatchcase(parameters, pattern) for pattern in table[name])


def without_a_test(tests: Sequence[str], table: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines of the table that no test is of, and patterns that fit none: what was renamed or taken away."""
    found: dict[str, list[str]] = {name: [] for name in table}
    for test in tests:
        if name := kind(test, table):
            found[name].append(test)
    kept = {name: [test.split("[", 1)[-1].removesuffix("]") for test in of_it] for name, of_it in found.items()}
    idle = [
        f"{name} [{pattern}]"
        for name, patterns in table.items()
        for pattern in patterns
        if not any(fnmatchcase(parameters, pattern) for parameters in kept[name])
    ]
    return [name for name, of_it in found.items() if not of_it] + idle
