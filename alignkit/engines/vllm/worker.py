"""The engine process: real vLLM behind JSON lines. Started by VllmProcess; `python -m alignkit.engines.vllm.worker`.

It ends itself when the trainer is gone. It catches nothing: an exception ends the process with its traceback in the
log file, and the trainer reports the last lines of that.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Never

from alignkit.engines.vllm.arguments import (
    LOADER,
    WORKER,
    Platform,
    Settings,
    adapter_arguments,
    engine_arguments,
    keeps_prefixes,
)
from alignkit.engines.vllm.quirks.config import same_config
from alignkit.engines.vllm.sampling import Sampling
from alignkit.processes.channel import Channel
from alignkit.processes.family import end_with
from alignkit.processes.session import how_it_ended
from alignkit.weights.shared_weights import Table

TAGS = {"weights": "weights", "cache": "kv_cache"}  # what vLLM calls the parts of its memory
LAST_WORDS = threading.Lock()


class EngineWorker:
    """One vLLM engine and the commands on it. start: the arguments of VllmEngine, as JSON."""

    def __init__(self, start: dict[str, Any]):
        from vllm import LLM

        platform, settings = _platform(), Settings(**start["settings"])
        self._sleeps, self._version = settings.sleeps, start["version"]
        self._unknown: list[str] = []
        self._request, self._pushes = None, 0  # what makes a request compute with the adapter that was pushed last
        table, adapter = Table.from_json(start["table"]), Table.from_json(start["adapter"])
        self._adapted = bool(adapter.entries)
        told = {"folder": start["model_folder"]} | {key: start[key] for key in ("path", "table", "adapter", "memory")}
        self._llm: Any = LLM(
            model=start["model_folder"],
            load_format=LOADER,
            model_loader_extra_config=told,
            worker_cls=WORKER,
            skip_tokenizer_init=True,
            dtype=start["dtype"],
            seed=start["seed"] % 2**32,
            logprobs_mode="processed_logprobs",
            **same_config(Path(start["model_folder"]))
            | engine_arguments(platform, settings, max_model_len=start["max_model_len"], weight_bytes=table.size),
            **adapter_arguments({name: shape for name, shape, _ in adapter.entries}),
        )
        self._sampling = Sampling(
            self._llm, adapter=lambda: self._request, keeps_prefixes=keeps_prefixes(platform, settings)
        )

    @property
    def busy(self) -> bool:
        return self._sampling.busy

    def sample(self, requests: list[dict[str, Any]], lockstep: bool) -> None:
        """Queues requests; `step` says the completions."""
        self._sampling.add(requests, lockstep=lockstep)

    def step(self) -> list[tuple[int, dict[str, Any]]]:
        return [(number, {**completion, "version": self._version}) for number, completion in self._sampling.step()]

    def score(self, sequences: list[list[int]]) -> dict[str, Any]:
        return {"scores": self._sampling.score(sequences), "version": self._version}

    def homeless(self) -> dict[str, Any]:
        """Layers of the adapter that have no place in the model."""
        [layers, *_] = self._llm.collective_rpc("homeless")
        return {"layers": layers}

    def layout(self) -> dict[str, Any]:
        """What of the checkpoint each worker wants: boxes (name, begin, size), and names of whole tensors."""
        return {"workers": self._llm.collective_rpc("wanted")}

    def update(self, version: int, base: bool) -> dict[str, Any]:
        """Every worker loads what the trainer wrote, then reads it back. base: more than the adapter came."""
        return self._proven(version, self._llm.collective_rpc("take", args=(version,)) if base else [])

    def borrow(self, version: int, digests: list[int], **lent: Any) -> dict[str, Any]:
        """Loads weights that the trainer lends, by vLLM's own transfer, and compares what the model holds then."""
        from alignkit.weights.handles import update_info

        shapes = dict(zip(lent["names"], lent["shapes"], strict=True))
        self._llm.collective_rpc("init_weight_transfer_engine", args=({"packed": False},))
        self._llm.collective_rpc("start_weight_update")
        self._llm.collective_rpc("update_weights", args=(update_info(lent),))
        self._llm.collective_rpc("finish_weight_update")
        of = dict(zip(lent["names"], digests, strict=True))
        return self._proven(version, self._llm.collective_rpc("compare", args=(version, shapes, of)))

    def _proven(self, version: int, answers: list[dict[str, Any]]) -> dict[str, Any]:
        """The workers' answers as one, after the adapter has followed."""
        self._llm.reset_prefix_cache()
        self._version = version
        if answers:
            self._unknown = _by_worker(answers, "unknown")
        stale = _by_worker(answers, "stale") + _elsewhere(answers, version)
        if self._adapted:
            from alignkit.engines.vllm.adapter import request

            self._pushes += 1
            adapted = self._llm.collective_rpc("put_adapter", args=(version, self._pushes))
            stale += _by_worker(adapted, "stale") + _elsewhere(adapted, version)
            self._request = request(version, self._pushes)
        return {"stale": stale, "unknown": self._unknown, "version": version}

    def sleep(self) -> dict[str, Any]:
        """Level 2: the weights are not kept on the host, because the trainer sends them again."""
        if self._sleeps:
            self._llm.sleep(level=2)
        return {}

    def wake(self, part: str) -> dict[str, Any]:
        if self._sleeps:
            self._llm.wake_up(tags=[TAGS[part]])
        return {}


