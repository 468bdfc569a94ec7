"""The wheel as a user has it: built from the repository, installed without it, its command run from an empty folder."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command said, and the seconds it took by the clock and of all its processes' processor time."""

    out: str
    err: str
    code: int
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Installed:
    """An installation in a folder of its own; the packages that it needs are those of this interpreter."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the repository is on the path, and the installed package comes before an editable one."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PYTHONPATH": str(self.folder), "PATH": path}

    def run(self, arguments: Sequence[str], *, at: Path, said: str = "") -> Done:
        """`alignkit ARGUMENTS` in the folder `at`, with `said` on its standard input."""
        command = [str(self.folder / "bin" / "alignkit"), *arguments]
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=at, env=self.environment, input=said, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Done(out=done.stdout, err=done.stderr, code=done.returncode, wall_s=time.monotonic() - began, cpu_s=cpu)


def build(source: Path, into: Path) -> Path:
    """The wheel of the sources at `source`, built without a network."""
    subprocess.run([*PIP, "wheel", "--no-build-isolation", "--no-deps", "-w", into, source], check=True)
    [wheel] = into.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Installed:
    command = [*PIP, "install", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(command, check=True)
    return Installed(folder)
