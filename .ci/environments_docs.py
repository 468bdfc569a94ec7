"""Writes the table of environments of docs/agents.md, from what their functions say of themselves.

python .ci/environments_docs.py docs/agents.md
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignkit.environments.lmrl.anchors import ANCHORS
from alignkit.recipe.lookup.find import Found, list_content

BEGIN, END = "<!-- environments, by make environments-table -->", "<!-- end of the environments -->"
LINES = ("Reads", "Says", "Pays", "Ends", "Optimum")


def main(path: Path) -> None:
    from benchmarks.algorithms import put

    put(path, BEGIN, END, environments_markdown())


def environments_markdown() -> str:
    """One row an environment of the shelf."""
    rows = ["| environment | reads | says | pays | ends | optimum | published least, mean, most |", "|---" * 7 + "|"]
    for found in worlds():
        facts = environment_facts(found)
        told = " | ".join(facts[line].replace("|", "\\|") for line in LINES)
        rows.append(f"| `{found.name}` | {told} | {_anchors(found.name)} |")
    return "\n".join(rows)


def worlds() -> list[Found]:
    """Those of the shelf that are environments themselves, and no way into another library's."""
    return [
        found for found in list_content("environments") if found.is_shipped and found.path.parent.name != "adapters"
    ]


def environment_facts(found: Found) -> dict[str, str]:
    """What stands after each of LINES in the docstring of the environment's function or class; "" for what does not."""
    module = ast.parse(found.path.read_text(encoding="utf-8"))
    node = next(node for node in module.body if getattr(node, "name", "") == found.attribute)
    said = ast.get_docstring(node) or ""
    return {line: _line(said, line) for line in LINES}


def _line(said: str, name: str) -> str:
    match = re.search(rf"^{name}: (.+)$", said, re.MULTILINE)
    return match[1] if match else ""


def _anchors(name: str) -> str:
    told = {key: anchors for key, anchors in ANCHORS.items() if key.split(", ")[0] == name}
    parts = [
        ", ".join(f"{value:g}" for value in anchors) + (f" ({key.split(', ')[1]})" if ", " in key else "")
        for key, anchors in told.items()
    ]
    return "; ".join(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
