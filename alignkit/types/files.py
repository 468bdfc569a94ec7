"""The one door through which runs and results reach the disk: all of a write or nothing, and one sentence when refused.

A write that fails leaves what was there before. Every error is a StorageError with the path, what the disk answered,
the space that is left, and the cure.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from alignkit.errors import StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CURES = {
    errno.EROFS: "the disk can only be read: name another place",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ENOTDIR: "a file stands where a folder is wanted: move it away, or name another place",
    errno.EEXIST: "a file stands where a folder is wanted: move it away, or name another place",
    errno.EISDIR: "a folder stands where a file is wanted: move it away, or name another place",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
}


def sentence(error: OSError, path: Path, what: str = "", *, room: str = "free some space or name another place") -> str:
    """`PATH: WHAT could not be written (No space left on device; 0 MiB free): ROOM`, with the cure of other errors."""
    known, number = error.strerror or str(error), error.errno or 0
    cure = CURES.get(number, "check the folder's permissions")
    if number in FULL:
        cure, known = room, f"{known}; {_free_mib(path):.0f} MiB free"
    return f"{path}{what and f': {what}'} could not be written ({known}): {cure}"


@contextlib.contextmanager
def guarded(path: Path, what: str = "") -> Generator[None]:
    """Turns what the disk answers within the block into one StorageError about `path`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        refused = StorageError(sentence(error, path, what))
        refused.errno, refused.strerror = error.errno, error.strerror
        raise refused from error


def make_folder(path: Path) -> None:
    """Makes a folder with those above it; one that exists is fine. Raises StorageError."""
    with guarded(path):
        path.mkdir(parents=True, exist_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that a kill or a full disk leaves either the old content or the new one."""
    data = content.encode("utf-8", errors="replace") if isinstance(content, str) else content

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    replace_atomically(path, write)


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` is given a name beside `path`; what it wrote there takes the place of `path` once it is on the disk."""
    temporary = path.with_name(f"{path.name}.tmp")
    with guarded(path):
        try:
            write(temporary)
            fsync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        fsync(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Adds one line, without its newline, and returns once it is on the disk.

    A torn last line left by a kill is removed first; a line for which there is no room is taken back.
    """
    with guarded(path), path.open("ab+", buffering=0) as file:
        end = _drop_torn_tail(file)
        rest = memoryview(line + b"\n")
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), end)
            raise


def fsync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_tensors(tensors: dict[str, Any], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file; raises OSError when the disk refuses it, as for any other file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        refused = disk_error(error)
        if refused is None:
            raise
        raise OSError(refused.errno, refused.strerror, str(path)) from error


def disk_error(error: BaseException) -> OSError | None:
    """What the disk answered, as an OSError, where `error` tells of it: its own, or the text of a library's; else None.

    Only answers about space, names and permissions: others (a broken connection, say) are not about a file.
    """
    about_files = (*FULL, *CURES, errno.EACCES, errno.EPERM, errno.EIO)
    if isinstance(error, OSError):
        return error if error.errno in about_files else None
    number = re.search(r"os error (\d+)", str(error))
    if number is None or int(number[1]) not in about_files:
        return None
    return OSError(int(number[1]), os.strerror(int(number[1])))


def _free_mib(path: Path) -> float:
    place = next((folder for folder in (path, *path.parents) if folder.is_dir()), Path())
    return shutil.disk_usage(place).free / 2**20


def _drop_torn_tail(file: Any) -> int:
    """Cuts the file after its last newline and returns its length; reads backwards in blocks, so that the cost is
    that of the torn line alone."""
    end = position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position < end:
        file.truncate(position)
    return position
