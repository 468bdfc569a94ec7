"""The process that episodes are forked from: what they play in is loaded once, and each has a process of its own.

Started by apart.py through processes/keeper.py. Its socket brings one setup, then the end of a channel for each
episode. An episode's process answers over it, in plain JSON, because the trainer must not unpack what foreign code
wrote. It has a keeper of its own, which buries what it leaves behind and says how it ended.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

from alignkit.environments.base import Environment, Observation, told
from alignkit.environments.lift import pays
from alignkit.errors import AlignkitError
from alignkit.processes.channel import Channel, unpacked
from alignkit.processes.family import adopt_orphans, end_with, kill_descendants
from alignkit.processes.keeper import exit_code
from alignkit.types.score import FaultKind

SEND_DEADLINE_S = 30.0
LONGEST_MESSAGE = 300


def main(descriptor: str) -> None:
    end = socket.socket(fileno=int(descriptor))
    channel = Channel(end)
    try:
        make = unpacked(channel.receive()["world"]).factory()
        channel.send({"pays": pays(make())})
    except AlignkitError as error:
        channel.send({"error": str(error)})
        return
    except BaseException as error:  # a user's file may do anything when it is imported
        channel.send({"error": _one_line(error)})
        return
    end.settimeout(None)
    _warm()
    gc.freeze()  # what is shared with the episodes stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one waits for them
    while True:
        said, descriptors, *_ = socket.recv_fds(end, 1, 1)
        if not said:
            return
        parent = os.getpid()
        if os.fork() == 0:
            end.close()
            _keep(make, descriptors[0], parent)
        os.close(descriptors[0])


def _warm() -> None:
    """Loads here what each episode would load for itself in its first call, which cost 20 ms an episode."""
    asyncio.run(asyncio.sleep(0))
    importlib.import_module("numpy.random")


def _keep(make: Callable[[], Environment], descriptor: int, parent: int) -> Never:
    """Starts the episode's process, waits for its end, buries what it left, and says how it ended."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with(parent, signal.SIGKILL)
        adopt_orphans()
        channel, keeper = Channel(socket.socket(fileno=descriptor)), os.getpid()
        channel.send({"process": keeper})
        player = os.fork()
        if player == 0:
            end_with(keeper, signal.SIGKILL)
            _play(make, channel)
        _, status, used = os.wait4(player, 0)
        if _has_children():
            kill_descendants(keeper)
        channel.send({"ended": exit_code(status, used.ru_maxrss)}, timeout_s=SEND_DEADLINE_S)
    finally:
        os._exit(0)


def _play(make: Callable[[], Environment], channel: Channel) -> Never:
    try:
        with asyncio.Runner() as runner:
            environment = None
            while True:
                asked = channel.receive()
                try:
                    environment = make() if environment is None else environment
                    reply = {"seen": _plain(runner.run(_answered(environment, asked)))}
                except BaseException as error:  # SystemExit among them
                    kind = FaultKind.MEMORY if isinstance(error, MemoryError) else FaultKind.CRASH
                    reply = {"fault": [kind.value, _one_line(error)]}
                channel.send(reply)
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


async def _answered(environment: Any, asked: dict[str, Any]) -> Any:
    [(what, said)] = asked.items()
    if what == "start":
        return await environment.start(*unpacked(said))
    if what == "cut":
        return await environment.cut()
    return await (environment.answer if what == "answer" else environment.step)(said)


def _plain(seen: Any) -> Any:
    """An observation as JSON values; what is none goes as its type's name, for the driver to refuse."""
    if not isinstance(seen, Observation):
        return type(seen).__name__
    fields: dict[str, Any] = {name: getattr(seen, name) for name in Observation.__slots__}
    return fields | {
        "reward": float(seen.reward),
        "done": bool(seen.done),
        "success": None if seen.success is None else bool(seen.success),
        "info": told(seen.info),
    }


def _has_children() -> bool:
    with suppress(OSError):
        return bool(Path(f"/proc/self/task/{os.getpid()}/children").read_text().strip())
    return sys.platform == "linux"


def _one_line(error: BaseException) -> str:
    """`ValueError: what (file.py:12)`."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    said = str(error)[:LONGEST_MESSAGE].partition("\n")[0]
    return f"{type(error).__name__}: {said}{where}"
