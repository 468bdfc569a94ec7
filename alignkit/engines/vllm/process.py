"""A child process in which vLLM works for this one.

A process of its own because vLLM takes over thread counts and process groups. Commands and answers are JSON lines over
a socket pair, the child's output goes to a log file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
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
        self._lock, self.closed = threading.Lock(), False

    @property
    def process_id(self) -> int:
        return self._child.process.pid

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._child.channel.close()
        if self._child.process.poll() is None:  # once reaped, its number may be somebody else's
            self._child.kill()  # it has nothing to save, and its session has no other members

    def _start(self, start: dict[str, Any], environment: dict[str, str], startup_s: float) -> None:
        """Starts the child, tells it `start`, and waits until it is ready."""
        # the kernel's death signal follows the thread that starts the child; only the main thread lasts
        trainer = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            self._child = Child.start(
                lambda end: [*self.command, str(end), str(trainer)], environment=environment, output=log
            )
        self._call(start, startup_s)

    def _call(self, message: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """The child's answer, within timeout_s seconds, or as many as the process may take."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        with self._lock:
            if self.closed:
                raise EngineError("vllm engine: it was closed, or failed before")
            try:
                self._child.channel.send(message)
                return self._child.channel.receive(timeout_s=timeout_s)
            except TimeoutError as error:
                self.close()
                raise EngineError(
                    f"vllm engine: no answer within {timeout_s:g} s, so it was killed; its log: {self._log_tail()}"
                ) from error
            except (EOFError, OSError) as error:
                raise EngineError(self._death()) from error

    def _death(self) -> str:
        """One line on how the child ended; reaps it."""
        if self.closed:
            return "vllm engine: it was closed while it worked"
        try:
            how = how_it_ended(self._child.process.wait(timeout=10))
        except subprocess.TimeoutExpired:
            how = "closed its socket"
        self.close()
        return f"vllm engine: its process {how}; the last lines of {self._log_file}: {self._log_tail()}"

    def _log_tail(self) -> str:
        lines = self._log_file.read_text(errors="replace").split("\n")
        return " | ".join([line.strip() for line in lines if line.strip()][-LOG_LINES:]) or "(empty)"


def environment(
    threads: int | None, memory_gib: int, *, deterministic: bool = False, workers: int = 1
) -> dict[str, str]:
    """The child's environment: this one's without what was meant for the trainer alone, and with vLLM's settings.

    deterministic: that a request's bits depend on nothing else in the batch, which vLLM can promise on a GPU only.
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
        | _own_device()
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


def _own_device() -> dict[str, str]:
    """Under a launcher: shows the child the one GPU of its trainer's rank. Written for GPUs, not tried on one."""
    if "LOCAL_RANK" not in os.environ:
        return {}
    rank = int(os.environ["LOCAL_RANK"])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(rank)] * (rank + 1) if visible is None else visible.split(",")
    return {"CUDA_VISIBLE_DEVICES": devices[rank]} if rank < len(devices) else {}
