"""A Python interpreter behind the sandbox's walls: no network, no files, bounded time, memory and output."""

from __future__ import annotations

import functools
import os
import threading

from alignkit.sandbox.choice import Sandbox, choose_sandbox
from alignkit.sandbox.limits import Limits

LIMITS = Limits(wall_s=10.0, output_bytes=64 << 10)
_slots = threading.BoundedSemaphore(os.cpu_count() or 1)  # programs at once in this process


def python(code: str) -> str:
    """Runs a Python program and returns what it prints.

    Args:
        code: The program. It must print its result; nothing is kept for the next call.

    Returns:
        What it printed, and how it ended if it failed.
    """
    with _slots:
        run = _sandbox().run_script(code, "", LIMITS)
    printed = run.output.decode(errors="replace")
    if run.ended == "timeout":
        return f"{printed}\n[stopped after {LIMITS.wall_s:g} s]".lstrip()
    if run.ended == "output":
        return f"{printed}\n[stopped: it printed more than {LIMITS.output_bytes:,} bytes]"
    if run.exit_code:
        lines = run.errors.decode(errors="replace").strip().splitlines()
        return f"{printed}\n[exit code {run.exit_code}: {lines[-1] if lines else 'no message'}]".lstrip()
    return printed or "[it printed nothing]"


@functools.cache
def _sandbox() -> Sandbox:
    return choose_sandbox()
