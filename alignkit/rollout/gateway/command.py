"""An agent program: an async function, or a command of its own in any language, that speaks to the policy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignkit.rollout.gateway.gateway import Access
from alignkit.types.task import Task

Program = Callable[[Task, Access], Awaitable[Any]]
MOST_OUTPUT = 10 * 2**20
"""Bytes of what a command prints."""
END_S = 5.0
"""Seconds that a process and all that it started may take to end when they are killed."""


def command(arguments: Sequence[str], *, folder: Path | None = None) -> Program:
    """A Program that is a command of its own, in any language.

    It finds OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL in its environment, and on its standard input the task as
    JSON: `id`, `prompt` or `messages`, `reference`, and the row's `columns`. The last line that it prints may be a JSON
    object with `reward`. It is killed with all that it started when its time is over or this process ends. folder:
    where it runs.
    """

    async def run(task: Task, access: Access) -> Any:
        environment = {**os.environ, "OPENAI_BASE_URL": access.base_url, "OPENAI_API_KEY": access.api_key}
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-P", "-m", "alignkit.processes.keeper", str(os.getpid()), str(sys.maxsize)],
            *["alignkit.processes.program", *(sys.executable if one == "python" else one for one in arguments)],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**environment, "OPENAI_MODEL": access.model},
            cwd=folder,
            start_new_session=True,
        )
        try:
            out, err = await _exchange(process, json.dumps(_told(task)).encode())
        finally:
            await _end(process)
        if process.returncode:
            last = (err.decode(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
            raise RuntimeError(f"exit status {process.returncode}: {last[:300]}")
        return _worth(out.decode(errors="replace"))

    return run


async def _exchange(process: asyncio.subprocess.Process, told: bytes) -> tuple[bytes, bytes]:
    """What a process prints; raises RuntimeError for more than MOST_OUTPUT bytes."""
    reads, writes, warns = process.stdin, process.stdout, process.stderr
    assert reads is not None
    assert writes is not None
    assert warns is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        reads.write(told)
        await reads.drain()
    reads.close()
    out, err = await asyncio.gather(_read(writes), _read(warns))
    await process.wait()
    return out, err


async def _read(stream: asyncio.StreamReader) -> bytes:
    got = bytearray()
    while piece := await stream.read(2**16):
        got += piece
        if len(got) > MOST_OUTPUT:
            raise RuntimeError(f"it printed more than {MOST_OUTPUT} bytes")
    return bytes(got)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Has its keeper bury a process and all below it, and reads what is left in the pipes, which would stay open."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(END_S):
            for stream in (process.stdout, process.stderr):
                while stream is not None and await stream.read(2**20):
                    pass
            await process.wait()
    with suppress(ProcessLookupError):  # the keepers, had they been stopped
        os.killpg(process.pid, signal.SIGKILL)


def _told(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "prompt": task.text,
        "messages": list(task.messages) if task.messages else None,
        "reference": task.reference,
        "columns": json.loads(json.dumps(dict(task.columns), default=str)),
    }


def _worth(printed: str) -> Any:
    lines = printed.strip().splitlines()
    with suppress(ValueError):
        told = json.loads(lines[-1]) if lines else None
        if isinstance(told, dict) and "reward" in told:
            return told
    return None
