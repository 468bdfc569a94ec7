"""Activation checkpointing: a layer's activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from alignkit.models import attention
from alignkit.models.adapted import base_model


def set_recompute(model: nn.Module, on: bool) -> None:
    """Lets each transformer layer keep its input only, or all that it computes. Gradients are the same.

    Raises ValueError for an architecture of which transformers does not know how.
    """
    causal = base_model(model)
    inner = getattr(causal, "encoder", causal)
    if not on:
        if getattr(inner, "is_gradient_checkpointing", False):
            inner.gradient_checkpointing_disable()
        return
    options = {"use_reentrant": False, "context_fn": partial(_contexts, inner.config)}
    inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    inner.disable_input_require_grads()  # which the other kind of checkpointing would need


def _contexts(config: Any) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Of a layer's forward and of its repetition, which must run the attention that the forward ran."""
    return nullcontext(), attention.named(config, config._attn_implementation)
