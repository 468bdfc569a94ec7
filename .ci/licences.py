"""Writes the licence of every pinned package, as its metadata states it, into a Markdown file between two marks.

python .ci/licences.py docs/licences.md

Read are the expression (PEP 639), the field, the classifiers and, where all are silent, the licence file. Nothing is
guessed from a package's name: what no metadata states is listed as not stated. Of the GPU's pins that are not the CPU's
too, the metadata is the package index's, written down by .ci/lock.py in licences_gpu.txt.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- licences: begin (make licences) -->", "<!-- licences: end -->"
NOT_STATED = "not stated"
PINS = runpy.run_path(str(ROOT / ".ci" / "pins.py"))
GPU_PINS, GPU_LICENCES = ROOT / "requirements-gpu.txt", ROOT / ".ci" / "licences_gpu.txt"
canonical = PINS["canonical"]

# The first that matches decides, so the strictest come first.
KINDS = {
    "proprietary": r"proprietary|intel end user|\beula\b|nvidia",
    "GPL or AGPL": r"(?<!l)(?<!lesser )\ba?gpl|(?<!lesser )general public",
    "LGPL": r"lgpl|lesser general public",
    "MPL": r"\bmpl|mozilla",
    "permissive": r"apache|\bmit\b|bsd|\bisc|python software foundation|\bpsf|unlicense|cc0|zlib|boost|\bbsl\b",
}
ORDER = (*KINDS, NOT_STATED)
FILES = {"Apache-2.0": r"Apache License\s+Version 2\.0", "MIT": r"Permission is hereby granted, free of charge"}


@dataclass(frozen=True)
class Licence:
    """What one installed package says of itself; `kind` is one of KINDS, or NOT_STATED."""

    name: str
    version: str
    words: str
    kind: str
    asked_by: tuple[str, ...]


def stated(package: Distribution) -> str:
    """The licence in one line: expression, field, classifiers or the file's first words, in this order."""
    metadata = package.metadata
    found = written(metadata.get("License-Expression"), metadata.get("License"), metadata.get_all("Classifier") or [])
    return found or from_file(package)


def written(expression: str | None, field: str | None, classifiers: Iterable[str]) -> str:
    """What metadata says without the licence file; empty when it says nothing."""
    lines = [line for line in classifiers if line.startswith("License") and not line.endswith("approved")]
    first = next(iter((field or "").strip().splitlines()), "").strip()
    if expression:
        return expression
    if first and len(first) < 100 and not first.startswith("Copyright") and first != "Dual License":
        return first
    return " OR ".join(line.rpartition("::")[2].strip() for line in lines)


def of_the_index(metadata: Iterable[dict[str, Any]]) -> list[str]:
    """`name==version: licence` of packages of which only the index's metadata is here; what lock.py writes."""
    lines = []
    for one in metadata:
        words = written(one.get("license_expression"), one.get("license"), one.get("classifier") or [])
        lines.append(f"{canonical(one['name'])}=={one['version']}: {' '.join((words or NOT_STATED).split())}")
    return sorted(lines)


def gpus_own() -> dict[str, str]:
    """Version by name of the pins for a GPU that are not the CPU's too."""
    here, there = (PINS["pinned"](file.read_text(encoding="utf-8")) for file in (PINS["PINS"], GPU_PINS))
    return {name: version for name, version in there.items() if here.get(name) != version}


def noted(text: str) -> list[Licence]:
    """The licences of a file of such lines; comments apart."""
    found = []
    for line in filter(lambda line: line and not line.startswith("#"), text.splitlines()):
        pin, _, words = line.partition(": ")
        name, _, version = pin.partition("==")
        found.append(Licence(name, version, words, kind(words), ()))
    return found


def from_file(package: Distribution) -> str:
    own = [path for path in package.files or [] if re.search(r"^[^/]+\.dist-info/.*LICEN[CS]E[^/]*$", str(path))]
    texts = [path.read_text() for path in own]
    for name, words in FILES.items():
        if any(re.search(words, text) for text in texts):
            return f"{NOT_STATED}; its licence file is {name}"
    return NOT_STATED


def kind(words: str) -> str:
    if words.startswith(NOT_STATED):
        return NOT_STATED
    return next((name for name, pattern in KINDS.items() if re.search(pattern, words, re.IGNORECASE)), NOT_STATED)


def askers() -> dict[str, set[str]]:
    """Names of the installed packages that ask for a name, without what they ask for in an extra only."""
    found: dict[str, set[str]] = {}
    for package in distributions():
        for requirement in package.requires or []:
            if not re.search(r";.*\bextra\b", requirement):
                wanted = canonical(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
                found.setdefault(wanted, set()).add(canonical(package.name))
    return found


def licences(names: list[str]) -> list[Licence]:
    """One entry per name, in order; a package that is not installed says nothing, and that is said."""
    wanted_by, found = askers(), []
    for name in sorted(names):
        by = tuple(sorted(wanted_by.get(name, ())))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            found.append(Licence(name, "-", f"{NOT_STATED}; not installed here", NOT_STATED, by))
            continue
        words = stated(package)
        found.append(Licence(name, package.version.partition("+")[0], words, kind(words), by))
    return found


def table(rows: list[Licence], *, with_askers: bool) -> list[str]:
    heads = ["package", "version", "licence", *(["asked for by"] if with_askers else [])]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = [row.name, row.version, row.words.replace("|", "/")]
        by = [", ".join(row.asked_by) or "alignkit's own list, or an extra"] if with_askers else []
        lines.append(f"| {' | '.join(cells + by)} |")
    return lines


def counted(found: list[Licence]) -> str:
    counts = Counter(licence.kind for licence in found)
    kinds = ", ".join(f"{counts[name]} {name}" for name in ORDER[::-1] if counts[name])
    return f"{len(found)} packages: {kinds}."


def markdown(found: list[Licence], on_gpus: list[Licence]) -> str:
    special = [licence for licence in found if licence.kind != "permissive"]
    lines = [
        counted(found),
        "",
        "### Not simply permissive",
        "",
    ]
    for name in ORDER:
        rows = [licence for licence in special if licence.kind == name]
        if rows:
            lines += [f"**{name}**", "", *table(rows, with_askers=True), ""]
    lines += ["### All", "", *table(found, with_askers=False), ""]
    lines += ["### Only on a GPU, or there in another version", "", counted(on_gpus)]
    lines += [
        "Not installed where this page is written: what the package index's metadata says, without licence files.",
        "",
    ]
    rank = {name: place for place, name in enumerate(ORDER)}
    return "\n".join(lines + table(sorted(on_gpus, key=lambda one: (rank[one.kind], one.name)), with_askers=False))


def main() -> None:
    target = Path(sys.argv[1])
    text = target.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"{target} lacks the lines `{START}` and `{END}`")
    pins = PINS["pinned"](PINS["PINS"].read_text(encoding="utf-8"))
    page = markdown(licences(list(pins)), noted(GPU_LICENCES.read_text(encoding="utf-8")))
    target.write_text(f"{before}{START}\n{page}\n{END}{after}", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
