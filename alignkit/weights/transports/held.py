"""The tensors of one process by the boxes that they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignkit.errors import LayoutError
from alignkit.types.layout import Box, Shape
from alignkit.weights.plan.flat_range import flat_range

if TYPE_CHECKING:
    from torch import Tensor


class Held:
    """tensors: each of the size of its box. Writing into a view writes into them."""

    def __init__(self, tensors: Mapping[Box, Tensor]):
        self.tensors = dict(tensors)
        self._boxes: dict[str, list[Box]] = {}
        for box, tensor in self.tensors.items():
            if tuple(tensor.shape) != box.size:
                raise LayoutError(f"weights: {box} is held as {tuple(tensor.shape)}; give a tensor of the box's size")
            self._boxes.setdefault(box.name, []).append(box)

    def view(self, box: Box) -> Tensor | None:
        """The part of a tensor that a box is; None where no tensor has all of it."""
        for one in self._boxes.get(box.name, ()):
            if one.overlap(box) == box:
                return self.tensors[one][box.within(one)]
        return None


def shard_views(name: str, shape: Shape, begin: int, values: Tensor) -> dict[Box, Tensor]:
    """A run of a flat tensor, from the place `begin` on, as views by box; what lies beyond the tensor is padding."""
    views, first = {}, 0
    for box in flat_range(name, shape, begin, begin + values.numel()):
        views[box] = values.view(-1)[first : first + box.numbers].view(box.size)
        first += box.numbers
    return views
