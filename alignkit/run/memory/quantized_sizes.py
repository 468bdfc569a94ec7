"""A base in 4 bits without its weights: layers of the same kind, whose numbers and scales have sizes only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alignkit.models.quantized import bitsandbytes_settings, compute_by_autocast, is_quantized

if TYPE_CHECKING:
    from torch import Tensor

BLOCK, SCALES = 64, 256
"""Weights that share a scale, and scales that share one of their own."""


def quantized_sizes(model: Any, kind: str) -> Any:
    """The model of meta tensors with the layers that transformers would read in 4 bits of that kind as such layers.

    n numbers take n / 2 bytes, their scales n / 64, and those of the scales n / 4096 (float32: n / 64 / 256 x 4).
    """
    settings = bitsandbytes_settings(kind)
    from bitsandbytes.nn import Params4bit
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=settings)
    for layer in filter(is_quantized, model.modules()):
        packed, state = _sizes(layer.weight, kind)
        held: dict[str, Any] = {"quant_state": state, "quant_type": kind, "bnb_quantized": True}
        layer.weight = Params4bit(packed, **held)
        layer.register_forward_pre_hook(_unpack)
    model.is_loaded_in_4bit = True
    return compute_by_autocast(model)


def _sizes(weight: Tensor, kind: str) -> tuple[Tensor, Any]:
    import torch
    from bitsandbytes.functional import QuantState

    blocks = -(-weight.numel() // BLOCK)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    scales = QuantState(absmax=empty(-(-blocks // SCALES)), code=empty(256), blocksize=SCALES, dtype=torch.float32)
    state = QuantState(
        absmax=empty(blocks, dtype=torch.uint8),
        shape=weight.shape,
        dtype=torch.float32,
        blocksize=BLOCK,
        code=empty(16),
        quant_type=kind,
        offset=empty(),
        state2=scales,
    )
    return empty(-(-weight.numel() // 2), 1, dtype=torch.uint8), state


def _unpack(layer: Any, inputs: tuple[Tensor, ...]) -> None:
    """Takes and gives back what the kernel for many tokens does: the layer's weights in the dtype of arithmetic."""
    import torch

    kind = inputs[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs[0].dtype
    inputs[0].new_empty(layer.out_features, layer.in_features, dtype=dtype)


def parts(weight: Any) -> dict[str, Tensor]:
    """What a parameter in 4 bits holds beside its numbers, by where it is; nothing of any other."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return {}
    held = {"absmax": state.absmax, "code": state.code, "offset": state.offset}
    return held | {"state2.absmax": state.state2.absmax, "state2.code": state.state2.code}


def with_parts(packed: Any, weight: Any, made: dict[str, Tensor]) -> Any:
    """`packed` as the parameter that `weight` is, with other tensors for its `parts`."""
    state = weight.quant_state
    for where, tensor in made.items():
        owner, _, name = where.rpartition(".")
        setattr(state.state2 if owner else state, name, tensor)
    packed.quant_state, packed.bnb_quantized = state, True
    return packed
