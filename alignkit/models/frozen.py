"""Weights that nothing trains, held in the recipe's dtype: half the memory for the same numbers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.models.adapted import base_model
from alignkit.models.experts import follows
from alignkit.models.weights import is_cut, whole


def hold_frozen(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Rounds the frozen weights of linear layers to `dtype`, and of embeddings where nothing is lost by it.

    Under autocast in `dtype` the model computes what it computed, to the bit: that rounds a linear layer's weights at
    each use, and what an embedding says stays float32. In float32 arithmetic (without gradients) a layer's weights are
    widened while it computes; so are a mixture's experts (`models/experts.py`), but for those with an adapter, which is
    added before they are cast: they stay float32, as norms do.
    """
    from transformers.pytorch_utils import Conv1D

    if dtype == torch.float32:
        return model
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    embedded = {id(p): type(module) is nn.Embedding for module in embeddings for p in module.parameters()}
    for name, module in model.named_modules():
        adapted = name.endswith(".base_layer")  # an adapter is added to them before they are cast
        if follows(module) and not adapted:
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    _round(parameter, dtype)
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D, nn.Embedding)) or ".lora_" in name:
            continue  # peft casts what an adapter reads to the adapter's dtype
        for parameter in module.parameters(recurse=False):
            adapted = isinstance(module, nn.Embedding) and name.endswith(".base_layer")
            kept = adapted or not embedded.get(id(parameter), True) or parameter.requires_grad
            if not kept and parameter.dtype == torch.float32 and _fits(parameter, dtype, id(parameter) in embedded):
                _round(parameter, dtype)
        if module.weight.dtype == dtype and not _is_narrow(module):
            module._narrow = None
            module._widening = module.register_forward_pre_hook(_widen)
            module.register_forward_hook(_narrow)
    return model


def widen_last(model: nn.Module) -> None:
    """Lets weights be widened after what gathers them, whose hooks came later; they are narrowed before its others."""
    modules: list[Any] = [module for module in model.modules() if _is_narrow(module)]
    for module in modules:
        module._widening.remove()
        module._widening = module.register_forward_pre_hook(_widen)


def is_held(model: nn.Module) -> bool:
    """Whether `hold_frozen` has rounded weights of the model."""
    return any(map(_is_narrow, model.modules()))


def _round(parameter: Any, dtype: torch.dtype) -> None:
    """In its place, or this rank's shard of it."""
    parameter.data = parameter.data.to(dtype)
    if is_cut(parameter):
        parameter.ds_tensor.data = parameter.ds_tensor.data.to(dtype)


def _is_narrow(module: Any) -> bool:
    return hasattr(module, "_widening")


def _fits(parameter: Tensor, dtype: torch.dtype, embedding: bool) -> bool:
    if not embedding:
        return True
    with whole([parameter]):
        return torch.equal(parameter.to(dtype).float(), parameter)


def _widen(module: Any, inputs: Any) -> None:
    if not torch.is_autocast_enabled(module.weight.device.type):
        module._narrow = [(p, p.data) for p in module.parameters(recurse=False)]
        for parameter, narrow in module._narrow:
            parameter.data = narrow.float()


def _narrow(module: Any, inputs: Any, output: Tensor) -> Tensor | None:
    for parameter, held in module._narrow or ():
        parameter.data = held
    module._narrow = None
    return output.float() if isinstance(module, nn.Embedding) else None


@contextmanager
def without_adapter(model: nn.Module) -> Generator[None]:
    """Within it a PEFT model computes what its base does. Unlike in peft's own, what is trained stays what it is."""
    layers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "_disable_adapters")]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def read_beside(model: nn.Module, reference: Any) -> Generator[Any]:
    """The transformers model of a reference, to be read without gradients within the forward of `model`.

    Where the two are one, its adapter is off. Where the reference's weights are cut its head's matrix is whole: what
    backward shall find of it must be detached before it is let go.
    """
    frozen = base_model(reference)
    head = frozen.get_output_embeddings()
    own = without_adapter(model) if reference is model else whole(head.parameters())
    with torch.no_grad(), own:
        yield frozen
