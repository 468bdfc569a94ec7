"""The colocated vLLM engine: a child process of the trainer, on the same machine and devices.

Weights go to it through anonymous shared memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.engines.engine import Part
from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.process import VllmProcess, environment
from alignkit.engines.wire import IDS, LOGPROBS, from_text, request_to_wire
from alignkit.errors import EngineError, SyncError
from alignkit.types.rollout import Completion, Request, StopReason
from alignkit.weights.host_memory import HostMemory
from alignkit.weights.sender import Sender

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT = Settings()
NO_ADAPTER: Mapping[str, tuple[int, ...]] = MappingProxyType({})
MERGE_IT = "; set engine.lora: merged where vLLM cannot take the adapter by itself"
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0  # vLLM raises lower ones silently, and refuses higher ones


class VllmEngine(VllmProcess):
    """Fulfils engines.engine.Engine.

    model_folder: a saved model, or with `weights` (checkpoint name, tensor) its config only. What it begins with is of
    `version` and sets the names and shapes that every update must bring. adapter: name and shape of the matrices of a
    LoRA adapter (`models/adapter_matrices.py`) that every update brings, too; one that has brought the rest may be
    followed, until the engine sleeps, by some that bring nothing else. dtype: "float32" or "bfloat16".
    max_model_len: longest prompt and completion together, in tokens. memory_gib: key-value cache on CPU; settings:
    everything else that it is started with. threads: of all its workers, None: all cores it may use. log_file: takes
    the child's output. startup_s, timeout_s: a child that has not answered by then is killed. sender: that of a host
    whose engines share the memory of the weights, in place of `weights`; who made it closes it. devices: its GPUs, as
    places among the visible ones; None: that of its trainer's rank. wait: until it has started; else `ready` is called
    first, so that several start together. name: what a fleet calls it. Raises EngineError when vLLM is not installed or
    does not start. After any error the engine is closed.
    """

    def __init__(
        self,
        model_folder: Path,
        *,
        dtype: str,
        max_model_len: int,
        log_file: Path,
        weights: Iterable[tuple[str, Tensor]] | None = None,
        adapter: Mapping[str, tuple[int, ...]] = NO_ADAPTER,
        seed: int = 0,
        memory_gib: int = 2,
        settings: Settings = DEFAULT,
        threads: int | None = None,
        version: int = 0,
        startup_s: float = 900.0,
        timeout_s: float = 3600.0,
        sender: Sender | None = None,
        devices: Sequence[int] | None = None,
        wait: bool = True,
        name: str = "engine",
    ):
        super().__init__(log_file=log_file, timeout_s=timeout_s)
        self.name = name
        self.policy_version = version
        self.unverified: tuple[str, ...] = ()
        """After an update: parameters that could not be read back, because vLLM names them otherwise."""
        self._max_model_len, self._lends, self._owns = max_model_len, settings.lends, sender is None
        self._sender = sender or Sender(model_folder, dtype, weights=weights, adapter=adapter, lends=settings.lends)
        start = {
            "do": "generate",
            "model_folder": str(model_folder),
            "dtype": dtype,
            "max_model_len": max_model_len,
            "seed": seed,
            "settings": settings.as_json(),
            "version": version,
            **self._sender.told(),
        }
        own = environment(
            threads,
            memory_gib,
            deterministic=settings.deterministic,
            devices=devices,
            workers=settings.tensor_parallel,
        )
        self._startup_s, self._has_adapter = startup_s, bool(adapter)
        self._begun = self._start(start, own)
        if wait:
            self.ready()

    def ready(self) -> None:
        """Waits until it has started. Raises EngineError when it does not."""
        try:
            self._wait(self._begun, self._startup_s)
            homeless = self._call({"do": "homeless"})["layers"] if self._has_adapter else ()
        except EngineError as error:
            self.close()
            raise EngineError(f"{error}{MERGE_IT if self._has_adapter else ''}") from error
        if homeless:
            self.close()
            problem = f"it has no place for {len(homeless)} layers of the adapter, first: {homeless[0]}"
            raise EngineError(f"vllm engine: {problem}{MERGE_IT}")
        self._sender.started()

    async def sample(self, request: Request) -> Completion:
        return (await self._sample([request], lockstep=False))[0]

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return await self._sample(requests, lockstep=True)

    async def _sample(self, requests: Sequence[Request], *, lockstep: bool) -> list[Completion]:
        for request in requests:
            request.check(context=self._max_model_len, engine="vllm engine")
            if request.temperature and not LOWEST_TEMPERATURE <= request.temperature <= HIGHEST_TEMPERATURE:
                raise EngineError(
                    f"vllm engine: temperature {request.temperature}: vLLM takes 0 or {LOWEST_TEMPERATURE} to "
                    f"{HIGHEST_TEMPERATURE}; set rollouts.temperature, or rollouts.engine: hf"
                )
        awaited = [self._expect() for _ in requests]
        asked = [
            {"number": number, **request_to_wire(request)}
            for (number, _), request in zip(awaited, requests, strict=True)
        ]
        self._send({"number": None, "do": "sample", "lockstep": lockstep, "requests": asked})
        answers = await self._answers([answer for _, answer in awaited])
        return [self._completion(*pair) for pair in zip(requests, answers, strict=True)]

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        message = {"do": "score", "sequences": [list(sequence) for sequence in sequences]}
        [reply] = await self._answers([self._ask(message)])
        self._check_version(reply["version"])
        return reply["scores"]

    @property
    def memory(self) -> HostMemory | None:
        """Where the ranks of its host may write their pieces of an update for `load`; None where weights are lent."""
        return None if self._lends else self._sender.memory

    def update(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        self._sender.send(weights, version, self.take)

    def load(self, *, version: int) -> None:
        """Takes the update that lies in `memory`; as `update`, but EngineError unless it has been written whole."""
        self._sender.announce(version, self.take)

    def take(self, message: dict[str, Any]) -> dict[str, Any]:
        """Takes the weights that a sender has laid ready; what its process answers. Raises SyncError."""
        reply = self._call(message)
        version = message["version"]
        if reply["stale"]:
            self.close()
            raise SyncError(
                f"vllm engine: after the update to version {version}, {len(reply['stale'])} parameters still compute "
                f"with other weights, first: {', '.join(reply['stale'][:3])}; "
                "report this with the output of `alignkit doctor`, and set rollouts.engine: hf meanwhile"
            )
        self.unverified = tuple(reply["unknown"])
        self.policy_version = version
        return reply

    def layout(self) -> list[dict[str, Any]]:
        """What of the checkpoint each worker wants: `boxes` (name, begin, size) and, by name, tensors taken `whole`."""
        return self._call({"do": "layout"})["workers"]

    def sleep(self) -> None:
        self._sender.lost()
        self._call({"do": "sleep"})

    def wake(self, part: Part) -> None:
        self._call({"do": "wake", "part": part})

    def close(self) -> None:
        super().close()
        if self._owns:
            self._sender.close()

    def _check_version(self, version: int) -> None:
        if version != self.policy_version:
            self.close()
            raise SyncError(f"vllm engine: it answered with version {version}, wanted version {self.policy_version}")

    def _completion(self, request: Request, answer: dict[str, Any]) -> Completion:
        self._check_version(answer["version"])
        token_ids, logprobs = from_text(answer["token_ids"], IDS), from_text(answer["logprobs"], LOGPROBS)
        if not np.isfinite(logprobs).all():
            raise EngineError("vllm engine: the model's log-probs are not finite; its weights are broken")
        if answer["finish"] == "stop":
            stop = StopReason.END_OF_TEXT
        elif answer["finish"] == "length":
            stop = StopReason.LENGTH if len(token_ids) == request.max_new_tokens else StopReason.CONTEXT_FULL
        else:
            stop = StopReason.ERROR
        return Completion(
            token_ids=tuple(token_ids.tolist()),
            logprobs=tuple(logprobs.tolist()),
            stop=stop,
            versions=((0, answer["version"]),),
        )
