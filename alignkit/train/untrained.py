"""Finds weights that are meant to be trained and that no gradient reaches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class Untrained:
    """Watches the trainable weights of a model until each has had a gradient that is not exactly 0.

    A weight is looked at in each backward pass until then and never again, so that a run pays for it in its first
    steps. Sees this rank's gradients, before they are summed over the ranks, however weights and gradients are sharded.
    """

    def __init__(self, model: nn.Module):
        self._hooks: dict[str, Any] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._hooks[name] = parameter.register_hook(partial(self._look, name))

    @property
    def names(self) -> list[str]:
        """Of the weights that have had no gradient so far."""
        return sorted(self._hooks)

    def _look(self, name: str, gradient: Tensor) -> None:
        if name in self._hooks and bool(gradient.any()):
            self._hooks.pop(name).remove()


def on_all(names: Sequence[Sequence[str]]) -> list[str]:
    """The names that every rank has: one rank's gradient is enough for a weight to be trained."""
    return sorted(set.intersection(*map(set, names)))
