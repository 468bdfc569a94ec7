"""Writes a model as an ordinary checkpoint folder, which loads without alignkit."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.models.adapted import base_model
from alignkit.models.encoder import Encoder
from alignkit.models.generation import valid_generation
from alignkit.models.lora import quiet
from alignkit.models.shards import SHARD_BYTES, write_shards
from alignkit.models.untied import untie, unties
from alignkit.models.weights import is_cut, named_policy_weights, whole, whole_shape

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

ADAPTER = "adapter"  # folder in the folder
STEERING = "steering"  # another, of critics that steer what the model says (models/steering.py)


def save_pretrained(
    model: Module,
    tokenizer: Any,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    writes: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config, safetensors and tokenizer. LoRA is merged; the adapter by itself is written to `folder/adapter`.

    dtype: of the stored weights, None: as held. A head that an adapter has parted from its embedding is stored as a
    matrix of its own. writes: whether this rank does; where a model's weights are cut all ranks call this, and the
    others help to gather, also when the writer finds no room. shard_bytes: of the largest file.
    """
    from safetensors.torch import save_file

    weights, adapted = stored_weights(model, dtype), base_model(model) is not model
    try:
        if writes:
            describe(model, tokenizer, folder, dtype=dtype)
            write_shards(weights, folder, shard_bytes=shard_bytes)
    finally:
        deque(weights if writes else named_policy_weights(model), maxlen=0)
        adapter = adapter_weights(model) if adapted else {}
    if writes and adapted:
        save_file(adapter, folder / ADAPTER / "adapter_model.safetensors", metadata={"format": "pt"})


def stored_weights(model: Module, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    """What the checkpoint holds, by name, one after the other, in host memory."""
    prefix = "encoder." if isinstance(base_model(model), Encoder) else ""
    cut = any(is_cut(parameter) for parameter in model.parameters())
    left_out = getattr(_saved(model), "_keys_to_ignore_on_save", None) or ()
    for name, tensor in named_policy_weights(model):
        if (own := name.removeprefix(prefix)) not in left_out:
            held = tensor.to(dtype or tensor.dtype).cpu().contiguous()
            passing = cut and held.data_ptr() == tensor.data_ptr()  # it is whole until the next one
            yield own, held.clone() if passing else held


def describe(model: Module, tokenizer: Any, folder: Path, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Writes all of that but the weights; returns the generation settings that were left out (`valid_generation`)."""
    base, left_out = base_model(model), {}
    folder.mkdir(parents=True, exist_ok=True)
    if getattr(base, "generation_config", None) is not None:
        base.generation_config, left_out = valid_generation(base.generation_config)
        base.generation_config.save_pretrained(folder)
    _save_config(model, folder, dtype)
    tokenizer.save_pretrained(folder)
    if base is not model:
        _adapter_config(model).save_pretrained(folder / ADAPTER)
    return left_out


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's own tensors by the names that peft gives them on the plain base model, in host memory."""
    found = {}
    for name, tensor in _adapter(model).items():
        with whole([tensor]):
            held = tensor.detach().contiguous().cpu()
            found[name] = held.clone() if is_cut(tensor) else held
    return found


def adapter_bytes(model: Any) -> int:
    """Size of `adapter_weights`."""
    return sum(prod(whole_shape(tensor)) * tensor.itemsize for tensor in _adapter(model).values())


def _adapter(model: Any) -> dict[str, Any]:
    """The adapter's parameters by those names; they may be cut."""
    from peft import get_peft_model_state_dict

    held = dict(model.named_parameters(remove_duplicate=False))
    with quiet():
        state = get_peft_model_state_dict(model, state_dict=held, save_embedding_layers=False)
    if isinstance(base_model(model), Encoder):  # which wraps the plain model
        state = {name.replace("base_model.model.encoder.", "base_model.model.", 1): w for name, w in state.items()}
    return state


def _adapter_config(model: Any) -> Any:
    """The adapter's settings; its base is named in a way that holds wherever the adapter is read from."""
    config = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    if isinstance(base_model(model), Encoder):  # which wraps the plain model
        config.target_modules = {name.removeprefix("encoder.") for name in config.target_modules}
    base = config.base_model_name_or_path
    if base and Path(base).is_dir():
        config.base_model_name_or_path = str(Path(base).resolve())
    return config


def _saved(model: Any) -> Any:
    """The transformers model whose folder it will be."""
    base = base_model(model)
    return base.encoder if isinstance(base, Encoder) else base


def _save_config(model: Any, folder: Path, dtype: torch.dtype | None) -> None:
    saved = _saved(model)
    config = copy.deepcopy(saved.config)
    config.dtype = dtype or saved.dtype
    config.architectures = [type(saved).__name__]
    if unties(model):
        untie(config)
    config.save_pretrained(folder)
