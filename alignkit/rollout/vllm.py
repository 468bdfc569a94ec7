"""The colocated vLLM engine: a child process of the trainer, on the same machine and devices.

A process of its own because vLLM takes over thread counts and process groups. Commands and answers are JSON lines over
a socket pair, weights go through anonymous shared memory, the child's output goes to a log file.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from alignkit.errors import EngineError, SyncError
from alignkit.rollout.channel import Channel
from alignkit.rollout.limits import check_requests
from alignkit.rollout.shared_weights import map_tensors, table_of
from alignkit.types.rollout import Completion, Request, StopReason

if TYPE_CHECKING:
    from torch import Tensor

# Set by launchers for the trainer's process group; the child must not join it.
LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0  # vLLM raises lower ones silently, and refuses higher ones
LOG_LINES = 3  # last lines of the log that an error quotes


class VllmEngine:
    """Fulfils rollout.engine.Engine.

    model_folder: a saved model (config and safetensors); its weights are those of `version` and set the names and
    shapes that every update must bring. dtype: "float32" or "bfloat16". max_model_len: longest prompt and completion
    together, in tokens. memory_gib: key-value cache on CPU; gpu_memory_fraction: share of the device on a GPU.
    threads: of the child, None: all cores it may use. log_file: takes the child's output. startup_s, timeout_s: a
    child that has not answered by then is killed.
    Raises EngineError when vLLM is not installed or does not start. After any error the engine is closed.
    """

    command: ClassVar[tuple[str, ...]] = (sys.executable, "-P", "-m", "alignkit.rollout.vllm_worker")

    def __init__(
        self,
        model_folder: Path,
        *,
        dtype: str,
        max_model_len: int,
        log_file: Path,
        seed: int = 0,
        memory_gib: int = 2,
        gpu_memory_fraction: float = 0.45,
        threads: int | None = None,
        version: int = 0,
        startup_s: float = 300.0,
        timeout_s: float = 3600.0,
    ):
        if find_spec("vllm") is None:
            raise EngineError(
                "vllm engine: vLLM is not installed; run: make setup (CPU), or pip install 'alignkit[gpu]' (GPU); "
                "or set rollouts.engine: hf, which needs nothing and is slower"
            )
        self.policy_version = version
        self.unverified: tuple[str, ...] = ()
        """After an update: parameters that could not be read back, because vLLM names them otherwise."""
        self._log_file, self._timeout_s, self._max_model_len = log_file, timeout_s, max_model_len
        self._lock, self._closed = threading.Lock(), False
        self._table = table_of(model_folder, dtype)
        self._descriptor = os.memfd_create("alignkit-weights")
        self._weights: dict[str, Tensor] | None = None
        self._channel, self._process = self._start(_environment(threads, memory_gib))
        start = {
            "model_folder": str(model_folder),
            "dtype": dtype,
            "max_model_len": max_model_len,
            "seed": seed,
            "gpu_memory_fraction": gpu_memory_fraction,
            "version": version,
            "table": self._table.as_json(),
        }
        self._call(start, startup_s)

    @property
    def process_id(self) -> int:
        return self._process.pid

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        check_requests(requests, context=self._max_model_len, engine="vllm engine")
        for request in requests:
            if request.temperature and not LOWEST_TEMPERATURE <= request.temperature <= HIGHEST_TEMPERATURE:
                raise EngineError(
                    f"vllm engine: temperature {request.temperature}: vLLM takes 0 or {LOWEST_TEMPERATURE} to "
                    f"{HIGHEST_TEMPERATURE}; set rollouts.temperature, or rollouts.engine: hf"
                )
        message = {"do": "generate", "requests": [_as_json(request) for request in requests]}
        reply = await asyncio.to_thread(self._call, message, self._timeout_s)
        self._check_version(reply["version"])
        return [self._completion(*pair) for pair in zip(requests, reply["completions"], strict=True)]

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        message = {"do": "score", "sequences": [list(sequence) for sequence in sequences]}
        reply = await asyncio.to_thread(self._call, message, self._timeout_s)
        self._check_version(reply["version"])
        return reply["scores"]

    def update(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        self._write(weights)
        reply = self._call({"do": "update", "version": version}, self._timeout_s)
        if reply["stale"]:
            self.close()
            raise SyncError(
                f"vllm engine: after the update to version {version}, {len(reply['stale'])} parameters still compute "
                f"with other weights, first: {', '.join(reply['stale'][:3])}; "
                "report this with the output of `alignkit doctor`, and set rollouts.engine: hf meanwhile"
            )
        self.unverified = tuple(reply["unknown"])
        self.policy_version = version

    def sleep(self) -> None:
        self._call({"do": "sleep"}, self._timeout_s)

    def wake(self) -> None:
        self._call({"do": "wake"}, self._timeout_s)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._channel.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # it has nothing to save; its session has no other members
            self._process.wait()
        self._weights = None
        os.close(self._descriptor)

    def _start(self, environment: dict[str, str]) -> tuple[Channel, subprocess.Popen]:
        ours, theirs = socket.socketpair()
        # the kernel's death signal follows the thread that starts the child; only the main thread lasts
        trainer = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        descriptors = (theirs.fileno(), self._descriptor)
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with theirs, self._log_file.open("ab") as log:
            process = subprocess.Popen(
                [*self.command, *map(str, descriptors), str(trainer)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the terminal is the trainer's to handle
            )
        return Channel(ours), process

    def _call(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        with self._lock:
            if self._closed:
                raise EngineError("vllm engine: it was closed, or failed before")
            try:
                self._channel.send(message)
                return self._channel.receive(timeout_s=timeout_s)
            except TimeoutError as error:
                self.close()
                raise EngineError(
                    f"vllm engine: no answer within {timeout_s:g} s, so it was killed; its log: {self._log_tail()}"
                ) from error
            except (EOFError, OSError) as error:
                raise EngineError(self._death()) from error

    def _death(self) -> str:
        """One line on how the child ended; reaps it."""
        if self._closed:
            return "vllm engine: it was closed while it worked"
        try:
            code = self._process.wait(timeout=10)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "closed its socket"
        self.close()
        return f"vllm engine: its process {how}; the last lines of {self._log_file}: {self._log_tail()}"

    def _log_tail(self) -> str:
        lines = self._log_file.read_text(errors="replace").split("\n")
        return " | ".join([line.strip() for line in lines if line.strip()][-LOG_LINES:]) or "(empty)"

    def _write(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Writes all weights into the shared memory; EngineError, with nothing changed, when names or shapes differ."""
        if self._weights is None:
            self._weights = map_tensors(self._descriptor, self._table)
        missing = set(self._weights)
        for name, tensor in weights:
            if name not in missing:
                what = "twice" if name in self._weights else "which the model folder lacks"
                raise EngineError(f"vllm engine: an update brings {name}, {what}")
            target = self._weights[name]
            if target.shape != tensor.shape:
                raise EngineError(
                    f"vllm engine: an update brings {name} as {tuple(tensor.shape)}, wanted {tuple(target.shape)}"
                )
            target.copy_(tensor)
            missing.remove(name)
        if missing:
            raise EngineError(f"vllm engine: an update lacks {len(missing)} weights, first: {min(missing)}")

    def _check_version(self, version: int) -> None:
        if version != self.policy_version:
            self.close()
            raise SyncError(f"vllm engine: it answered with version {version}, wanted version {self.policy_version}")

    def _completion(self, request: Request, answer: dict[str, Any]) -> Completion:
        token_ids = tuple(answer["token_ids"])
        if not all(map(math.isfinite, answer["logprobs"])):
            raise EngineError("vllm engine: the model's log-probs are not finite; its weights are broken")
        if answer["finish"] == "stop":
            stop = StopReason.END_OF_TEXT
        elif answer["finish"] == "length":
            stop = StopReason.LENGTH if len(token_ids) == request.max_new_tokens else StopReason.CONTEXT_FULL
        else:
            stop = StopReason.ERROR
        return Completion(
            token_ids=token_ids, logprobs=tuple(answer["logprobs"]), stop=stop, policy_version=self.policy_version
        )


def _as_json(request: Request) -> dict[str, Any]:
    return {
        "prompt_ids": list(request.prompt_ids),
        "seed": request.seed,
        "max_new_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "stop_token_ids": list(request.stop_token_ids),
    }


def _environment(threads: int | None, memory_gib: int) -> dict[str, str]:
    """The child's environment: this one's without the launcher's process group, and with vLLM's settings."""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    return (
        environment
        | _own_device()
        | {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in the child itself
            "VLLM_CPU_KVCACHE_SPACE": str(memory_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned threads lose the race against anything else that runs
            "OMP_NUM_THREADS": str(threads or len(os.sched_getaffinity(0))),
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve everything else
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "HF_HUB_OFFLINE": "1",
        }
    )


def _own_device() -> dict[str, str]:
    """Under a launcher: shows the child the one GPU of its trainer's rank. Written for GPUs, not tried on one."""
    if "LOCAL_RANK" not in os.environ:
        return {}
    rank = int(os.environ["LOCAL_RANK"])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(rank)] * (rank + 1) if visible is None else visible.split(",")
    return {"CUDA_VISIBLE_DEVICES": devices[rank]} if rank < len(devices) else {}