class Reader:
    """One vLLM pooling runner: says last hidden states. start: the arguments of VllmStates, as JSON."""

    busy = False

    def __init__(self, start: dict[str, Any]):
        from vllm import LLM

        arguments = engine_arguments(
            _platform(), Settings(**start["settings"]), max_model_len=start["max_model_len"], weight_bytes=0
        )
        self._llm: Any = LLM(
            model=start["model_folder"],
            runner="pooling",
            convert="embed",  # the state after the last token; the head stays with the reward model
            dtype="float32",  # in bfloat16 its numbers are not those of transformers
            **same_config(Path(start["model_folder"])) | arguments,
        )

    def states(self, sequences: list[list[int]]) -> dict[str, Any]:
        """Prefixes are shared within the call only, so that a call depends on nothing before."""
        from vllm import PoolingParams

        self._llm.reset_prefix_cache()
        results = self._llm.encode(
            [{"prompt_token_ids": sequence} for sequence in sequences],
            PoolingParams(use_activation=False),  # not scaled to length 1
            pooling_task="embed",
            use_tqdm=False,
        )
        return {"states": [result.outputs.data.float().tolist() for result in results]}


def _by_worker(answers: list[dict[str, Any]], key: str) -> list[str]:
    """Names of tensors out of all answers; with the worker's number where there are several."""
    if len(answers) == 1:
        return answers[0][key]
    return [f"{name} of worker {rank}" for rank, answer in enumerate(answers) for name in answer[key]]


def _elsewhere(answers: list[dict[str, Any]], version: int) -> list[str]:
    """Workers that answered for another version."""
    return [f"all of worker {rank}" for rank, answer in enumerate(answers) if answer["version"] != version]


def _platform() -> Platform:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return Platform(cpu=True)
    return Platform(cpu=False, device_bytes=current_platform.get_device_total_memory())


def main() -> None:
    """Arguments: socket descriptor, trainer's process id when it may be died with."""
    end, trainer = (int(argument) for argument in sys.argv[1:3])
    if trainer:  # 0: only the socket tells that it is gone
        end_with(trainer, signal.SIGKILL)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))  # the limit of a reward's worker is not meant for an engine
    channel = Channel(socket.socket(fileno=end))
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, commands), daemon=True).start()
    start = commands.get()
    worker: Any = Reader(start) if start["do"] == "states" else EngineWorker(start)
    watch_workers()
    channel.send({"number": start["number"], "answer": {}})
    _serve(worker, channel, commands)


def _serve(worker: Any, channel: Channel, commands: queue.SimpleQueue[dict[str, Any]]) -> Never:
    """Answers commands in their order, by their numbers. Requests to sample join those that run, unless they are to run
    in lockstep; every other command waits until all completions were told, so one has the weights of one version."""
    command: dict[str, Any] | None = None
    while True:
        if command is None:
            with suppress(queue.Empty):
                command = commands.get(block=not worker.busy)
        if command is not None and (not worker.busy or (command["do"] == "sample" and not command["lockstep"])):
            number, do = command.pop("number"), command.pop("do")
            answer = getattr(worker, do)(**command)
            if answer is not None:
                channel.send({"number": number, "answer": answer})
            command = None
        else:
            channel.send(*({"number": number, "answer": answer} for number, answer in worker.step()))


def watch_workers() -> None:
    """Ends this process as soon as one of vLLM's worker processes has ended, with its name as the last words.

    vLLM would first wait for the others, which may be waiting for the dead one. They end with this process.
    """
    workers = sorted(multiprocessing.active_children(), key=lambda worker: worker.name)
    if workers:
        threading.Thread(target=_end_with_any, args=(workers, None), daemon=True).start()
        sys.excepthook = partial(_say_why, workers)


def _end_with_any(workers: list[Any], within_s: float | None) -> None:
    ended = wait([worker.sentinel for worker in workers], within_s)
    for rank, worker in enumerate(workers):
        if worker.sentinel in ended:
            with LAST_WORDS:  # only one thread is told by the kernel how a process ended
                worker.join(timeout=1.0)
                print(
                    f"worker {rank} (process {worker.pid}) {how_it_ended(worker.exitcode or 0)}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)


def _say_why(workers: list[Any], *error: Any) -> None:
    """What ends this process may follow from the end of a worker, which is noticed a little later."""
    sys.__excepthook__(*error)
    _end_with_any(workers, 2.0)


def _listen(channel: Channel, commands: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Queues commands; ends the process at once, also in the middle of one, when the trainer closes its end."""
    while True:
        try:
            commands.put(channel.receive())
        except EOFError:
            os._exit(0)


if __name__ == "__main__":
    main()
