"""README.md, written from the result files.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER

README = Path(__file__).parent / "README.md"
INTRODUCTION = """\
# Benchmarks

Written by `python -m benchmarks.readme` from `results/*.json`; do not edit. Cells that lose are here too.

    python -m benchmarks.grpo_step --shape A1 --pairs 3    # one GRPO step against TRL; also --shape A2
    python -m benchmarks.head                              # the log-prob head against full logits
    python -m benchmarks.update_profile --shape A1         # where our update's time goes
    python -m benchmarks.trl_tuning --shape A1             # which settings of TRL are its best
    python -m benchmarks.all                               # all of these, and this file

How to read the numbers: two sides take turns, each in a process of its own, on the same weights, prompts, token counts,
arithmetic, optimizer and threads; a ratio is the median of the ratios of neighbouring turns, with the lowest and the
highest. The machine is calibrated around every turn, and a result is marked noisy when its matrix products or its
memory bandwidth changed by more than 15 %. CPU seconds are robust against neighbours on the machine, wall seconds are
not. That both sides compute the same gradient is checked in the same run.
"""


def write() -> Path:
    """Writes README.md and returns its path."""
    results = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]
    sections = [_section(result) for result in sorted(results, key=lambda result: (result["order"], result["name"]))]
    README.write_text("\n".join([INTRODUCTION, *sections]))
    return README


def _section(result: dict[str, Any]) -> str:
    machine, noisy = result["machine"], " **noisy**" if result["noisy"] else ""
    where = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load {machine['load']:.1f} before it"
    )
    with_versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    notes = [f"- {note}" for note in result["notes"]]
    tables = [_table(table) for table in result["tables"]]
    return "\n".join(
        [f"## {result['title']}{noisy}\n", *notes, f"- {result['date']}; {where}; {with_versions}.\n", *tables]
    )


def _table(table: dict[str, Any]) -> str:
    lines = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    return "\n".join([f"{table['caption']}:\n", *("| " + " | ".join(line) + " |" for line in lines), ""])


if __name__ == "__main__":
    print(write())
