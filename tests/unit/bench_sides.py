"""Sides for tests of the benchmark harness: what a process can do and suffer, without a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

BURN = "import time\nwhile time.process_time() < 0.1: pass"
MEBIBYTE = 2**20


def obedient(connection: Connection) -> None:
    """Commands: ("hold", MiB), in a child process, whose id it answers; `release`; `burn`, 0.1 s of CPU in a child that
    has ended; ("die", how)."""
    child: Any = None
    connection.send("ready")
    while True:
        match connection.recv():
            case ("hold", mebibytes):
                child = _holder(mebibytes)
                connection.send(child.pid)
            case "release":
                child.kill()
                connection.send(child.wait())
            case "burn":
                connection.send(subprocess.run([sys.executable, "-S", "-c", BURN]).returncode)
            case ("die", how):
                _die(how)


def stillborn(connection: Connection) -> None:
    raise OSError("no such model")


def leaves_after_its_first_turn(connection: Connection) -> None:
    connection.send("ready")
    connection.send(connection.recv())
    sys.exit(4)


def _holder(mebibytes: int) -> Any:
    code = f"m = b'x' * ({mebibytes} * {MEBIBYTE})\nprint(len(m), flush=True)\nimport time\ntime.sleep(600)"
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    return child


def _die(how: str) -> None:
    print("last words of the side")
    match how:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os.write(2, b"last words of a library\n")
            os._exit(3)
        case "fault":
            raise RuntimeError("vLLM is gone")
        case "wait":
            time.sleep(600)
