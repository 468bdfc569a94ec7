"""Where the numbers of a checkpoint's weight lie in a model whose own weights are named and fused otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from alignkit.models.weights import checkpoint_names


@dataclass(frozen=True, slots=True)
class Range:
    """The weight `name` of the checkpoint, flattened, is these numbers of a flattened weight of the model."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class Renamed:
    """What some weights of a model are in its checkpoint.

    shapes: of the checkpoint's weights. ranges: by the model's own name, of those whose numbers lie there one after the
    other; together they are all of it. scattered: the model's other weights.
    """

    shapes: dict[str, tuple[int, ...]]
    ranges: dict[str, list[Range]] = field(default_factory=dict)
    scattered: tuple[str, ...] = ()

    @classmethod
    def of(cls, base: Any, shapes: Mapping[str, tuple[int, ...]]) -> Renamed:
        """base: the transformers model; shapes: of its own weights. Nothing is computed: transformers' own conversion
        takes tensors without memory, and what it makes of them still says where it lies in them."""
        own = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        sources = {tensor.untyped_storage()._cdata: name for name, tensor in own.items()}
        with _Views():
            converted = checkpoint_names(base, dict(own))
        ranges: dict[str, list[Range]] = {}
        for name, tensor in converted.items():
            source = sources.get(tensor.untyped_storage()._cdata)
            if source is not None and tensor.is_contiguous():
                begin = int(tensor.storage_offset())
                ranges.setdefault(source, []).append(Range(name, begin, begin + tensor.numel()))
        covered = {source for source, found in ranges.items() if _is_all(found, prod(shapes[source]))}
        return cls(
            {name: tuple(tensor.shape) for name, tensor in converted.items()},
            {source: found for source, found in ranges.items() if source in covered},
            tuple(name for name in own if name not in covered),
        )


class _Views(TorchFunctionMode):
    """Within it nothing is copied only to lie in order."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.contiguous else func(*args, **(kwargs or {}))


def _is_all(ranges: list[Range], numbers: int) -> bool:
    """Whether ranges cover all numbers, each once."""
    end = 0
    for each in sorted(ranges, key=lambda each: each.begin):
        if each.begin != end:
            return False
        end = each.end
    return end == numbers
