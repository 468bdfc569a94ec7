"""Child processes in sessions of their own: started, killed, and said how they ended in one way."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from alignkit.processes.family import kill_descendants

Stream = IO[bytes] | int


def start_session(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    handed: Sequence[int] = (),
    stdin: Stream = subprocess.DEVNULL,
    output: Stream = subprocess.DEVNULL,
    errors: Stream = subprocess.DEVNULL,
    folder: str | None = None,
) -> subprocess.Popen:
    """Starts a command that has no terminal: a Ctrl-C is its parent's to handle. handed: descriptors that it gets.

    Raises OSError when it cannot be started.
    """
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=errors,
        pass_fds=handed,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
    )


def kill_session(process: subprocess.Popen, *, family: bool = False) -> int:
    """Kills a session, closes its pipes and returns its exit code; one that has ended stays as it ended.

    family: also what left the session and what was orphaned below it, which takes a look at every process there is.
    """
    if family:
        kill_descendants(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return process.wait()


def how_it_ended(code: int) -> str:
    """`was killed by SIGSEGV` or `ended with exit code 3`."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
