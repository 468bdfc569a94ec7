"""What a recipe that does not fit could change, and what it would then need: each counted, none guessed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from alignkit.parallel.memory.device import Device
from alignkit.parallel.memory.sharding import Sharding
from alignkit.parallel.memory.trace import total
from alignkit.recipe.lookup.find import find
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Recipe
from alignkit.run.launch.deepspeed_file import sharding_of
from alignkit.run.memory.measure import Counted, count_stage
from alignkit.run.memory.need import Need, need_of, needs, vllm_of

ROUND = 512  # tokens
SEQUENCES = 8  # the longest ones, that an engine with less of the device shall still sample at once
SEVERAL = 8  # devices of a machine, where nobody says how many there are
PROFILES = ("zero2", "zero3", "zero3-offload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cure:
    """change: what to write into the recipe or on the command line. bytes: what the stage that needs the most then
    needs."""

    change: str
    bytes: int
    fits: bool


def cures(target: str, overrides: list[str], device: Device, sharding: Sharding, worst: Need) -> Iterator[Cure]:
    """For a recipe whose stage `worst` does not fit, single changes, and then all of the recipe's own together."""
    recipe = read_recipe(target, overrides)
    number = [stage.name for stage in recipe.stages].index(worst.stage)
    counted = count_stage(recipe, number)
    settings = list(_settings(recipe, number, counted, device, sharding, worst))
    for setting in settings:
        yield _with(target, [*overrides, setting], device, sharding, setting)
    if len(settings) > 1:
        yield _with(target, [*overrides, *settings], device, sharding, " ".join(settings))
    if recipe.model.lora is None:
        yield _with(target, [*overrides, "model.lora.rank=16"], device, sharding, "model.lora.rank=16")
    elif recipe.model.quantization is None and recipe.model.path and importlib.util.find_spec("bitsandbytes"):
        yield _with(target, [*overrides, "model.quantization=nf4"], device, sharding, "model.quantization=nf4")
    for name in PROFILES:
        _, settings_of = sharding_of(find("launch", name))
        other = Sharding.of(settings_of, max(device.count or SEVERAL, sharding.world))
        if other.stage == 3 and recipe.model.quantization:
            continue
        if (other.stage, other.weights_on_host) > (sharding.stage, sharding.weights_on_host):
            need = need_of(counted, recipe.stages[number], device, other)
            yield Cure(change=f"--launch {name} on {other.world} devices", bytes=need.bytes, fits=need.fits)


def _settings(
    recipe: Recipe, number: int, counted: Counted, device: Device, sharding: Sharding, worst: Need
) -> Iterator[str]:
    """KEY=VALUE of what lies in the recipe's own power."""
    stage, prefix = recipe.stages[number], "" if len(recipe.stages) == 1 else f"stages.{number}."
    vllm = vllm_of(counted, stage)
    held = worst.phases[worst.peak]
    if vllm is not None:
        share = vllm.smallest(device.size, SEQUENCES)
        lower = worst.engine_fits and bool(held.get("engine cache")) and share < vllm.share
        higher = not worst.engine_fits and vllm.share < share < 1
        if lower or higher:
            yield f"{prefix}rollouts.gpu_memory_fraction={share:g}"
    if vllm is not None and not vllm.sleeps:
        yield "engine.sleep=true"
    if held.get("lent weights"):
        yield "engine.transport=host"
    if stage.train.recompute is False:
        yield f"{prefix}train.recompute=true"
    if (tokens := _tokens(recipe, number, counted, device, sharding, worst)) is not None:
        yield f"{prefix}train.micro_batch_tokens={tokens}"


def _tokens(
    recipe: Recipe, number: int, counted: Counted, device: Device, sharding: Sharding, worst: Need
) -> int | None:
    """The largest micro-batch with which the update fits, from what half of it needs; None where none does."""
    stage = recipe.stages[number]
    budget, least = stage.train.micro_batch_tokens, counted.limits.longest_unit
    if worst.peak != "update" or budget // 2 < least:
        return None
    half = _replaced(recipe, number, budget // 2)
    smaller = need_of(count_stage(half, number), half.stages[number], device, sharding)
    slope = (worst.bytes - total(smaller.phases["update"])) / (budget - budget // 2)
    wanted = int(budget - (worst.bytes - device.size) / max(slope, 1e-9)) // ROUND * ROUND
    return max(wanted, -(-least // ROUND) * ROUND)


def _replaced(recipe: Recipe, number: int, tokens: int) -> Recipe:
    stages = list(recipe.stages)
    train = stages[number].train.model_copy(update={"micro_batch_tokens": tokens})
    stages[number] = stages[number].model_copy(update={"train": train})
    return recipe.model_copy(update={"stages": tuple(stages)})


def _with(target: str, overrides: list[str], device: Device, sharding: Sharding, change: str) -> Cure:
    found = needs(read_recipe(target, overrides), device, sharding)
    worst = max(found, key=lambda need: (not need.fits, need.bytes))
    return Cure(change=change, bytes=worst.bytes, fits=worst.fits)
