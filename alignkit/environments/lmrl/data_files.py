"""Finds the word lists, tables and games that the environments of LMRL-Gym are played over."""

from __future__ import annotations

import gzip
from functools import cache

from alignkit.errors import EpisodeError
from alignkit.recipe.lookup.data_file import data_file, data_folders

FOLDER = "multiturn"


@cache
def shared_file(name: str) -> str:
    """The text of `multiturn/<name>`, unpacked when it ends in .gz; searched where a recipe's data are.

    Raises EpisodeError, which names the file and where it was looked for.
    """
    path = data_file(f"{FOLDER}/{name}", None)
    if path is None:
        looked = ", ".join(str(folder / FOLDER) for folder in data_folders(None))
        raise EpisodeError(
            f"there is no file '{name}' in {looked}; fetch it, or set ALIGNKIT_DATA to the data's folder"
        )
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
