"""SIGTERM and Ctrl-C: before the first step they end a run at once, afterwards with a checkpoint after the step."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import TracebackType
from typing import Any

EXIT_STOPPED = 85


class Stop:
    """Handles both signals while it is entered. asked: whether one has come.

    Until `stepping` is set there is nothing to lose: what the process has computed is on the disk already, or not
    wanted. SIGTERM then leaves at once with exit code 85, and Ctrl-C as ever. While stepping, both only ask, and the
    run looks after each step; a second Ctrl-C ends it at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.stepping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        again, self.asked = self.asked, True
        name = signal.Signals(number).name
        if number == signal.SIGINT and (again or not self.stepping):
            raise KeyboardInterrupt
        if self.stepping:
            _say(f"{name}: finishing this step, then a checkpoint")
            return
        _say(f"{name}: stopped before a step began; go on with --resume")
        sys.exit(EXIT_STOPPED)


def _say(text: str) -> None:
    """Past Python's buffers, into which the signal may have come."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
