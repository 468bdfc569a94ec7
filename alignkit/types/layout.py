"""Which numbers of which tensors lie in which process: boxes, in the coordinates of a checkpoint's whole tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from alignkit.errors import LayoutError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """The numbers of the tensor `name` at begin[i] <= place i < begin[i] + size[i]; a scalar's box has no axes."""

    name: str
    begin: Shape
    size: Shape

    @property
    def numbers(self) -> int:
        return prod(self.size)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where it lies in the whole tensor."""
        return tuple(slice(begin, begin + size) for begin, size in zip(self.begin, self.size, strict=True))

    def within(self, other: Box) -> tuple[slice, ...]:
        """Where it lies in the tensor that holds `other`, a box around it."""
        return tuple(
            slice(begin - origin, begin - origin + size)
            for begin, size, origin in zip(self.begin, self.size, other.begin, strict=True)
        )

    def overlap(self, other: Box) -> Box | None:
        """What both hold; None when that is nothing."""
        if self.name != other.name:
            return None
        begin = tuple(map(max, self.begin, other.begin))
        ends = zip(self.begin, self.size, other.begin, other.size, strict=True)
        end = [min(b + s, ob + os) for b, s, ob, os in ends]
        size = tuple(e - b for b, e in zip(begin, end, strict=True))
        return Box(self.name, begin, size) if min(size, default=1) > 0 else None


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A process that holds numbers. host: processes of one host reach one another without the network."""

    host: str
    process: int


@dataclass(frozen=True, slots=True)
class Part:
    box: Box
    holder: Holder


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The boxes of one tensor in all processes. begin, size: [boxes, axes]; holder: [boxes], places in the layout's."""

    begin: np.ndarray
    size: np.ndarray
    holder: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where tensors lie. A process holds a number once; several may hold the same.

    shapes: of the whole tensors, in the order in which they travel. holders: all processes. placed: by tensor; tensors
    may share one. Raises LayoutError where a box lies outside its tensor.
    """

    shapes: Mapping[str, Shape]
    holders: Sequence[Holder]
    placed: Mapping[str, Placed]

    def __post_init__(self) -> None:
        known: set[tuple[int, Shape]] = set()
        for name, placed in self.placed.items():
            if name not in self.shapes:
                raise LayoutError(f"layout: boxes of {name}, which has no shape; name its shape")
            shape = tuple(self.shapes[name])
            if (id(placed), shape) not in known:
                _check(name, shape, placed)
                known.add((id(placed), shape))

    @classmethod
    def of(cls, shapes: Mapping[str, Shape], parts: Iterable[Part]) -> Layout:
        """The layout of parts one by one; empty ones are left out."""
        holders: dict[Holder, int] = {}
        found: dict[str, list[Part]] = {}
        for part in parts:
            holders.setdefault(part.holder, len(holders))
            if part.box.numbers:
                found.setdefault(part.box.name, []).append(part)
        placed = {}
        for name, those in found.items():
            where = (len(those), len(those[0].box.size))
            begin = np.array([part.box.begin for part in those], np.int64).reshape(where)
            size = np.array([part.box.size for part in those], np.int64).reshape(where)
            placed[name] = Placed(begin, size, np.array([holders[part.holder] for part in those], np.int32))
        return cls(shapes, tuple(holders), placed)

    @property
    def parts(self) -> Iterator[Part]:
        """One by one."""
        for name, placed in self.placed.items():
            rows = zip(placed.begin.tolist(), placed.size.tolist(), placed.holder.tolist(), strict=True)
            for begin, size, holder in rows:
                yield Part(Box(name, tuple(begin), tuple(size)), self.holders[holder])

    def only(self, names: Iterable[str]) -> Layout:
        """The layout of some of its tensors."""
        kept = set(names)
        shapes = {name: shape for name, shape in self.shapes.items() if name in kept}
        placed = {name: placed for name, placed in self.placed.items() if name in kept}
        return Layout(shapes, self.holders, placed)

    def boxes(self, holder: Holder) -> list[Box]:
        """What one process holds."""
        if holder not in self.holders:
            return []
        place, found = self.holders.index(holder), []
        for name, placed in self.placed.items():
            for row in np.flatnonzero(placed.holder == place):
                found.append(Box(name, tuple(placed.begin[row].tolist()), tuple(placed.size[row].tolist())))
        return found


def _check(name: str, shape: Shape, placed: Placed) -> None:
    if placed.begin.shape != (len(placed.holder), len(shape)) or placed.size.shape != placed.begin.shape:
        raise LayoutError(f"layout: boxes of {name} have {placed.begin.shape[1:]} axes, its shape is {shape}")
    outside = (placed.begin < 0) | (placed.size < 1) | (placed.begin + placed.size > np.array(shape, np.int64))
    if outside.any():
        row = int(np.argmax(outside.any(axis=1)))
        box = Box(name, tuple(placed.begin[row].tolist()), tuple(placed.size[row].tolist()))
        raise LayoutError(
            f"layout: {box} is not within {shape}; cut it to the tensor, leave paddings and empty ones out"
        )
