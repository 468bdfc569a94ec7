"""Experts of mixtures in the arithmetic of autocast, which their grouped products do not follow by themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "alignkit"  # in transformers' interface of experts
MARK = "_is_expert_parallel"  # an attribute of every module that computes through it


def follow_autocast(model: Any) -> Any:
    """The model, whose experts from now on compute in autocast's dtype where it is on, else in that of their input.

    torch's grouped product is no operation of autocast, and transformers casts its input to the weights' float32, in
    which a GPU multiplies one expert after another. Weights are cast at each use, as autocast does for linear layers,
    and get their gradients in their own dtype. A model without such experts is left alone.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if any(hasattr(module, MARK) for module in model.modules()):
        ALL_EXPERTS_FUNCTIONS.register(NAME, _experts)
        model.set_experts_implementation(NAME)
    return model


def follows(module: Any) -> bool:
    """Whether a module is a mixture's experts that do: weights that are held in that dtype give the same."""
    return hasattr(module, MARK) and module.config._experts_implementation == NAME


class _Cast:
    """Experts whose weights, with what an adapter adds to them, are of another dtype; everything else is theirs."""

    def __init__(self, experts: nn.Module, dtype: torch.dtype):
        self._experts, self._dtype = experts, dtype

    def __getattr__(self, name: str) -> Any:
        held = getattr(self._experts, name)
        return held.to(self._dtype) if isinstance(held, Tensor) else held


def _experts(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    from transformers.integrations.moe import grouped_mm_experts_forward

    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return grouped_mm_experts_forward(_Cast(module, dtype), hidden, chosen, weights)  # ty: ignore[invalid-argument-type]
