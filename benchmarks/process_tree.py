"""Processor time and memory of a process with all its descendants."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

INTERVAL_S = 0.25
FLOOR_BYTES = 2**29  # free memory of the machine below which the kernel would soon choose a process to kill
GONE_S = 10.0
ENDED = (None, psutil.STATUS_ZOMBIE)  # a zombie has no memory any more


class ProcessTree:
    """A process and its descendants, watched by a thread: it notes their peak memory, and stops them when the machine
    has less than FLOOR_BYTES left, so that it is known which of the programs on it went too far.

    Memory is the sum of the resident sizes; pages that several of them share are counted in each.
    """

    def __init__(self, pid: int):
        self._root = psutil.Process(pid)
        self.peak_bytes = 0
        self.stopped: str | None = None
        """Why the processes were stopped; None when they were not."""
        self._seen: set[psutil.Process] = set()  # descendants
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def cpu_s(self) -> float:
        """User and system seconds up to now, those of ended descendants included."""
        times = [_asked(process.cpu_times) for process in self._processes()]
        return sum(t.user + t.system + t.children_user + t.children_system for t in times if t)

    def forget_peak(self) -> None:
        """The peak begins anew with the present size."""
        self.peak_bytes = 0
        self.look()

    def look(self) -> None:
        """Notes the present size, and stops the processes when the machine has too little memory left."""
        sizes = [_asked(process.memory_info) for process in self._processes()]
        self.peak_bytes = max(self.peak_bytes, sum(size.rss for size in sizes if size))
        free = free_bytes()
        if free < FLOOR_BYTES and self.stopped is None:
            self.stopped = f"stopped, because the machine had {free / 2**30:.1f} GiB of memory left"
            self.kill()

    def kill(self) -> None:
        """Ends them all, also those whose parent has ended before; only the descendants are waited for."""
        self._processes()
        for process in (self._root, *self._seen):
            _asked(process.kill)
        deadline = time.monotonic() + GONE_S
        while any(_asked(process.status) not in ENDED for process in self._seen) and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self) -> None:
        """Ends the watch and what is left of the processes."""
        self._closed.set()
        self._watcher.join()
        self.kill()

    def _processes(self) -> list[psutil.Process]:
        descendants = _asked(lambda: self._root.children(recursive=True)) or []
        self._seen.update(descendants)
        return [self._root, *descendants]

    def _watch(self) -> None:
        while not self._closed.wait(INTERVAL_S):
            self.look()


def free_bytes() -> int:
    """Memory of the machine that a program could still get."""
    return psutil.virtual_memory().available


def _asked(question: Callable[[], Any]) -> Any:
    """The answer, None when the process is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return question()
    return None
