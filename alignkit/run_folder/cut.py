"""Cuts the end of a run's history off and keeps it beside: nothing that a run wrote is ever just deleted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from alignkit.run_folder import json_lines
from alignkit.types.files import fsync, guarded, make_folder, write_atomically

KEPT = 3  # newest cuts of each file that stay, besides the longest


def cut_lines(path: Path, wanted: Callable[[dict[str, Any]], bool], step: int) -> int:
    """Leaves only the lines that `wanted` accepts; the others go to `<name>.cut-at-<step>`. Returns their number.

    Killed at any moment, the file is whole or cut, and the lines are in one of the two.
    """
    kept, gone = [], []
    for line, record in json_lines.lines(path):
        (kept if wanted(record) else gone).append(line)
    if gone:
        content = b"".join(gone)
        write_atomically(_free(path, step, lambda place: place.read_bytes() == content), content)
        write_atomically(path, b"".join(kept))
        _bound(path, lambda place: place.stat().st_size)
    return len(gone)


def cut_files(folder: Path, paths: Iterable[Path], step: int) -> int:
    """Moves files of `folder` to the folder `<name>.cut-at-<step>` beside it. Returns their number."""
    gone = list(paths)
    if gone:
        names = {path.name for path in gone}
        place = _free(folder, step, lambda place: not names & set(os.listdir(place)))
        make_folder(place)
        with guarded(place):
            for path in gone:
                path.rename(place / path.name)
            fsync(folder)
        _bound(folder, lambda place: len(list(place.iterdir())))
    return len(gone)


def _free(path: Path, step: int, fits: Callable[[Path], bool]) -> Path:
    """The first of `.cut-at-N`, `.cut-at-N.2`, ... that does not exist, or fits because a kill left it half done."""
    place, number = path.with_name(f"{path.name}.cut-at-{step}"), 1
    while place.exists() and not fits(place):
        number += 1
        place = path.with_name(f"{path.name}.cut-at-{step}.{number}")
    return place


def _bound(path: Path, size: Callable[[Path], int]) -> None:
    """Removes the oldest cuts of a file beyond KEPT, but never the longest: steps are repeated with the same bits."""
    cuts = sorted(path.parent.glob(f"{path.name}.cut-at-*"), key=lambda place: place.stat().st_mtime_ns)
    longest = max(cuts, key=size)
    for old in cuts[:-KEPT]:
        if old != longest:
            with guarded(old):
                _remove(old)


def _remove(place: Path) -> None:
    if place.is_dir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    else:
        place.unlink()
