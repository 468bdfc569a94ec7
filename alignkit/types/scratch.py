"""Temporary folders that the next start clears away when a kill left them behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from alignkit.types.owner import Owner

PREFIX = "alignkit-"
OWNER = "owner.json"


@contextlib.contextmanager
def scratch(purpose: str = "") -> Generator[Path]:
    """A fresh folder in the temporary folder, removed at the end; those of dead processes are swept first.

    purpose: part of its name. Its file owner.json names this process and is locked while it lives.
    """
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}"))
    try:
        # under its own name the file only appears when it is locked: no sweep may take it for an orphan
        owner = Owner(folder / f"{OWNER}.new")
        try:
            os.rename(owner.file, folder / OWNER)
            yield folder
        finally:
            owner.release()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> list[Path]:
    """Removes the scratch folders whose owner is dead, and returns them.

    Only this user's folders with an owner.json whose lock is free: what no such file proves to be orphaned stays.
    """
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another sweep was faster, or it is somebody else's
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            descriptor = os.open(folder / OWNER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed.append(folder)
            finally:
                os.close(descriptor)
    return removed
