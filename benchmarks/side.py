"""One side of a comparison: a process of its own that works when it is its turn and sleeps otherwise.

A process each, so that threads, allocators and engines of the two sides do not meet.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil

from benchmarks.process_tree import ProcessTree

GRACE_S = 60.0  # an engine takes a while to end
LOG_LINES = 8


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One finished command of a side, its child processes included.

    value: what it returned. cpu_s: user and system seconds. peak_bytes: most memory during it. others: cores that the
    rest of the machine kept busy meanwhile, time stolen by its host included. load: average of the last minute at its
    end, this side included.
    """

    value: Any
    wall_s: float
    cpu_s: float
    peak_bytes: int
    others: float
    load: float


class SideDied(Exception):
    """A side ended before it answered; the text says which, at what, how, with how much memory, and its last words."""

    def __init__(self, name: str, command: str, how: str, peak_bytes: int, log: str):
        self.name, self.how, self.peak_bytes = name, how, peak_bytes
        memory = f"{peak_bytes / 2**30:.1f} of the machine's {psutil.virtual_memory().total / 2**30:.1f} GiB"
        self.summary = f"{name} died at {command}: {how}; its peak memory was {memory}"
        """The text without the last lines of the log."""
        super().__init__(f"{self.summary}; the last lines of its log:\n{log or '(it wrote none)'}")


class Side:
    """Runs `serve(connection, *arguments)` in a new process; `serve` answers each received command with one value.

    Its first message says that it is ready. name: in messages. log_file: takes all output, that of child processes too.
    Raises SideDied, here and at each command, when the process ends, or is stopped for want of memory, unanswered.
    """

    def __init__(
        self,
        serve: Callable[..., None],
        *arguments: Any,
        name: str,
        log_file: Path,
    ):
        context = multiprocessing.get_context("spawn")
        self.name, self._log_file = name, log_file
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(serve, theirs, log_file, arguments))
        self._process.start()
        theirs.close()
        self._tree = ProcessTree(self._process.pid or 0)
        try:
            self._answer("its start")
        except BaseException:
            self.close()
            raise

    def __call__(self, command: Any) -> Turn:
        name = command if isinstance(command, str) else command[0]
        self._tree.forget_peak()
        cpu, busy, begun = self._tree.cpu_s(), _busy_s(), time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # it died before its turn; the answer says how
            self._connection.send(command)
        value = self._answer(f"`{name}`")
        wall_s, cpu_s, busy_s = time.perf_counter() - begun, self._tree.cpu_s() - cpu, _busy_s() - busy
        self._tree.look()
        return Turn(
            value=value,
            wall_s=wall_s,
            cpu_s=cpu_s,
            peak_bytes=self._tree.peak_bytes,
            others=max(0.0, (busy_s - cpu_s) / wall_s),
            load=os.getloadavg()[0],
        )

    def close(self) -> None:
        """Ends the process and what it started; when this returns their memory is free."""
        self._connection.close()
        self._end(GRACE_S if self._answered else 0.0)

    def _answer(self, command: str) -> Any:
        self._answered = False
        try:
            if self._connection not in wait([self._connection, self._process.sentinel]):
                raise EOFError
            value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death(command) from None
        self._answered = True
        return value

    def _death(self, command: str) -> SideDied:
        peak = self._tree.peak_bytes
        self._end(GRACE_S)
        how = self._tree.stopped or _how(self._process.exitcode)
        return SideDied(self.name, command, how, peak, _last_lines(self._log_file))

    def _end(self, grace_s: float) -> None:
        self._process.join(grace_s)
        self._tree.close()
        self._process.join()


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        likely = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
        return f"ended by signal {-exit_code} ({name}{likely})"
    return f"exit code {exit_code}"


def _last_lines(file: Path) -> str:
    if not file.is_file():
        return ""
    lines = file.read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-LOG_LINES:])


def _busy_s() -> float:
    """Seconds that the machine's cores have worked, for whomever."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


def _main(serve: Callable[..., None], connection: Connection, log_file: Path, arguments: tuple) -> None:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log = log_file.open("w", buffering=1)
    os.dup2(log.fileno(), 1)  # what libraries and child processes write goes there too
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    faulthandler.enable()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # out of memory it is this process that has to go
    with contextlib.suppress(EOFError):  # the other end was closed: no more turns
        serve(connection, *arguments)
