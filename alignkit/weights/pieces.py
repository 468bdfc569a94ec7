"""A policy's weights as the pieces that each rank has of them: nobody makes a weight whole to say them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from alignkit.models.adapted import adapts_stack, added_rows, base_model, is_dora
from alignkit.models.adapter_matrices import adapter_matrices
from alignkit.models.weights import (
    Held,
    Part,
    checkpoint_names,
    held_buffers,
    held_by_layer,
    is_cut,
    values_of,
    whole,
    whole_shape,
)
from alignkit.weights.piece import Piece
from alignkit.weights.renamed import Renamed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

ROWS = 64  # computed at least: products of a few rows are rounded otherwise than those rows of the whole product


def pieces(model: Module, *, rank: int, world: int, part: Part = "merged") -> Iterator[Piece]:
    """What this rank, one of `world`, has of `named_policy_weights` of the same part.

    Every number of every weight comes from exactly one rank.

    Of a weight that is cut by ZeRO-3 that is its shard, of one that is whole on all ranks an equal share. LoRA's two
    small matrices are gathered, and what they add is computed for the rows that the rank has. One layer is whole at a
    time only where its pieces cannot be said: 4 bits, DoRA, adapters of stacked experts, weights whose numbers lie in
    another order in the checkpoint. Every rank must run the iterator to its end. A piece is valid until the next.
    """
    if part == "adapter":
        for name, matrix in adapter_matrices(model, gather=whole):
            yield from _share(name, matrix, rank, world)
        return
    base = base_model(model)
    for layer in held_by_layer(base, merged=part == "merged"):
        yield from _of_layer(base, layer, rank, world)
    for name, buffer in checkpoint_names(base, held_buffers(base)).items():
        yield from _share(name, buffer, rank, world)


def checkpoint_shapes(model: Module, *, part: Part = "merged") -> dict[str, tuple[int, ...]]:
    """Name and shape of each of `named_policy_weights` of a part that is not the adapter; no weight is read."""
    base = base_model(model)
    layers = [
        {name: whole_shape(held.parameter) for name, held in layer.items()}
        for layer in held_by_layer(base, merged=part == "merged")
    ]
    layers.append({name: tuple(buffer.shape) for name, buffer in held_buffers(base).items()})
    return {name: shape for layer in layers for name, shape in Renamed.of(base, layer).shapes.items()}


def _of_layer(base: Any, layer: Mapping[str, Held], rank: int, world: int) -> Iterator[Piece]:
    renamed = Renamed.of(base, {name: whole_shape(held.parameter) for name, held in layer.items()})
    apart = {name: held for name, held in layer.items() if name in renamed.ranges and _in_ranges(held, world)}
    with whole([matrix for held in apart.values() for matrix in _matrices(held)]):
        for name, held in apart.items():
            begin, values = _own(held, rank, world)
            for each in renamed.ranges[name]:
                first, last = max(begin, each.begin), min(begin + len(values), each.end)
                if first < last:
                    yield Piece(each.name, first - each.begin, values[first - begin : last - begin])
    rest = {name: held for name, held in layer.items() if name not in apart}
    if rest:
        with values_of(rest) as weights:
            for name, weight in checkpoint_names(base, weights).items():
                yield from _share(name, weight, rank, world)


def _in_ranges(held: Held, world: int) -> bool:
    """Whether a rank can say its range of the weight as it travels."""
    if hasattr(held.parameter, "quant_state"):
        return False
    cut: Any = held.parameter
    if is_cut(cut) and cut.ds_tensor.numel() != _size(held.parameter, world):  # it lies elsewhere: on other ranks, NVMe
        return False
    layer = held.layer
    return layer is None or not (adapts_stack(layer) or any(is_dora(layer, name) for name in _adapters(layer)))


def _adapters(layer: Any) -> list[str]:
    return [] if layer is None or layer.disable_adapters else list(layer.active_adapters)


def _matrices(held: Held) -> list[Any]:
    """The adapter's matrices, but for those of the layer below it."""
    return [p for name, p in held.layer.named_parameters() if "lora_" in name] if _adapters(held.layer) else []


def _size(parameter: Tensor, world: int) -> int:
    """Numbers of a rank's range; the last ranks' are shorter, or empty."""
    return -(-prod(whole_shape(parameter)) // world)


def _own(held: Held, rank: int, world: int) -> tuple[int, Tensor]:
    """(place of the first number, numbers) of this rank's range of a weight, with what adapters add to it."""
    parameter: Any = held.parameter
    shape, size = whole_shape(parameter), _size(parameter, world)
    begin = min(rank * size, prod(shape))
    end = min(begin + size, prod(shape))
    values = parameter.ds_tensor.detach() if is_cut(parameter) else parameter.detach().reshape(-1)[begin:]
    values = values[: end - begin]
    if begin == end or not _adapters(held.layer):
        return begin, values
    first, last = _rows(begin, end, shape)
    with torch.no_grad():
        for adapter in _adapters(held.layer):
            added = added_rows(held.layer, adapter, first, last).reshape(-1)
            values = values + added[begin - first * shape[1] : end - first * shape[1]].to(values.device)
    return begin, values


def _rows(begin: int, end: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows of a matrix that hold the numbers `begin` to `end` of it: from a multiple of ROWS on, as many or all."""
    rows, width = shape
    first, last = begin // width // ROWS * ROWS, -(-end // (width * ROWS)) * ROWS
    last = rows if rows - last < ROWS else last
    return (first if last - first >= ROWS else max(first - ROWS, 0)), last


def _share(name: str, weight: Tensor, rank: int, world: int) -> Iterator[Piece]:
    """An equal range of a weight that is whole on all ranks."""
    size = _size(weight, world)
    values = weight.detach().reshape(-1)[rank * size : (rank + 1) * size]
    if len(values):
        yield Piece(name, rank * size, values)
