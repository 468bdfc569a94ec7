"""The first line of a recipe, by which editors complete it and underline what is no setting."""

from __future__ import annotations

import re
from pathlib import Path

from alignkit.recipe.lookup.find import KINDS

SCHEMA = KINDS["recipes"].shelf / "recipe.schema.json"
"""What `alignkit check --schema` prints, of the algorithms that alignkit ships (make schema)."""
MARK = "# yaml-language-server: $schema="


def with_editor_line(text: str, file: Path) -> str:
    """A recipe's text whose first line leads from where `file` is to lie to the schema of this installation.

    Relative where the installation lies below the file's folder (`.venv/lib/...`) or both lie on the shelf,
    so that it holds in every copy of the folder; else, or where it has spaces, which end a path here, a file: address.
    """
    folder = file.resolve().parent
    shelf = SCHEMA.parent
    if SCHEMA.is_relative_to(folder):
        place = SCHEMA.relative_to(folder).as_posix()
    elif folder.is_relative_to(shelf):
        place = "../" * len(folder.relative_to(shelf).parts) + SCHEMA.name
    else:
        place = ""
    address = SCHEMA.as_uri() if not place or " " in place else place
    return f"{MARK}{address}\n" + re.sub(rf"\A{re.escape(MARK)}.*\n", "", text)
