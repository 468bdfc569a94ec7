"""Starts a reward worker behind its keepers."""

from __future__ import annotations

import os
import sys

from alignkit.processes.child import Child
from alignkit.recipe.lookup.secrets import without_secrets

LARGEST_ANSWER = 64 << 20  # bytes; a reward that writes on and on into the channel must not fill the trainer's memory


def start_worker(memory_bytes: int) -> Child:
    """A process that loads what it is told over its channel. memory_bytes: what it may hold.

    The kernel tells its keepers (processes/keeper.py) when the thread that called this ends. Raises OSError.
    """
    # A fixed hash seed makes set order, and with it every score, the same in every worker and every run.
    environment = without_secrets(os.environ)
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}
    keeper = [sys.executable, "-P", "-m", "alignkit.processes.keeper", str(os.getpid()), str(memory_bytes)]
    return Child.start(
        lambda end: [*keeper, "alignkit.rewards.pool.worker", str(end)],
        environment=environment,
        largest=LARGEST_ANSWER,
    )
