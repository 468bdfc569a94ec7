"""`alignkit train` in a process that need not import anything first: forked from a server that has."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.resume.warm"])


class Forked:
    """One such process, in a process group of its own, with the methods of a subprocess that the tests use.

    log: the file to which what it says is added; None: it is lost. environment: variables that it has besides. It runs
    in the recipe's folder.
    """

    def __init__(
        self,
        recipe: Path,
        run: Path,
        *overrides: str,
        resume: bool = False,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        arguments = ["train", str(recipe), f"run={run}", *overrides, *(["--resume"] if resume else [])]
        place = (recipe.parent, log or Path(os.devnull), dict(environment or {}))
        self._process = SERVER.Process(target=_main, args=(arguments, *place))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


def _main(arguments: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    sys.stdout = sys.stderr = log.open("a")
    from alignkit.cli.main import main

    main(arguments)
