"""Holds the pins of a requirements file against .ci/vulnerability_floors.toml; exit 1 when one lies below its floor.

python .ci/pins.py [REQUIREMENTS [FLOORS]]

No network is asked. What the list does not know is not found: the last line says how many pins have no floor at all.
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "requirements-cpu.txt"
FLOORS = ROOT / ".ci" / "vulnerability_floors.toml"


@dataclass(frozen=True)
class Floor:
    """`version` of `package` is the oldest in which `id` is mended."""

    package: str
    version: str
    id: str
    what: str
    pin: str = ""

    @property
    def names(self) -> list[str]:
        """What it may be pinned as."""
        return [canonical(name) for name in (self.pin, self.package) if name]


def canonical(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(text: str) -> dict[str, str]:
    """Version by name for the lines `name==version` of a requirements file; other lines, comments apart, are errors."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        requirement = line.partition("#")[0].strip()
        if not requirement:
            continue
        name, is_pin, version = requirement.partition("==")
        if not is_pin:
            raise ValueError(f"line {number} is not pinned: {requirement!r}; write name==version")
        found[canonical(name.strip())] = version.partition(";")[0].strip()
    return found


def floors(text: str) -> list[Floor]:
    return [Floor(**entry) for entry in tomllib.loads(text)["floor"]]


def below(pins: dict[str, str], wanted: list[Floor]) -> list[str]:
    """One line for each pin that is older than a floor, and for each floor of what is not pinned any more."""
    lines = []
    for floor in wanted:
        name = next((name for name in floor.names if name in pins), None)
        if name is None:
            lines.append(f"{floor.names[0]} has a floor ({floor.id}) but no pin; take it out, or name its `pin`")
        elif Version(pins[name]) < Version(floor.version):
            lines.append(f"{name}=={pins[name]} lies below {floor.version}: {floor.id}, {floor.what}")
    return lines


def main(arguments: list[str]) -> int:
    requirements, known = (*map(Path, arguments), *(PINS, FLOORS)[len(arguments) :])
    try:
        pins, wanted = pinned(requirements.read_text(encoding="utf-8")), floors(known.read_text(encoding="utf-8"))
        faults = below(pins, wanted)
    except (OSError, ValueError, KeyError, TypeError, InvalidVersion) as error:
        print(f"pins: {error}", file=sys.stderr)
        return 2
    for fault in faults:
        print(f"BROKEN {fault}")
    covered = {name for floor in wanted for name in floor.names} & pins.keys()
    without = len(pins) - len(covered)
    print(f"{len(pins)} pins: {len(covered)} have a floor ({len(wanted)} vulnerabilities), {without} none")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
