"""The engine process: real vLLM behind JSON lines. Started by VllmProcess; `python -m alignkit.engines.vllm.worker`.

It ends itself when the trainer is gone. It catches nothing: an exception ends the process with its traceback in the
log file, and the trainer reports the last lines of that.
"""

from __future__ import annotations

import os
import queue
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Never

from alignkit.engines.vllm.arguments import (
    Platform,
    Settings,
    adapter_arguments,
    engine_arguments,
    keeps_prefixes,
)
from alignkit.engines.vllm.quirks.config import same_config
from alignkit.engines.vllm.quirks.rotary import rotate_whole_queries
from alignkit.engines.vllm.sampling import Sampling
from alignkit.processes.channel import Channel
from alignkit.processes.family import end_with
from alignkit.weights.shared_weights import Table, map_tensors, pin, stored_weights

TAGS = {"weights": "weights", "cache": "kv_cache"}  # what vLLM calls the parts of its memory


class EngineWorker:
    """One vLLM engine and the commands on it. start: the arguments of VllmEngine, as JSON."""

    def __init__(self, start: dict[str, Any], weights_descriptor: int):
        from vllm import LLM

        platform, settings = _platform(), Settings(**start["settings"])
        self._sleeps, self._on_cpu = settings.sleeps, platform.cpu
        self._weights: dict[str, Any] | None = None
        self._descriptor = weights_descriptor
        self._table, adapter = Table.from_json(start["table"]), Table.from_json(start["adapter"])
        self._version, self._unknown = start["version"], []
        begins = partial(_begins_with, Path(start["model_folder"]), weights_descriptor, self._table, start["memory"])
        self._llm: Any = LLM(
            model=start["model_folder"],
            load_format=_from_memory(begins) if start["memory"] else "auto",
            skip_tokenizer_init=True,
            dtype=start["dtype"],
            seed=start["seed"] % 2**32,
            logprobs_mode="processed_logprobs",
            **same_config(Path(start["model_folder"]))
            | engine_arguments(platform, settings, max_model_len=start["max_model_len"], weight_bytes=self._table.size),
            **adapter_arguments({name: shape for name, shape, _ in adapter.entries}),
        )

        from alignkit.engines.vllm import weights as vllm_weights
        from alignkit.engines.vllm.adapter import HeldAdapter

        if platform.cpu:
            self._llm.apply_model(rotate_whole_queries)
        self._adapter = HeldAdapter(self._llm, adapter, weights_descriptor) if adapter.entries else None
        self._sampling = Sampling(
            self._llm,
            adapter=lambda: self._adapter.request if self._adapter else None,
            keeps_prefixes=keeps_prefixes(platform, settings),
        )
        [self._unread] = self._llm.apply_model(lambda model: vllm_weights.unreadable(model, begins))

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
        return {"layers": self._adapter.homeless() if self._adapter else []}

    def update(self, version: int, base: bool) -> dict[str, Any]:
        """Loads what the trainer wrote, then reads it back from the kernels. base: more than the adapter came."""
        if not base:
            return self._proven(None, version)
        from alignkit.engines.vllm import weights as vllm_weights

        if self._weights is None:
            self._weights = map_tensors(self._descriptor, self._table)
            if not self._on_cpu:
                pin(self._weights, self._table)

        def reload(iterator: Any) -> None:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iterator})

        vllm_weights.load(self._weights, reload, self._llm.apply_model)
        return self._proven(self._weights, version)

    def borrow(self, version: int, digests: list[int], **lent: Any) -> dict[str, Any]:
        """Loads weights that the trainer lends, by vLLM's own transfer, and compares what the model holds then."""
        from alignkit.engines.vllm import weights as vllm_weights
        from alignkit.weights.digest import Digest
        from alignkit.weights.handles import update_info

        of = zip(lent["names"], lent["shapes"], digests, strict=True)
        sent = {name: Digest(tuple(shape), value) for name, shape, value in of}
        self._llm.collective_rpc("init_weight_transfer_engine", args=({"packed": False},))
        self._llm.collective_rpc("start_weight_update")
        self._llm.collective_rpc("update_weights", args=(update_info(lent),))
        self._llm.collective_rpc("finish_weight_update")
        self._llm.apply_model(vllm_weights.repack)
        return self._proven(sent, version)

    def _proven(self, sent: Any, version: int) -> dict[str, Any]:
        from alignkit.engines.vllm import weights as vllm_weights

        self._llm.reset_prefix_cache()
        self._version, stale = version, []
        if sent is not None:
            [(stale, self._unknown)] = self._llm.apply_model(
                lambda model: vllm_weights.stale_tensors(model, sent, version=version, unread=self._unread)
            )
        if self._adapter is not None:
            stale += self._adapter.put(version)
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


def _begins_with(folder: Path, descriptor: int, table: Table, memory: bool) -> dict[str, Any]:
    """What the engine begins with. Read at the start only: where weights are lent, the memory is gone afterwards."""
    return map_tensors(descriptor, table) if memory else stored_weights(folder)


def _from_memory(weights: Callable[[], dict[str, Any]]) -> str:
    """The name of a load format of vLLM's that takes these weights, as it would take them out of files."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    class Loader(DefaultModelLoader):
        def download_model(self, model_config: Any) -> None:
            pass

        def get_all_weights(self, model_config: Any, model: Any) -> Any:
            yield from weights().items()

    register_model_loader("memory")(Loader)
    return "memory"


def _platform() -> Platform:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return Platform(cpu=True)
    return Platform(cpu=False, device_bytes=current_platform.get_device_total_memory())


def main() -> None:
    """Arguments: socket descriptor, weights descriptor (-1: none), trainer's process id when it may be died with."""
    end, descriptor, trainer = (int(argument) for argument in sys.argv[1:4])
    if trainer:  # 0: only the socket tells that it is gone
        end_with(trainer, signal.SIGKILL)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))  # the limit of a reward's worker is not meant for an engine
    channel = Channel(socket.socket(fileno=end))
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, commands), daemon=True).start()
    start = commands.get()
    worker: Any = Reader(start) if start["do"] == "states" else EngineWorker(start, descriptor)
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


def _listen(channel: Channel, commands: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Queues commands; ends the process at once, also in the middle of one, when the trainer closes its end."""
    while True:
        try:
            commands.put(channel.receive())
        except EOFError:
            os._exit(0)


if __name__ == "__main__":
    main()
