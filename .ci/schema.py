"""Writes recipes/recipe.schema.json from the code, and the first line of every recipe, which leads editors to it.

python .ci/schema.py    (make schema)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from alignkit.recipe.lookup.editor_line import SCHEMA, with_editor_line  # noqa: E402
from alignkit.recipe.settings import recipe_json_schema  # noqa: E402


def main() -> None:
    schema = json.dumps(recipe_json_schema(), indent=2, ensure_ascii=False)
    SCHEMA.write_text(f"{schema}\n", encoding="utf-8")
    for recipe in (ROOT / "recipes").rglob("*.yaml"):
        text = recipe.read_text(encoding="utf-8")
        if text != (whole := with_editor_line(text, recipe)):
            recipe.write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    main()
