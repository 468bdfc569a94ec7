"""A child process in which vLLM works for this one.

A process of its own because vLLM takes over thread counts and process groups. Commands and answers are JSON lines over
a socket pair, the child's output goes to a log file.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from alignkit.errors import EngineError
from alignkit.processes.child import Child
from alignkit.processes.session import how_it_ended

# Set by launchers for the trainer's process group; the child must not join it, nor look for its store.
LAUNCHER_VARIABLES = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|(TORCHELASTIC|ACCELERATE)_.*"
)
# as alignkit sets it for the trainer, whose micro-batches vary in size; vLLM's sleep has a memory pool of its own
TRAINERS_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
LOG_LINES = 3  # last lines of the log that an error quotes

Answer = Future[dict[str, Any]]
"""What the child will say to one message, or the EngineError of its end."""


class VllmProcess:
    """Starts the child, asks it, and says how it ended. After any error it is closed.

    log_file: takes the child's output. timeout_s: a child that has not answered by then is killed. Raises EngineError
    when vLLM is not installed or does not start.
    """

    command: ClassVar[tuple[str, ...]] = (sys.executable, "-P", "-m", "alignkit.engines.vllm.worker")

    def __init__(self, *, log_file: Path, timeout_s: float):
        if find_spec("vllm") is None:
            raise EngineError(
                "vllm engine: vLLM is not installed; run: make setup (CPU), or make setup-gpu (GPU); "
                "or set rollouts.engine: hf (of a reward, engine: transformers), which needs nothing and is slower"
            )
        self._log_file, self._timeout_s = log_file, timeout_s
        self._why = ""
        self._numbers, self._awaited = itertools.count(), dict[int, Answer]()
        self._lock, self._sending, self.closed = threading.Lock(), threading.Lock(), False

    @property
    def process_id(self) -> int:
        return self._child.process.pid

    def close(self) -> None:
        """Kills the process; whoever waits for an answer gets an EngineError. May be called twice."""
        self._end("vllm engine: it was closed while it worked")

    def _start(self, start: dict[str, Any], environment: dict[str, str]) -> Answer:
        """Starts the child and tells it `start`; its answer comes when it is ready."""
        # the kernel's death signal follows the thread that starts the child; only the main thread lasts
        trainer = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            self._child = Child.start(
                lambda end: [*self.command, str(end), str(trainer)], environment=environment, output=log
            )
        threading.Thread(target=self._listen, daemon=True).start()
        return self._ask(start)

    def _ask(self, message: dict[str, Any]) -> Answer:
        """Sends a message; what the child will answer to it, or an EngineError."""
        number, answer = self._expect()
        self._send({"number": number, **message})
        return answer

    def _expect(self) -> tuple[int, Answer]:
        """A new number, and the answer that will come under it."""
        answer: Answer = Future()
        answer.set_running_or_notify_cancel()  # nobody but the child's answer, or its end, ends it
        with self._lock:
            if self.closed:
                raise EngineError(f"vllm engine: it was closed before ({self._why})")
            number = next(self._numbers)
            self._awaited[number] = answer
        return number, answer

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending, suppress(OSError):  # of its end those who wait are told by `_listen`
            self._child.channel.send(message)

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        """The child's answer, within the seconds that the process may take."""
        return self._wait(self._ask(message), self._timeout_s)

    def _wait(self, answer: Answer, timeout_s: float) -> dict[str, Any]:
        try:
            return answer.result(timeout_s)
        except TimeoutError as error:
            raise self._late(timeout_s) from error

    async def _answers(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """All of them, within the seconds that the process may take."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.gather(*map(asyncio.wrap_future, answers))
        except TimeoutError as error:
            raise self._late(self._timeout_s) from error

    def _listen(self) -> None:
        """Hands each answer to who waits for it, until the child or this side ends it."""
        try:
            while True:
                message = self._child.channel.receive()
                with self._lock:
                    answer = self._awaited.pop(message["number"], None)
                if answer is not None:  # else it has been given up meanwhile
                    answer.set_result(message["answer"])
        except (EOFError, OSError):
            if not self.closed:
                self._end(self._death())

    def _end(self, reason: str) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed, self._why = True, reason.removeprefix("vllm engine: ")
            waiting, self._awaited = self._awaited, {}
        self._child.channel.close()
        if self._child.process.poll() is None:  # once reaped, its number may be somebody else's
            self._child.kill()  # it has nothing to save, and its session has no other members
        for answer in waiting.values():
            answer.set_exception(EngineError(reason))

    def _late(self, timeout_s: float) -> EngineError:
        """Kills the child, which is too late."""
        error = EngineError(
            f"vllm engine: no answer within {timeout_s:g} s, so it was killed; its log: {self._log_tail()}"
        )
        self._end(str(error))
        return error

    def _death(self) -> str:
        """One line on how the child ended; reaps it."""
        try:
            how = how_it_ended(self._child.process.wait(timeout=10))
        except subprocess.TimeoutExpired:
            how = "closed its socket"
        return f"vllm engine: its process {how}; the last lines of {self._log_file}: {self._log_tail()}"

    def _log_tail(self) -> str:
        lines = self._log_file.read_text(errors="replace").split("\n")
        return " | ".join([line.strip() for line in lines if line.strip()][-LOG_LINES:]) or "(empty)"


def environment(
    threads: int | None,
    memory_gib: int,
    *,
    deterministic: bool = False,
    devices: Sequence[int] | None = None,
    workers: int = 1,
) -> dict[str, str]:
    """The child's environment: this one's without what was meant for the trainer alone, and with vLLM's settings.

    deterministic: that a request's bits depend on nothing else in the batch, which vLLM can promise on a GPU only.
    devices: the GPUs that it sees, as places among those that this process sees; None: that of its rank.
    workers: processes that share the threads out.
    """
    all_threads = threads or len(os.sched_getaffinity(0))
    own = {
        name: value
        for name, value in os.environ.items()
        if not LAUNCHER_VARIABLES.fullmatch(name) and (name, value) != TRAINERS_ALLOCATOR
    }
    return (
        own
        | _visible(devices)
        | {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in the child itself
            "VLLM_CPU_KVCACHE_SPACE": str(memory_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned threads lose the race against anything else that runs
            "OMP_NUM_THREADS": str(max(1, all_threads // workers)),
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve everything else
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "HF_HUB_OFFLINE": "1",
        }
        | ({"VLLM_BATCH_INVARIANT": "1"} if deterministic else {})
    )


def _visible(devices: Sequence[int] | None) -> dict[str, str]:
    """Shows the child some GPUs alone; None: under a launcher the one of its rank. Written for GPUs, not tried on one.

    Raises EngineError for one that is not there.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name for name in visible.split(",") if name]
    if devices is None:
        rank = os.environ.get("LOCAL_RANK")
        if rank is None or (names is not None and int(rank) >= len(names)):
            return {}
        devices = [int(rank)]
    missing = [] if names is None else [device for device in devices if device >= len(names)]
    if missing:
        raise EngineError(
            f"vllm engine: wants device {missing[0]}, counted from 0, of CUDA_VISIBLE_DEVICES={visible}; lower "
            "engine.replicas or engine.tensor_parallel"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(device) if names is None else names[device] for device in devices)}
