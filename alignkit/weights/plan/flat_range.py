"""A run of numbers of a tensor that was laid out in a row, as boxes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from alignkit.types.layout import Box, Shape


def flat_range(name: str, shape: Shape, begin: int, end: int) -> list[Box]:
    """The places begin <= i < end of the flat tensor as disjoint boxes in their order, each itself such a run.

    At most 2 n - 1 of a tensor of n axes: 3 of a matrix (the rest of a row, whole rows, the first part of a row).
    """
    return [Box(name, first, size) for first, size in _boxes(shape, begin, min(end, prod(shape)))]


def _boxes(shape: Shape, begin: int, end: int) -> Iterator[tuple[Shape, Shape]]:
    if begin >= end:
        return
    if not shape:
        yield (), ()
        return
    row = prod(shape[1:])
    first, last = -(-begin // row), end // row  # whole rows
    if first > last:  # within one row
        yield from _in_row(shape, last, begin - last * row, end - last * row)
        return
    yield from _in_row(shape, first - 1, begin - (first - 1) * row, row if begin % row else 0)
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    yield from _in_row(shape, last, 0, end - last * row)


def _in_row(shape: Shape, row: int, begin: int, end: int) -> Iterator[tuple[Shape, Shape]]:
    for first, size in _boxes(shape[1:], begin, end):
        yield (row, *first), (1, *size)
