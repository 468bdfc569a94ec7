"""A flat range of a weight, which is what a rank has of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Piece:
    """name: of the weight in a checkpoint. begin: place of the first number in the flattened weight. values: 1-d."""

    name: str
    begin: int
    values: Tensor
