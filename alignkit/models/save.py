"""Writes a model as an ordinary checkpoint folder, which loads without alignkit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.models.adapted import base_model
from alignkit.models.encoder import Encoder
from alignkit.models.generation import valid_generation
from alignkit.models.lora import quiet
from alignkit.models.weights import named_policy_weights, untie, unties

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

ADAPTER = "adapter"  # folder in the folder


def save_pretrained(model: Module, tokenizer: Any, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes config, safetensors and tokenizer. LoRA is merged; the adapter by itself is written to `folder/adapter`.

    dtype: of the stored weights, None: as held. A head that an adapter has parted from its embedding is stored as a
    matrix of its own.
    """
    from safetensors.torch import save_file

    base = base_model(model)
    describe(model, tokenizer, folder, dtype=dtype)
    # the weights already have their checkpoint names
    base.save_pretrained(folder, state_dict=stored_weights(model, dtype), save_original_format=False)
    _save_config(model, folder, dtype)
    if base is not model:
        save_file(adapter_weights(model), folder / ADAPTER / "adapter_model.safetensors", metadata={"format": "pt"})


def stored_weights(model: Module, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """What the checkpoint holds, by name, all of it at once and where the model is."""
    return {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in named_policy_weights(model)}


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
    """The adapter's own tensors by the names that peft gives them on the plain base model."""
    from peft import get_peft_model_state_dict

    with quiet():
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
    if isinstance(base_model(model), Encoder):  # which wraps the plain model
        state = {name.replace("base_model.model.encoder.", "base_model.model.", 1): w for name, w in state.items()}
    return {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}


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


def _save_config(model: Any, folder: Path, dtype: torch.dtype | None) -> None:
    base = base_model(model)
    config = copy.deepcopy(base.config)
    config.architectures = config.architectures or [type(base.encoder if isinstance(base, Encoder) else base).__name__]
    if dtype is not None:
        config.dtype = dtype
    if unties(model):
        untie(config)
    config.save_pretrained(folder)
