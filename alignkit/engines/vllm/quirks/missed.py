"""Weights that vLLM's reload takes and does not load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MISSED = {"GptOssForCausalLM": (".mlp.experts.", ".sinks")}
"""By architecture, words of their names."""


def load_missed(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Loads them into a model that has just been reloaded, by its own code of the first loading.

    vLLM 0.32 reloads into tensors without content and notices what came by the loaders of its parameters. gpt-oss has
    its experts and sinks copied into the parameters instead: nothing arrives, "Failed to load weights" is in the log
    only, and log-probs were 1 nat from the trainer's.
    """
    words = MISSED.get(type(model).__name__, ())
    missed: Iterator[tuple[str, Tensor]] = (
        (name, tensor) for name, tensor in weights.items() if any(word in name for word in words)
    )
    if words:
        model.load_weights(missed)
