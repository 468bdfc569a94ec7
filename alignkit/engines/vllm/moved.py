"""Tensors that a loader makes of the checkpoint's before it copies them into the model: put in another order, say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOVES = tuple(getattr(torch.ops.aten, name).default for name in ("clone", "cat", "stack", "_to_copy"))
"""Operations that put numbers elsewhere, or in another dtype: repeated, they give the same bits."""


@dataclass(frozen=True, slots=True)
class View:
    """Part of a tensor's memory, counted in numbers from where the tensor begins."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def between(cls, part: Tensor, begin: int) -> View:
        return cls(int(part.storage_offset()) - begin, tuple(part.shape), tuple(part.stride()))

    def of(self, tensor: Tensor) -> Tensor:
        """The part, sharing the memory of a tensor that lies there without gaps."""
        return tensor.as_strided(self.shape, self.strides, tensor.storage_offset() + self.offset)


@dataclass(frozen=True, slots=True)
class Taken:
    """A part of `source`, a tensor of this shape: the checkpoint's of that name, or one that the loader has made."""

    source: str | Moved
    shape: tuple[int, ...]
    view: View


@dataclass(frozen=True, slots=True)
class Moved:
    """What one of MOVES gave. given: its arguments, lists as tuples, tensors as Taken; options: those by name."""

    operation: Any
    given: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The checkpoint's tensors in it."""
        return frozenset().union(*(names_of(part.source) for part in _parts(self.given)))

    def of(self, weights: Mapping[str, Any]) -> Tensor | None:
        """The same of other weights; None where one of them is no tensor, or of another shape."""
        made = {part: looked_up(part.source, weights) for part in _parts(self.given)}
        if not all(isinstance(of, Tensor) and tuple(of.shape) == part.shape for part, of in made.items()):
            return None
        return self.operation(*_filled(self.given, made), **dict(self.options))


def looked_up(source: str | Moved, weights: Mapping[str, Any]) -> Any:
    """What a source is among other weights; None where it is not there."""
    return weights.get(source) if isinstance(source, str) else source.of(weights)


def names_of(source: str | Moved) -> frozenset[str]:
    """The checkpoint's tensors in a source."""
    return frozenset([source]) if isinstance(source, str) else source.names


def _parts(given: Any) -> Iterator[Taken]:
    for argument in given:
        if isinstance(argument, Taken):
            yield argument
        elif isinstance(argument, tuple):
            yield from _parts(argument)


def _filled(argument: Any, made: Mapping[Taken, Tensor]) -> Any:
    if isinstance(argument, tuple):
        return [_filled(each, made) for each in argument]
    return argument.view.of(made[argument]) if isinstance(argument, Taken) else argument
