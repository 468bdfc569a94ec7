"""A command that a keeper keeps: `python -m alignkit.processes.keeper PARENT BYTES alignkit.processes.program ...`."""

from __future__ import annotations

import os
import sys


def main(*command: str) -> None:
    """Becomes the command. Ends with exit code 127 and a line about it where there is none."""
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)
