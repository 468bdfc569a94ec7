"""Tries at the start of a run what would otherwise fail at its end: writing the final model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch

from alignkit.errors import CheckpointError, ContentError, on_one_line
from alignkit.models.encoder import packs
from alignkit.models.save import adapter_bytes, describe
from alignkit.models.weights import policy_shapes
from alignkit.recipe.schema import Recipe
from alignkit.run.train.build import Policy


def rehearse_save(recipe: Recipe, policy: Policy, run: Path, report: Callable[[str], None]) -> None:
    """Writes everything of the final model but its weights into a folder of `run` that is then removed, reads it back,
    and compares the weights that would be written with those that its config asks for, by name and shape.

    report: is told of generation settings that the final model cannot have. Raises ContentError for a model that could
    not be saved so that it loads, CheckpointError when the disk refuses it or has no room.
    """
    dtype = getattr(torch, recipe.model.dtype)
    try:
        run.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="final.", suffix=".trial", dir=run))
        try:
            left_out = _write(policy, folder, dtype)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        free = shutil.disk_usage(run).free
    except OSError as error:
        raise CheckpointError(
            f"{run}: the final model could not be written there: {error}; choose another `run`"
        ) from error
    if left_out:
        named = ", ".join(f"{name} {value}" for name, value in left_out.items())
        report(f"final/ will leave out of its generation settings what is not valid beside the others: {named}")
    needed = bytes_of(policy.model, dtype)
    if free < needed:
        sizes = f"final/ takes {needed / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free"
        raise CheckpointError(f"{run}: {sizes}; free some space, or choose another disk with `run`")


def bytes_of(model: Any, dtype: torch.dtype) -> int:
    """Size of the weights of the final model."""
    whole = sum(prod(shape) for shape in policy_shapes(model).values()) * dtype.itemsize
    return whole + (adapter_bytes(model) if hasattr(model, "peft_config") else 0)


def _write(policy: Policy, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    model, reads_only = policy.model, not packs(policy.model)
    try:
        left_out = describe(model, policy.tokenizer, folder, dtype=dtype)
        AutoTokenizer.from_pretrained(folder)
        with torch.device("meta"):
            again: Any = (AutoModel if reads_only else AutoModelForCausalLM).from_config(
                AutoConfig.from_pretrained(folder)
            )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        why = on_one_line(error, limit=300)
        raise ContentError(f"model: it could not be saved at the end of the run: {why}; correct its folder") from error
    wanted = {name: tuple(parameter.shape) for name, parameter in again.named_parameters()}
    prefix = "encoder." if reads_only else ""  # which wraps the plain model
    got = {name.removeprefix(prefix): shape for name, shape in policy_shapes(model).items()}
    odd = sorted(dict(wanted.items() ^ got.items()))
    if odd:
        raise ContentError(
            f"model: what would be saved is not what its config asks for: {odd[0]} and {len(odd) - 1} other weights "
            "differ in name or shape; correct its config.json"
        )
    return left_out
