"""What must hold between the settings of the processes that sample and those of the rest of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator

from alignkit.recipe.document import KeyPath
from alignkit.recipe.lookup.vllm_options import ADAPTER_RANKS, broken_options
from alignkit.recipe.schema import Recipe

Broken = Iterator[tuple[KeyPath, str]]
LAST_PORT = 65535


def broken_engine(recipe: Recipe) -> Broken:
    """Every broken rule of the `engine` section."""
    for option, problem in broken_options(recipe.engine.options):
        yield ("engine", "options", option), problem
    yield from _replicas(recipe)
    problem = _joined(recipe) if recipe.engine.lora == "adapter" else None
    if problem:
        yield ("engine", "lora"), f"`adapter` cannot be: {problem}; set it to `merged`"


def _replicas(recipe: Recipe) -> Broken:
    engine = recipe.engine
    kind = recipe.stages[-1].rollouts.engine if recipe.stages else "vllm"
    if kind == "hf" and engine.placement == "own":
        yield ("engine", "placement"), "the hf engine is on the trainer's device; set `colocated`, or `servers`"
    if kind == "hf" and engine.placement == "colocated" and engine.replicas > 1:
        yield ("engine", "replicas"), "the hf engine is one; set rollouts.engine: vllm, or engine.placement: servers"
    if kind == "hf" and engine.tensor_parallel > 1:
        yield ("engine", "tensor_parallel"), "the hf engine is on one device; set rollouts.engine: vllm"
    if engine.placement == "servers" and engine.lora == "adapter":
        yield ("engine", "lora"), "servers take whole weights; set it to `merged`"
    address = re.fullmatch(r"(?:\[[0-9a-fA-F:]+\]|[^:\s]+):(\d{1,5})", engine.listen)
    if address is None or int(address[1]) > LAST_PORT:
        yield ("engine", "listen"), f"{engine.listen} is no address; wanted HOST:PORT, a port of 0 to {LAST_PORT}"
    if (engine.certificate is None) != (engine.key is None):
        yield (
            ("engine", "certificate" if engine.certificate else "key"),
            "`certificate` and `key` belong together; give both or neither",
        )


def _joined(recipe: Recipe) -> str | None:
    """Why an adapter cannot travel apart from its base, as far as the recipe says."""
    lora = recipe.model.lora
    if lora is None:
        return "there is no `model.lora`"
    if recipe.stages and recipe.stages[-1].rollouts.engine != "vllm":
        return "`rollouts.engine` is not vllm"
    if lora.modules_to_save:
        return f"{lora.modules_to_save[0]} is trained whole (`model.lora.modules_to_save`), which no adapter says"
    if lora.rank > ADAPTER_RANKS[-1]:
        return f"vLLM takes ranks up to {ADAPTER_RANKS[-1]}; got {lora.rank}"
    return "vLLM has no DoRA" if lora.dora else None
