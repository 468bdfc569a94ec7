"""Where a data file named in a recipe is looked for."""

from __future__ import annotations

import os
from pathlib import Path


def data_folders(beside: Path | None) -> list[Path]:
    """The recipe's folder, the working folder, and the folders of $ALIGNKIT_DATA, in the order of the search."""
    listed = [Path(entry).expanduser() for entry in os.environ.get("ALIGNKIT_DATA", "").split(os.pathsep) if entry]
    return list(dict.fromkeys([beside or Path(), Path(), *listed]))


def data_file(source: str, beside: Path | None) -> Path | None:
    """The first file or folder called `source` in those folders, or None; an absolute path is taken as it is."""
    places = [folder / Path(source).expanduser() for folder in data_folders(beside)]
    return next((place for place in places if place.exists()), None)
