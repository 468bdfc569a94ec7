"""`alignkit replica`: an engine of a run's fleet, on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.engines.engine import Engine
from alignkit.errors import EngineError, RewardError
from alignkit.rewards.serve.endpoint import Endpoint
from alignkit.rewards.serve.listener import TOKEN_VARIABLE, Address, Listener
from alignkit.types.scratch import scratch

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.engines.servers.description import Description


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine gives the engine. memory_gib: for the key-value cache on a CPU; memory_fraction: share of a
    GPU. threads: None: all cores it may use. patience_s: how long the trainer may be away. log_file: takes the engine's
    output; None: one that is gone at the end."""

    memory_gib: int = 2
    memory_fraction: float = 0.9
    threads: int | None = None
    patience_s: float = 600.0
    log_file: Path | None = None


def serve_replica(
    trainer: str, *, address: Address, ca_file: str | None, machine: Machine, ready: Callable[[dict[str, Any]], None]
) -> None:
    """Starts the engine that the run at `trainer` describes, with the weights of now, and samples for it until SIGTERM,
    or until the run has been away for too long.

    The token is $ALIGNKIT_TOKEN, the trainer's. ready: told its url and the trainer's. Raises EngineError where the run
    cannot be reached, the engine does not start, or the run has no use for it; RewardError for an address or a token
    that cannot be used.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise RewardError(f"a replica needs the trainer's token: set {TOKEN_VARIABLE}")
    listener = Listener(address)
    endpoint = Endpoint(trainer, token=token, timeout_s=60.0, allow_private=True, ca_file=ca_file)
    try:
        from alignkit.engines.servers.replica import ReplicaServer
    except ModuleNotFoundError as error:
        raise RewardError(f"a replica needs {error.name}: pip install fastapi uvicorn httpx") from error

    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(scratch("replica-"))

        def start(description: Description, weights: Iterable[tuple[str, Tensor]], version: int) -> Engine:
            return _engine(description, weights, version, folder, machine)

        replica = ReplicaServer(endpoint, start, patience_s=machine.patience_s)
        resources.callback(replica.close)
        listener.bind()
        resources.callback(listener.stop)
        ended: list[str] = []

        def gone(why: str) -> None:
            ended.append(why)
            listener.leave()

        app = replica.app(token, listener.url, gone)
        ready({"url": listener.url, "trainer": trainer})
        listener.run(app)
        if ended:
            raise EngineError(f"replica: {ended[0]}")


def _engine(
    description: Description, weights: Iterable[tuple[str, Tensor]], version: int, folder: Path, machine: Machine
) -> Engine:
    """The engine that a description wants, which holds these weights."""
    description.write(folder / "model")
    if description.engine == "vllm":
        from alignkit.engines.vllm.arguments import Settings
        from alignkit.engines.vllm.engine import VllmEngine

        given: dict[str, Any] = {**description.settings, "memory_fraction": machine.memory_fraction}
        return VllmEngine(
            folder / "model",
            weights=weights,
            dtype=description.dtype,
            max_model_len=description.max_model_len,
            memory_gib=machine.memory_gib,
            settings=Settings(**given),
            threads=machine.threads,
            log_file=machine.log_file or folder / "engine.log",
            seed=description.seed,
            version=version,
        )
    from transformers import AutoConfig, AutoModelForCausalLM

    from alignkit.engines.hf import HfEngine
    from alignkit.models.device_type import default_device

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "model"))
    engine = HfEngine(model.float(), dtype=description.dtype, device=str(default_device()))
    engine.update(weights, version=version)
    return engine
