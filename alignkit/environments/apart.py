"""Episodes in processes of their own, which hang, crash, print and grow without harm to the run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import weakref
from collections.abc import Mapping
from typing import Any

from alignkit.environments.base import EnvironmentFault, Observation
from alignkit.environments.lift import World
from alignkit.errors import ContentError
from alignkit.processes.channel import packed
from alignkit.processes.child import Child
from alignkit.processes.family import kill_descendants
from alignkit.processes.keeper import OUT_OF_MEMORY
from alignkit.processes.session import how_it_ended
from alignkit.recipe.lookup.secrets import without_secrets
from alignkit.types.score import FaultKind
from alignkit.types.task import Message, Task

LOAD_DEADLINE_S = 120.0
LARGEST_ANSWER = 16 << 20  # bytes


class Apart:
    """The process that the episodes of a world are forked from (apart_server.py): an episode costs milliseconds.

    memory_bytes: what one process may hold. Starts at once; raises ContentError when the world cannot be made. It ends
    with this object, or with the thread that made it.
    """

    def __init__(self, world: World, *, memory_bytes: int):
        environment = without_secrets(os.environ)
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}
        keeper = [sys.executable, "-P", "-m", "alignkit.processes.keeper", str(os.getpid()), str(memory_bytes)]
        child = Child.start(
            lambda end: [*keeper, "alignkit.environments.apart_server", str(end)],
            environment=environment,
            largest=LARGEST_ANSWER,
        )
        self._child = child
        weakref.finalize(self, child.kill, family=True)
        self._title = world.title
        try:
            child.channel.send({"world": packed(world)})
            said = child.channel.receive(timeout_s=LOAD_DEADLINE_S)
        except (EOFError, OSError) as error:
            why = "took too long" if isinstance(error, TimeoutError) else "ended"
            raise ContentError(f"environment '{world.title}': its process {why} while it was loaded") from error
        if "error" in said:
            raise ContentError(said["error"])
        self.pays = bool(said["pays"])

    def __call__(self) -> ApartEnvironment:
        return ApartEnvironment(self)

    def fork(self) -> socket.socket:
        """Starts an episode's process; this side's end of the channel to it. Raises EnvironmentFault."""
        ours, theirs = socket.socketpair()
        with theirs, socket.socket(fileno=os.dup(self._child.channel.fileno())) as end:
            try:
                socket.send_fds(end, [b"x"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                message = f"the process that starts its episodes is gone: {error}"
                raise EnvironmentFault(FaultKind.CRASH, message) from error
        return ours


class ApartEnvironment:
    """Fulfils ToolEnvironment over an episode in another process. What goes wrong there is an EnvironmentFault."""

    def __init__(self, apart: Apart):
        self._apart = apart
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._process: int | None = None
        self._waits = False

    async def start(self, task: Task, seed: int) -> Observation:
        self._reader, self._writer = await asyncio.open_connection(sock=self._apart.fork(), limit=LARGEST_ANSWER)
        return await self._ask({"start": packed((task, seed))})

    async def step(self, text: str) -> Observation:
        return await self._ask({"step": text})

    async def answer(self, message: Message) -> Observation:
        return await self._ask({"answer": dict(message)})

    async def cut(self) -> Observation:
        return await self._ask({"cut": True})

    def close(self) -> None:
        """Ends its process, at once when it owes an answer."""
        if self._waits and self._process is not None:
            kill_descendants(self._process)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
        if self._writer is not None:
            self._writer.close()
        self._process = self._writer = None

    async def _ask(self, asked: Mapping[str, Any]) -> Observation:
        assert self._writer is not None, "an environment is started first"
        self._waits = True
        with contextlib.suppress(ConnectionError):  # its process is gone: what it said last says how
            self._writer.write(json.dumps(asked).encode() + b"\n")
            await self._writer.drain()
        while True:
            said = await self._said()
            if "process" in said and self._process is None:  # once, of its keeper: it will be killed by this number
                self._process = int(said["process"])
                continue
            self._waits = False
            if "ended" in said:
                code = int(said["ended"])
                kind = FaultKind.MEMORY if code == OUT_OF_MEMORY else FaultKind.CRASH
                raise EnvironmentFault(kind, f"its process {how_it_ended(code)}")
            if "fault" in said:
                kind, message = said["fault"]
                raise EnvironmentFault(FaultKind(kind), str(message))
            return _observation(said["seen"])

    async def _said(self) -> dict[str, Any]:
        assert self._reader is not None
        try:
            line = await self._reader.readline()
            said = json.loads(line) if line else {}
            if not isinstance(said, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            most = f"wanted JSON of at most {LARGEST_ANSWER:,} bytes"
            raise EnvironmentFault(FaultKind.CONTRACT, f"its process said what cannot be read; {most}") from error
        except ConnectionError:
            line, said = b"", {}
        if not line:
            raise EnvironmentFault(FaultKind.CRASH, "its process and the one that keeps it are gone")
        return said


def _observation(seen: Any) -> Observation:
    if not isinstance(seen, dict):
        raise EnvironmentFault(FaultKind.CONTRACT, f"answered {seen}; wanted an Observation")
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in seen.items()}
    return Observation(**fields)
