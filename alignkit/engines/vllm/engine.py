"""The colocated vLLM engine: a child process of the trainer, on the same machine and devices.

Weights go to it through anonymous shared memory.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from alignkit.engines.engine import Part
from alignkit.engines.vllm.arguments import Settings
from alignkit.engines.vllm.process import VllmProcess, environment
from alignkit.errors import EngineError, SyncError
from alignkit.types.rollout import Completion, Request, StopReason
from alignkit.weights.sender import Sender

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT = Settings()
NO_ADAPTER: Mapping[str, tuple[int, ...]] = MappingProxyType({})
MERGE_IT = "; set engine.lora: merged where vLLM cannot take the adapter by itself"
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0  # vLLM raises lower ones silently, and refuses higher ones


class VllmEngine(VllmProcess):
    """Fulfils rollout.engine.Engine.

    model_folder: a saved model, or with `weights` (checkpoint name, tensor) its config only. What it begins with is of
    `version` and sets the names and shapes that every update must bring. adapter: name and shape of the matrices of a
    LoRA adapter (`models/adapter_matrices.py`) that every update brings, too; one that has brought the rest may be
    followed, until the engine sleeps, by some that bring nothing else. dtype: "float32" or "bfloat16".
    max_model_len: longest prompt and completion together, in tokens. memory_gib: key-value cache on CPU; settings:
    everything else that it is started with. threads: of all its workers, None: all cores it may use. log_file: takes
    the child's output. startup_s, timeout_s: a child that has not answered by then is killed.
    Raises EngineError when vLLM is not installed or does not start. After any error the engine is closed.
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
    ):
        super().__init__(log_file=log_file, timeout_s=timeout_s)
        self.policy_version = version
        self.unverified: tuple[str, ...] = ()
        """After an update: parameters that could not be read back, because vLLM names them otherwise."""
        self._max_model_len = max_model_len
        self._sender = Sender(model_folder, dtype, weights=weights, adapter=adapter, lends=settings.lends)
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
        own = environment(threads, memory_gib, deterministic=settings.deterministic, workers=settings.tensor_parallel)
        try:
            self._start(start, own, startup_s)
            homeless = self._call({"do": "homeless"})["layers"] if adapter else ()
        except EngineError as error:
            raise EngineError(f"{error}{MERGE_IT if adapter else ''}") from error
        if homeless:
            self.close()
            problem = f"it has no place for {len(homeless)} layers of the adapter, first: {homeless[0]}"
            raise EngineError(f"vllm engine: {problem}{MERGE_IT}")
        self._sender.started()

    async def generate(self, requests: Sequence[Request]) -> list[Completion]:
        for request in requests:
            request.check(context=self._max_model_len, engine="vllm engine")
            if request.temperature and not LOWEST_TEMPERATURE <= request.temperature <= HIGHEST_TEMPERATURE:
                raise EngineError(
                    f"vllm engine: temperature {request.temperature}: vLLM takes 0 or {LOWEST_TEMPERATURE} to "
                    f"{HIGHEST_TEMPERATURE}; set rollouts.temperature, or rollouts.engine: hf"
                )
        message = {"do": "generate", "requests": [_as_json(request) for request in requests]}
        reply = await asyncio.to_thread(self._call, message)
        self._check_version(reply["version"])
        return [self._completion(*pair) for pair in zip(requests, reply["completions"], strict=True)]

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        message = {"do": "score", "sequences": [list(sequence) for sequence in sequences]}
        reply = await asyncio.to_thread(self._call, message)
        self._check_version(reply["version"])
        return reply["scores"]

    def update(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        reply = self._sender.send(weights, version, self._call)
        if reply["stale"]:
            self.close()
            raise SyncError(
                f"vllm engine: after the update to version {version}, {len(reply['stale'])} parameters still compute "
                f"with other weights, first: {', '.join(reply['stale'][:3])}; "
                "report this with the output of `alignkit doctor`, and set rollouts.engine: hf meanwhile"
            )
        self.unverified = tuple(reply["unknown"])
        self.policy_version = version

    def layout(self) -> list[dict[str, Any]]:
        """What of the checkpoint each worker wants: `boxes` (name, begin, size) and, by name, tensors taken `whole`."""
        return self._call({"do": "layout"})["workers"]

    def sleep(self) -> None:
        self._sender.lost()
        self._call({"do": "sleep"})

    def wake(self, part: Part) -> None:
        self._call({"do": "wake", "part": part})

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sender.close()

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
