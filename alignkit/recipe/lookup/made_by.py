"""Which recipe makes a model that another one begins with."""

from __future__ import annotations

import re
from pathlib import PurePath

from alignkit.recipe.lookup.find import list_content

COMMAND = re.compile(r"^#\s+command\s+(alignkit train \S+(?:\s+run=(\S+))?)", re.MULTILINE)


def made_by(path: str) -> str | None:
    """The command whose run leaves its model at `path`, such as runs/NAME/final; None when no recipe says so.

    A recipe names its command in its header; where that gives no `run=`, the run is runs/<name of the file>.
    """
    place = PurePath(path)
    wanted = (place.parent if place.name == "final" else place).as_posix()
    for found in list_content("recipes"):
        said = COMMAND.search(found.path.read_text(encoding="utf-8", errors="replace"))
        if said and wanted == (said[2] or f"runs/{found.path.stem}"):
            return said[1]
    return None
