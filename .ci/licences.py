"""Writes the licence of every pinned package, as its metadata states it, into a Markdown file between two marks.

python .ci/licences.py docs/licences.md

Read are the expression (PEP 639), the field, the classifiers and, where all are silent, the licence file. Nothing is
guessed from a package's name: what no metadata states is listed as not stated.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- licences: begin (make licences) -->", "<!-- licences: end -->"
NOT_STATED = "not stated"
PINS = runpy.run_path(str(ROOT / ".ci" / "pins.py"))
canonical = PINS["canonical"]

# The first that matches decides, so the strictest come first.
KINDS = {
    "proprietary": r"proprietary|intel end user|\beula\b|nvidia",
    "GPL or AGPL": r"(?<!l)(?<!lesser )\ba?gpl|(?<!lesser )general public",
    "LGPL": r"lgpl|lesser general public",
    "MPL": r"\bmpl|mozilla",
    "permissive": r"apache|\bmit\b|bsd|\bisc|python software foundation|\bpsf|unlicense|cc0|zlib|boost|\bbsl\b",
}
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
    field = (metadata.get("License") or "").strip()
    classifiers = [
        line.rpartition("::")[2].strip()
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License") and not line.endswith("approved")
    ]
    first = field.splitlines()[0].strip() if field else ""
    if metadata.get("License-Expression"):
        return metadata["License-Expression"]
    if first and len(first) < 100 and not first.startswith("Copyright") and first != "Dual License":
        return first
    return " OR ".join(classifiers) or from_file(package)


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


def markdown(found: list[Licence]) -> str:
    counts = Counter(licence.kind for licence in found)
    special = [licence for licence in found if licence.kind != "permissive"]
    order = [*KINDS, NOT_STATED]
    lines = [
        f"{len(found)} packages: " + ", ".join(f"{counts[name]} {name}" for name in order[::-1] if counts[name]) + ".",
        "",
        "### Not simply permissive",
        "",
    ]
    for name in order:
        rows = [licence for licence in special if licence.kind == name]
        if rows:
            lines += [f"**{name}**", "", *table(rows, with_askers=True), ""]
    return "\n".join([*lines, "### All", "", *table(found, with_askers=False)])


def main() -> None:
    target = Path(sys.argv[1])
    text = target.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"{target} lacks the lines `{START}` and `{END}`")
    pins = PINS["pinned"](PINS["PINS"].read_text(encoding="utf-8"))
    target.write_text(f"{before}{START}\n{markdown(licences(list(pins)))}\n{END}{after}", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
