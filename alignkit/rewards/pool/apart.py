"""One answer's score from a process of its own, which can change nothing that another answer is scored with."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from alignkit.processes.channel import Channel
from alignkit.processes.family import adopt_orphans, end_with, kill_descendants
from alignkit.processes.keeper import exit_code

LARGEST_REPLY = 16 << 20


class Ended(Exception):
    """The process ended before it had said its score. code: its exit code, negative for a signal."""

    def __init__(self, code: int):
        self.code = code
        super().__init__(f"ended with {code}")


def apart(work: Callable[[], Any], *, closed: int) -> Any:
    """What `work` returns, as JSON tells it, in a forked process; all that it started is gone afterwards.

    closed: the descriptor of the pool's channel, which the process must not have. Raises Ended, and ValueError for a
    reply that is no JSON or longer than LARGEST_REPLY bytes.
    """
    adopt_orphans()  # to find what it leaves behind
    own = _children()
    ours, theirs = socket.socketpair()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        ours.close()
        _work(work, Channel(theirs), closed, parent)
    theirs.close()
    with closing(Channel(ours, largest=LARGEST_REPLY)) as channel:
        replies = []
        try:
            replies = _replies(channel, child)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            _bury(_children() - own)
    if not replies:
        raise Ended(exit_code(status, used.ru_maxrss))
    return replies[0]


def _work(work: Callable[[], Any], channel: Channel, closed: int, parent: int) -> None:
    try:
        os.close(closed)
        end_with(parent, signal.SIGKILL)
        channel.send(work())
    finally:
        os._exit(1)


def _replies(channel: Channel, child: int) -> list[Any]:
    """What the process said, nothing when it ended before; a grandchild may hold the channel open for longer."""
    ended = os.pidfd_open(child) if hasattr(os, "pidfd_open") else None
    watched = [channel] if ended is None else [channel, ended]
    try:
        while channel in select.select(watched, [], [])[0]:
            if said := list(channel.arrived()):
                return said
        return []
    except EOFError:
        return []
    finally:
        if ended is not None:
            os.close(ended)


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
