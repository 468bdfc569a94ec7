"""QLoRA (arXiv 2305.14314): a frozen base whose linear layers transformers reads into bitsandbytes' 4 bits.

A block of 64 weights is a scale times one of 16 levels (NF4) each; scales are held in 8 bits (double quantisation),
which makes 4.127 bits a weight. The head, embeddings, norms and stacked experts stay as they are.
"""

from __future__ import annotations

import importlib.util
from types import MethodType
from typing import TYPE_CHECKING, Any

from alignkit.errors import RecipeError, on_one_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

KEY = "model.quantization"


def bitsandbytes_settings(kind: str) -> Any:
    """transformers' settings for reading a base in 4 bits of that kind ("nf4").

    Raises RecipeError where bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(f"{KEY}: {kind} needs the package bitsandbytes; run: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=True)


def check_device(kind: str, device: str) -> None:
    """Raises RecipeError where bitsandbytes cannot quantise on the device."""
    import torch

    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        dequantize_4bit(*quantize_4bit(torch.ones(64, device=device), compress_statistics=True, quant_type=kind))
    except Exception as error:  # a library that was built for other machines raises anything
        problem = f"bitsandbytes cannot quantise on {device} here ({on_one_line(error)})"
        raise RecipeError(f"{KEY}: {problem}; remove it to hold the base in model.dtype") from error


def check_quantizable(path: str, config: Any, reads_only: bool) -> None:
    """Raises RecipeError for an encoder, and for weights that were saved quantised."""
    if reads_only:
        raise RecipeError(f"{KEY}: {path} is an encoder; only models that say words are held in 4 bits: remove it")
    if getattr(config, "quantization_config", None) is not None:
        cure = "name the model that was quantised"
        raise RecipeError(f"{KEY}: the weights of {path} were saved quantised, and would be rounded twice; {cure}")


def compute_by_autocast(model: Any) -> Any:
    """The model, whose quantised layers from now on compute in autocast's dtype where it is on, else in their input's,
    as linear layers do (`models/frozen.py`); its config says no more that its weights are quantised."""
    for layer in model.modules():
        if is_quantized(layer):
            layer.forward = MethodType(_forward, layer)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def is_quantized(layer: Any) -> bool:
    """Whether a layer's weight is held in 4 bits."""
    return hasattr(getattr(layer, "weight", None), "bnb_quantized")


def dequantized(weight: Tensor) -> Tensor:
    """The numbers that a parameter in 4 bits stands for: float32 (output, input), new."""
    from bitsandbytes.functional import dequantize_4bit

    held: Any = weight
    return dequantize_4bit(held.data, held.quant_state)


def scales(weight: Tensor) -> Tensor:
    """Of a parameter in 4 bits the mean of its scales, which is no number where any of its weights was none; else the
    parameter itself."""
    state: Any = getattr(weight, "quant_state", None)
    return weight if state is None else state.offset


def dequantize(model: Module) -> None:
    """Puts ordinary linear layers of the same numbers into the places of the quantised ones."""
    from torch import nn

    for name, layer in list(model.named_modules()):
        if is_quantized(layer):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight, plain.bias = nn.Parameter(dequantized(layer.weight)), layer.bias
            model.set_submodule(name, plain)


def _forward(layer: Any, x: Tensor) -> Tensor:
    """Unlike bitsandbytes' own it leaves the layer as it is: that one settles for the dtype of its first input, rounds
    the bias in its place, and on some CPUs packs the weight anew, after which it has no gradient."""
    import torch
    from bitsandbytes import matmul_4bit

    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return matmul_4bit(x.to(dtype), layer.weight, bias=bias, quant_state=layer.weight.quant_state)
