"""Weights by the names of an architecture's own parameters, out of those of its checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def own_names(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames and fuses as transformers does when it loads (the experts of mixtures): undoes `named_policy_weights`.

    The model is left alone. What lacks a part is left out or is too small; what is unknown keeps its name.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig
    from transformers.utils import logging

    changes: Any = getattr(model, "_weight_conversions", None) or get_model_conversion_mapping(model, add_legacy=False)
    if not changes:
        return weights
    with torch.device("meta"):
        twin: Any = type(model)(model.config)
    settings = LoadStateDictConfig(weight_mapping=changes, ignore_mismatched_sizes=True)
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        info, _ = convert_and_load_state_dict_in_model(twin, dict(weights), settings)
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    held = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    loaded = {name: tensor.detach() for name, tensor in held.items() if not tensor.is_meta}
    return loaded | {name: weights[name] for name in info.unexpected_keys if name in weights}
