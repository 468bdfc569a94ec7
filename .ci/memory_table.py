"""Writes what every shipped recipe for a GPU needs into docs/memory.md: `make memory-table`.

A recipe is for a GPU when its header says `alignkit check --device NAME`; it is counted for that device and profile.
"""

from __future__ import annotations

import re
from pathlib import Path

from alignkit.parallel.memory.device import Device
from alignkit.parallel.memory.sharding import Sharding
from alignkit.parallel.memory.trace import total
from alignkit.recipe.lookup.find import find
from alignkit.recipe.read import read_recipe
from alignkit.run.launch.deepspeed_file import sharding_of
from alignkit.run.memory.need import Need, needs

ROOT = Path(__file__).resolve().parents[1]
PAGE, BEGIN, END = ROOT / "docs" / "memory.md", "<!-- begin table -->\n", "<!-- end table -->\n"
HEADER = re.compile(
    r"#   hardware .*: (?P<gb>[\d.]+) GB counted by "
    r"`alignkit check --device (?P<device>\S+?)(?: --launch (?P<launch>\S+))?`"
)


def for_gpus() -> list[tuple[Path, re.Match[str]]]:
    """The shipped recipes whose header names a GPU, and what it says."""
    files = sorted((ROOT / "recipes").rglob("*.yaml"))
    return [(file, found) for file in files if (found := HEADER.search(file.read_text()))]


def needed(file: Path, said: re.Match[str]) -> list[Need]:
    """What is counted for the device and profile that the header names."""
    device = Device.parse(said["device"])
    _, settings = sharding_of(find("launch", said["launch"])) if said["launch"] else (1, None)
    return needs(read_recipe(file), device, Sharding.of(settings, device.count or 1))


def main() -> None:
    rows = ["| recipe | device | profile | phase | GB | of which |", "|---|---|---|---|---|---|"]
    for file, said in for_gpus():
        for need in needed(file, said):
            for phase, held in need.phases.items():
                parts = ", ".join(f"{role} {size / 1e9:.1f}" for role, size in held.items() if size >= 5e7)
                name = f"**{phase}**" if phase == need.peak else phase
                begins = f"`{file.stem}` | {said['device']} | {said['launch'] or 'none'}"
                rows.append(f"| {begins} | {name} | {total(held) / 1e9:.1f} | {parts} |")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(rows) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
