"""One answer's score from a process of its own, which can change nothing that another answer is scored with."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from alignkit.processes.family import adopt_orphans, end_with, kill_descendants
from alignkit.processes.keeper import exit_code

LARGEST_REPLY = 16 << 20


class Ended(Exception):
    """The process ended before it had said its score. code: its exit code, negative for a signal."""

    def __init__(self, code: int):
        self.code = code
        super().__init__(f"ended with {code}")


def apart(work: Callable[[], bytes], *, closed: int) -> bytes:
    """What `work` returns in a forked process; all that it started is gone afterwards.

    closed: the descriptor of the pool's channel, which the process must not have. Raises Ended.
    """
    adopt_orphans()  # to find what it leaves behind
    own = _children()
    reader, writer = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _work(work, writer, closed, parent)
    os.close(writer)
    try:
        reply = _read(reader, child)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    finally:
        os.close(reader)
        _bury(_children() - own)
    if not reply.endswith(b"\n"):
        raise Ended(exit_code(status, used.ru_maxrss))
    return reply[:-1]


def _work(work: Callable[[], bytes], writer: int, closed: int, parent: int) -> None:
    try:
        os.close(closed)
        end_with(parent, signal.SIGKILL)
        with os.fdopen(writer, "wb") as file:
            file.write(work() + b"\n")
    finally:
        os._exit(1)


def _read(reader: int, child: int) -> bytes:
    """The reply, up to its newline or the end of the process; a grandchild may hold the pipe open for longer."""
    reply = bytearray()
    ended = os.pidfd_open(child) if hasattr(os, "pidfd_open") else None
    try:
        while not reply.endswith(b"\n") and len(reply) <= LARGEST_REPLY:
            ready, _, _ = select.select([reader] if ended is None else [reader, ended], [], [])
            data = os.read(reader, 1 << 16) if reader in ready else b""
            if not data:
                break
            reply += data
    finally:
        if ended is not None:
            os.close(ended)
    return bytes(reply)


def _children() -> set[int]:
    try:
        return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    except OSError:
        return set()


def _bury(left: set[int]) -> None:
    for process in left:
        kill_descendants(process)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
