"""The vLLM replicas of the trainer's own machine: who of them is on which devices, with how many threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alignkit.engines.vllm.engine import VllmEngine
from alignkit.engines.vllm.host import Host, devices_of
from alignkit.models.device_type import has_gpu
from alignkit.recipe.schema import EngineProcess, Recipe


def shares_card(engine: EngineProcess) -> bool:
    """Whether there is one replica with one worker, on the card that holds the weights of the first rank."""
    return engine.placement == "colocated" and engine.replicas == engine.tensor_parallel == 1


def start_host(recipe: Recipe, start: Callable[..., VllmEngine], log_file: Path) -> Host:
    """Starts the replicas, all at the same time. start: makes one, but for what is its own.

    Raises EngineError when one does not start.
    """

    def begin(number: int) -> VllmEngine:
        own = log_file.with_stem(f"{log_file.stem}-{number + 1}")
        return start(**placed(recipe, number), log_file=own, wait=False, name=f"replica {number + 1}")

    return Host.start(recipe.engine.replicas, begin)


def placed(recipe: Recipe, number: int) -> dict[str, Any]:
    """Threads and devices of a replica, as VllmEngine takes them. On a GPU one that shares its card sees that of its
    trainer's rank; others follow one another from the trainer's first device on, or after its last."""
    engine = recipe.engine
    threads = max(1, torch.get_num_threads() // engine.replicas)
    if shares_card(engine) or not has_gpu():
        return {"threads": threads}
    after = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if engine.placement == "own" else 0
    return {"threads": threads, "devices": devices_of(number, each=engine.tensor_parallel, after=after)}
