"""One side of a comparison: a process of its own that works when it is its turn and sleeps otherwise.

A process each, so that threads, allocators and engines of the two sides do not meet.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Turn:
    """One finished command: what it returned, wall seconds, CPU seconds (its child processes included)."""

    value: Any
    wall_s: float
    cpu_s: float


class Side:
    """Runs `serve(connection, *arguments)` in a new process; `serve` answers each received command with one value.

    Its first message says that it is ready. Its output goes to `log_file`. A process that dies raises EOFError here.
    """

    def __init__(self, serve: Callable[..., None], *arguments: Any, log_file: Path):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(serve, theirs, log_file, arguments))
        self._process.start()
        theirs.close()
        self._connection.recv()

    def __call__(self, command: Any) -> Turn:
        cpu, begun = self._cpu_s(), time.perf_counter()
        self._connection.send(command)
        value = self._connection.recv()
        return Turn(value, time.perf_counter() - begun, self._cpu_s() - cpu)

    def close(self) -> None:
        self._connection.close()
        self._process.join()

    def _cpu_s(self) -> float:
        process = psutil.Process(self._process.pid)
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def _main(serve: Callable[..., None], connection: Connection, log_file: Path, arguments: tuple) -> None:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = log_file.open("w", buffering=1)
    with contextlib.suppress(EOFError):  # the other end was closed: no more turns
        serve(connection, *arguments)
