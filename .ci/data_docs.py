"""Writes the examples of docs/data.md: one row of every layout that the tests know, and the task that it becomes.

python .ci/data_docs.py docs/data.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.layouts import LAYOUTS, Layout

BEGIN, END = "<!-- layouts, by make data-docs -->\n", "<!-- end of the layouts -->\n"


def main(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + BEGIN + layouts_markdown() + END + after, encoding="utf-8")


def layouts_markdown() -> str:
    """All layouts, group by group."""
    parts = []
    for group, layouts in LAYOUTS.items():
        parts.append(f"### {group}\n")
        parts += [_example(layout) for layout in layouts]
    return "\n".join(parts)


def _example(layout: Layout) -> str:
    settings = "".join(f"data.{name}: {_yaml(value)}\n" for name, value in layout.settings.items())
    made = [f"{name}: {_shown(value)}\n" for name, value in _task(layout).items()]
    note = f" {layout.note}" if layout.note else ""
    code = f"{_broken(layout.row)}\n{settings}-> {'   '.join(made[:1])}{''.join(f'   {line}' for line in made[1:])}"
    return f"**{layout.name[:1].upper()}{layout.name[1:]}.**{note}\n\n```\n{code}```\n"


def _task(layout: Layout) -> dict[str, Any]:
    """What of the task is worth showing: not the columns that stand in the row already."""
    made = {"messages": layout.messages} if layout.messages is not None else {"text": layout.text}
    made |= {name: value for name, value in layout.columns.items() if layout.row.get(name) != value}
    return made | ({"reference": layout.reference} if layout.reference is not None else {})


def _broken(row: dict[str, Any]) -> str:
    """A row as JSON, one column a line where one line would be long."""
    line = json.dumps(row, ensure_ascii=False)
    if len(line) <= 110:
        return line
    return "{" + ",\n ".join(f"{json.dumps(name)}: {_shown(value)}" for name, value in row.items()) + "}"


def _shown(value: Any) -> str:
    """JSON, the elements of a long list one a line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= 100 or not isinstance(value, list):
        return line
    return "[" + ",\n    ".join(json.dumps(each, ensure_ascii=False) for each in value) + "]"


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(part)}" for name, part in value.items()) + "}"
    plain = isinstance(value, str) and value.replace("_", "").replace(".", "").isalnum()
    return value if plain else json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
