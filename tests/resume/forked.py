"""`alignkit train` in a process that need not import anything first: forked from a server that has."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.resume.warm"])


class Forked:
    """One such process, in a process group of its own, with the methods of a subprocess that the tests use.

    log: the file to which what it says is added; None: it is lost.
    """

    def __init__(self, recipe: Path, run: Path, *overrides: str, resume: bool = False, log: Path | None = None):
        arguments = ["train", str(recipe), f"run={run}", *overrides, *(["--resume"] if resume else [])]
        self._process = SERVER.Process(target=_main, args=(arguments, log or Path(os.devnull)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


def _main(arguments: list[str], log: Path) -> None:
    os.setsid()
    sys.stdout = sys.stderr = log.open("a")
    from alignkit.cli.main import main

    main(arguments)
