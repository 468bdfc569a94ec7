"""A process and all that it started: who they are, what they hold, how they end together. Linux's /proc and prctl."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
BURIAL_S = 20.0


def end_with(parent: int, how: signal.Signals) -> None:
    """Asks the kernel for a signal when the parent dies, even while this process hangs in C code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """From now on whatever is orphaned below this process is its child, where `descendants` finds it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int) -> list[int]:
    """Ids of the living processes below `root`. One that has just been orphaned is found where a keeper adopted it."""
    children: dict[int, list[int]] = {}
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))) if sys.platform == "linux" else ():
        with suppress(OSError, ValueError):
            state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(-process if state in "ZX" else process)
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += [process for process in below if process > 0]
        waiting += map(abs, below)
    return found


def held_bytes(root: int) -> int:
    """Memory that the processes below `root` hold at present; what they share counts once for each of them."""
    pages = 0
    for process in descendants(root):
        with suppress(OSError, ValueError):
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def kill_descendants(root: int) -> None:
    """Kills all below `root` until nothing is left, however fast they multiply; gives up after 20 s."""
    deadline = time.monotonic() + BURIAL_S
    while (found := descendants(root)) and time.monotonic() < deadline:
        for process in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)


def starved_s(processes: Sequence[int]) -> float:
    """Seconds that processes and their descendants were ready to run without a processor; 0 where no one says.

    Of a process's threads the one counts that waited longest.
    """
    total, waiting = 0.0, list(processes)
    while waiting:
        threads = Path(f"/proc/{waiting.pop()}/task")
        delays = [0.0]
        with suppress(OSError, IndexError, ValueError):
            for thread in threads.iterdir():
                delays.append(int((thread / "schedstat").read_text().split()[1]) / 1e9)
                waiting += map(int, (thread / "children").read_text().split())
        total += max(delays)
    return total
