"""Writes what the recipes of known models need into their headers: `make family-memory` (a core for 20 minutes).

Each is counted as the check in its header counts it, and written as it is done.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from alignkit.parallel.memory.device import Device
from alignkit.parallel.memory.sharding import Sharding
from alignkit.recipe.read import read_recipe
from alignkit.run.memory.need import needs

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
LINE = re.compile(
    r"^#   hardware   .*?(`alignkit check (?P<name>\S+) data\.source=FILE --device (?P<device>\S+)` counts)$", re.M
)


def counted(name: str, device: str) -> str:
    """The GB that the recipe needs at its peak, and when that is."""
    needed = needs(read_recipe(name, ["data.source=hub:any/rows"]), Device.parse(device), Sharding.of(None, 1))
    worst = max(needed, key=lambda need: need.bytes)
    return f"{worst.bytes / 1e9:.1f} GB in its phase {worst.peak}{'' if worst.fits else ', which it does not have'}"


def main(methods: list[str]) -> None:
    for method in methods or ["sft", "dpo", "grpo"]:
        for model in sorted((RECIPES / "models").glob("*.yaml")):
            file = RECIPES / method / model.name
            text = file.read_text(encoding="utf-8")
            said = LINE.search(text)
            if said is None:
                sys.exit(f"{file}: its header has no line `hardware` with the check that counts it")
            line = f"#   hardware   {counted(said['name'], said['device'])}, as {said[1]}"
            file.write_text(text.replace(said[0], line), encoding="utf-8")
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
