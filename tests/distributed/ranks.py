"""Starts real ranks on this machine and waits for them, in bounded time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

ROOT = Path(__file__).parents[2]


def fine(stage: int) -> dict[str, Any]:
    """DeepSpeed settings by which tiny models are cut and gathered as large ones: small buckets, nothing persistent."""
    return {
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": stage != 1,  # which DeepSpeed refuses
            "contiguous_gradients": True,
            "reduce_bucket_size": 3000,
            "allgather_bucket_size": 3000,
            "stage3_prefetch_bucket_size": 2000,
            "stage3_param_persistence_threshold": 0,
        }
    }


def environment() -> dict[str, str]:
    """One thread for each process, the project importable, and no trace of a launcher around the tests."""
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def leave_together(folder: Path, rank: int, world: int, told: Any) -> NoReturn:
    """Ends this rank of a group in which one is dead, which would not end in order, and leaves `rank-N.pt`.

    The first rank holds the store, where the others look up who died, and goes last. Fails after a minute.
    """
    torch.save(told, folder / f"rank-{rank}.pt")
    deadline = time.monotonic() + 60
    while rank == 0 and len(list(folder.glob("rank-*.pt"))) < world:
        assert time.monotonic() < deadline, "a rank has not told what it saw"
        time.sleep(0.01)
    os._exit(0)


def run_ranks(arguments: Sequence[str], *, world: int, timeout_s: float, codes: Sequence[int] | None = None) -> None:
    """`python ARGUMENTS` once for each rank, over gloo; raises AssertionError with the output when one fails.

    codes: with which the ranks are to end, None: all with 0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**environment(), **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == list(codes or [0] * world), "\n".join(outputs)
