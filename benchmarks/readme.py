"""benchmarks/README.md and the speed section of the project's README, written from the result files.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER

README = Path(__file__).parent / "README.md"
FRONT = README.parents[1] / "README.md"
BEGIN, END = "<!-- table of make bench -->", "<!-- end of the table -->"
INTRODUCTION = """\
# Benchmarks

Written by `python -m benchmarks.readme` from `results/*.json`; do not edit. Cells that lose are here too.

```bash
python -m benchmarks.grpo_step --shape A1 --pairs 3    # one GRPO step against TRL; also --shape A2
python -m benchmarks.head                              # the log-prob head against full logits
python -m benchmarks.update_profile --shape A1         # where our update's time goes
python -m benchmarks.trl_tuning --shape A1             # which settings of TRL are its best
python -m benchmarks.all                               # all of these, and this file
python -m benchmarks.reallocation                      # weights from trainer to engine; also in docs/scaling.md
```

How to read the numbers: two sides take turns on the same weights, prompts, token counts, arithmetic, optimizer and
threads; a ratio is the median of the ratios of neighbouring turns, with the lowest and the highest. A turn of a GRPO
step is a process of its own: it starts, warms up (a short generation and a whole update, whose loss and gradient are
compared with the other side's), runs one timed step and ends before the other side starts, so that never two models,
optimizers and engines are in memory. A side that dies stands in the table as dead, with its signal and peak memory.

CPU seconds and memory are those of the whole process tree, the engine included; pages that processes share count in
each of them. The machine is calibrated before and after every turn, and a result is marked noisy when its matrix
products or its memory bandwidth changed by more than 15 %. CPU seconds are robust against neighbours on the machine,
wall seconds are not: what the neighbours took stands beside every trial. A ratio below 1 is marked as lost.
"""


def write() -> Path:
    """Writes both files and returns the path of the benchmarks' own."""
    results = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]
    results.sort(key=lambda result: (result["order"], result["name"]))
    README.write_text("\n".join([INTRODUCTION, *map(_section, results)]))
    text = FRONT.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    steps = [result for result in results if result["raw"].get("headline")]
    FRONT.write_text("\n".join([before + BEGIN, *_front(steps), END + after]))
    return README


def _front(steps: list[dict[str, Any]]) -> list[str]:
    """A line for every measured GRPO step."""
    lines = [["prompts x completions", "alignkit", "TRL", "wall", "CPU", "memory", "loss", "pairs, load"], ["---"] * 8]
    for result in steps:
        line = result["raw"]["headline"]
        ratios = [f"{line[name]:.1f}" + " **loses**" * (line[name] < 1) for name in ("wall", "cpu", "memory")]
        ratios[0] += " (busy machine)" * line["disturbed"]
        seconds = [f"{line[name]:.1f} s" for name in ("ours_s", "trl_s")]
        lines.append([line["work"], *seconds, *ratios, line["loss"], line["measured"]])
    return ["| " + " | ".join(line) + " |" for line in lines]


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
