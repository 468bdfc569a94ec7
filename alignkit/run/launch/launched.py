"""Waits for launched processes, hands them signals, and learns with what exit code they left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.recipe.lookup.secrets import with_secrets
from alignkit.types.scratch import scratch

EXIT_PREEMPTED = 85  # the run wrote a checkpoint because it was asked to stop
REPORT_FOLDER = "ALIGNKIT_REPORT_FOLDER"
LAUNCHER_MARKS = ("RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")


def is_launched(environ: Mapping[str, str]) -> bool:
    """Whether this process was started by `accelerate launch`, torchrun or the like, and must not launch again."""
    return any(mark in environ for mark in LAUNCHER_MARKS)


def run_launched(command: Sequence[str]) -> int:
    """Runs the command to its end and returns the exit code that its alignkit processes reported.

    SIGTERM is handed to the alignkit processes themselves, which write a checkpoint and leave with exit code 85; the
    launcher between would give them too little time. Ctrl-C reaches all processes by itself.
    """
    asked = False
    with scratch() as folder:
        process = subprocess.Popen(command, env={**with_secrets(), REPORT_FOLDER: str(folder)})

        def stop(*_: object) -> None:
            nonlocal asked
            asked = True
            _stop(process, folder)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            code = _wait(process)
        finally:
            signal.signal(signal.SIGTERM, before)
        if asked and not _reports(folder):
            return EXIT_PREEMPTED  # before any of its processes had begun
        return reported_code(folder, code)


def report_start(environ: Mapping[str, str]) -> None:
    """A launched process says that it lives: its file in the launching process's folder holds its id."""
    file = _report_file(environ)
    if file is not None:
        file.write_text(str(os.getpid()))


def report_end(environ: Mapping[str, str], code: int) -> int:
    """A launched process notes its exit code, and returns the one to leave with.

    Stopping with a checkpoint is no failure for the launcher in between, which would kill the others over it.
    """
    file = _report_file(environ)
    if file is None:
        return code
    file.write_text(f"{os.getpid()} {code}")
    return 0 if code == EXIT_PREEMPTED else code


def reported_code(folder: Path, launcher_code: int) -> int:
    """The run's exit code: the first real failure, else 85 if a process was preempted, else the launcher's own."""
    reports = [file.read_text().split() for file in _reports(folder)]
    if any(len(report) < 2 for report in reports):
        return launcher_code or 1  # a process died without a word
    return exit_code(int(code) for _, code in reports) or launcher_code


def exit_code(codes: Iterable[int]) -> int:
    """Of a run, from those of its processes: the first real failure, else 85 if one was preempted, else 0."""
    codes = list(codes)
    failures = [code for code in codes if code not in (0, EXIT_PREEMPTED)]
    return next(iter(failures), max(codes, default=0))


def _report_file(environ: Mapping[str, str]) -> Path | None:
    folder = environ.get(REPORT_FOLDER)
    return Path(folder) / environ.get("LOCAL_RANK", "0") if folder else None


def _reports(folder: Path) -> list[Path]:
    """One file a process, named by its rank."""
    return sorted(file for file in folder.iterdir() if file.name.isdigit())


def _stop(process: subprocess.Popen[Any], folder: Path) -> None:
    workers = [int(file.read_text().split()[0]) for file in _reports(folder)]
    for worker in workers or [process.pid]:
        try:
            os.kill(worker, signal.SIGTERM)
        except ProcessLookupError:
            continue  # it has just ended by itself


def _wait(process: subprocess.Popen[Any]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the processes got it too; their end is awaited
