"""A model's own parameters, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignkit.models.weights import is_cut, whole

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def held_weights(model: Module) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor in host memory) of each of the model's own parameters, an adapter's included."""
    for name, parameter in model.named_parameters():
        with whole([parameter]):
            held = parameter.detach().cpu().contiguous()
            yield name, held.clone() if is_cut(parameter) else held
