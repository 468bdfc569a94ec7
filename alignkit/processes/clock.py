"""Deadlines that a busy machine does not shorten."""

from __future__ import annotations

import time
from collections.abc import Sequence

from alignkit.processes.family import starved_s


class Clock:
    """The time that processes have left: they use it up by computing and by sleeping, not by waiting for a processor.

    processes: ids; all that they started counts with them. most_grace: at most 1 + most_grace times `limit_s` goes by
    in all, or a process could stretch it by starving itself with many threads.
    """

    def __init__(self, processes: Sequence[int], limit_s: float, *, most_grace: float):
        self.limit_s = limit_s
        self._processes, self._most_grace = processes, most_grace
        self._start = time.monotonic()
        self._starved_before_s = starved_s(processes)

    def left_s(self) -> float:
        left = self.limit_s - (time.monotonic() - self._start)
        return left if left > 0 else left + self._grace_s()

    def used_s(self) -> float:
        return time.monotonic() - self._start - self._grace_s()

    def _grace_s(self) -> float:
        starved = starved_s(self._processes) - self._starved_before_s
        return min(max(starved, 0.0), self._most_grace * self.limit_s)
