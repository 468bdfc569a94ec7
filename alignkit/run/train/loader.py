"""Decides how much of a model each rank reads from the disk."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError, RecipeError
from alignkit.models.adapter_folder import AdapterFolder
from alignkit.models.load import load_policy, locate
from alignkit.models.pretrained import load_pretrained
from alignkit.models.quantized import KEY
from alignkit.parallel.cut import Cutter
from alignkit.parallel.group import Group
from alignkit.recipe.schema import Model
from alignkit.run.launch.deepspeed_file import deepspeed_file


def sharding_of(group: Group) -> dict[str, Any]:
    """The DeepSpeed settings of the launch profile."""
    file = deepspeed_file(os.environ)
    if file is None:
        raise AlignkitError(
            f"{group.world} processes, but the launch profile names no DeepSpeed file to shard by: use one that does "
            "(`alignkit ls launch`: zero2, zero3, ...), or a single process"
        )
    return json.loads(file.read_text())


def cutter_of(group: Group) -> Cutter | None:
    """What cuts models as they are read; None but under ZeRO-3."""
    if group.world == 1 or sharding_of(group).get("zero_optimization", {}).get("stage") != 3:
        return None
    return Cutter(sharding_of(group), group.world)


def loader(group: Group) -> Any:
    """What loads a model on all ranks together (a `build.Load`): under ZeRO-3 each its shards, unless `is_whole`."""
    cutter = cutter_of(group)
    return load_policy if cutter is None else partial(_load, cutter)


def _load(cutter: Cutter, model: Model, *, seed: int, beside: Path | None) -> tuple[Any, Any]:
    check_uncut(model)

    def read(path: str, revision: str | None) -> tuple[Any, Any]:
        with cutter.reading():
            return load_pretrained(path, revision)

    if is_whole(model, beside):
        return load_policy(model, seed=seed, beside=beside)
    return load_policy(model, seed=seed, beside=beside, read=read)


def check_uncut(model: Model) -> None:
    """Raises RecipeError for a base in 4 bits under ZeRO-3."""
    if model.quantization is not None:
        problem = f"ZeRO-3 cuts weights into shards, which those in {model.quantization} cannot be"
        raise RecipeError(f"{KEY}: {problem}; use --launch zero2, or remove it")


def is_whole(model: Model, beside: Path | None) -> bool:
    """Whether every rank needs all of the model: one that is built from nothing, one with an adapter from the disk, and
    one of which peft computes something at the start (DoRA, `modules_to_save`)."""
    if model.path is None or (model.lora is not None and (model.lora.dora or model.lora.modules_to_save)):
        return True
    return AdapterFolder.find(locate(model.path, beside), model.revision) is not None
