"""Who uses a folder: a file in it that says so for people, and a lock on that file that ends with the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import StorageError
from alignkit.types.files import guarded

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True, kw_only=True)
class Process:
    """pid on host; started: when it took the folder; born: when it itself began, in ticks since the machine's start."""

    pid: int
    host: str
    started: str
    born: int | None = None

    @classmethod
    def this(cls) -> Process:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(pid=os.getpid(), host=socket.gethostname(), started=now, born=_born(os.getpid()))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


class Owner:
    """Holds `file` until `release`. left: who had it before and went without releasing it, None after a clean end.

    The lock is the kernel's (flock): it ends with the process however that ends, and holds between machines where the
    file system passes locks on (NFS does). Where there are no locks, the file alone counts: its process is looked for
    when it is of this machine, and believed to live when it is of another.

    Raises StorageError when another process has the file, without having changed it, or the disk refuses it.
    """

    def __init__(self, file: Path):
        self.file = file
        with guarded(file.parent):
            self._descriptor, locked = _locked(file)
            try:
                self.left = _read(self._descriptor)
                if not locked and self.left is not None and _may_live(self.left):
                    raise in_use(file, self.left)
                content = json.dumps(asdict(Process.this())).encode() + b"\n"
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, content, 0)
                os.fsync(self._descriptor)
            except BaseException:
                os.close(self._descriptor)
                raise

    def release(self) -> None:
        """Takes the file away, then the lock. May be called twice."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                if _same(self._descriptor, self.file):
                    self.file.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def in_use(file: Path, by: Process | None) -> StorageError:
    """The refusal that names the owner."""
    who = f"by {by}" if by else "by another process"
    here = by is None or by.host == socket.gethostname()
    cure = "wait for it, or stop it" if here else f"wait for it, or, when it is gone, remove {file.name}"
    return StorageError(f"{file.parent} is in use {who}: {cure}")


def _locked(file: Path) -> tuple[int, bool]:
    """(descriptor of the file, whether it could be locked); the file is the one that has the name when it returns."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            locked = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise in_use(file, _read(descriptor)) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                locked = False
            if _same(descriptor, file):
                return descriptor, locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner took it away between our two calls


def _same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Process | None:
    try:
        content: Any = json.loads(os.pread(descriptor, 4096, 0))
        return Process(**content)
    except (ValueError, TypeError):
        return None


def _may_live(process: Process) -> bool:
    if process.host != socket.gethostname():
        return True
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process.born is None or _born(process.pid) == process.born


def _born(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, which tells two processes of one number apart. None where there is no /proc."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
