"""An end to what may never end: a bound on processor time, which does not depend on how busy the machine is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


class OverCpuLimit(Exception):
    """The block used more processor time than it may."""


@contextmanager
def cpu_limit(seconds: float) -> Generator[None]:
    """Ends the block with OverCpuLimit when the process has computed for `seconds` since it began.

    Works where signals do, in the main thread; in other threads the block has no bound. Blocks do not nest.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise OverCpuLimit(f"{seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
