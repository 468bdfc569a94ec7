"""A model without its adapter, which computes what it computed with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from alignkit.models.adapted import base_model
from alignkit.models.quantized import dequantize
from alignkit.models.untied import untie, unties
from alignkit.models.weights import merged_weights


def merge(model: Any) -> Any:
    """The transformers model inside a PeftModel with the adapter's work in its own weights; others as they are.

    The given model is used up; all weights of the result require gradients. A head that the adapter has parted from its
    embedding becomes a matrix of its own, a base in 4 bits one of float32.
    """
    if not hasattr(model, "peft_config"):
        return model
    weights, apart = dict(merged_weights(model)), unties(model)
    base: Any = base_model(model.unload())
    if apart:
        head = base.get_output_embeddings()
        # the head's own values lie in the embedding's memory, which is written to below
        weights = {name: w.clone() if w.shape == head.weight.shape else w for name, w in weights.items()}
        head.weight = nn.Parameter(head.weight.detach().clone())
        untie(base.config)
        base.all_tied_weights_keys = base.get_expanded_tied_weights_keys(all_submodels=True)
    dequantize(base)
    parameters = dict(base.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
    return base.requires_grad_(True)
