"""What vLLM's own loaders take of a checkpoint: which part of which tensor goes where in which tensor of the model.

A loader cuts by views (narrow, chunk, an index, a transpose) and ends in `copy_`. Seen from below these calls, where a
view lies in the memory of its tensor says all about it, so that no family of models needs to be known. What a loader
computes otherwise is noticed and said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

FILLS = (torch.ops.aten.fill_.Scalar, torch.ops.aten.fill_.Tensor, torch.ops.aten.zero_.default)


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
        """The part, sharing the memory of a tensor in row-major order."""
        return tensor.as_strided(self.shape, self.strides, tensor.storage_offset() + self.offset)


@dataclass(frozen=True, slots=True)
class Copy:
    """taken: of the checkpoint's tensor `source`, of this shape; placed: of the model's."""

    source: str
    shape: tuple[int, ...]
    taken: View
    placed: View

    @property
    def entire(self) -> bool:
        """Whether all of the source is taken, as it lies."""
        return self.taken == View(0, self.shape, row_major(self.shape))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tensor of the model as its loader left it. copies: what it is made of, in the order of the copies.

    computed: tensors of the checkpoint that went into it otherwise than by copies of parts; it cannot be compared then.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    copies: tuple[Copy, ...]
    computed: tuple[str, ...] = ()

    @property
    def covered(self) -> bool:
        """Whether the copies fill it, each place once; a vocabulary that vLLM pads is not filled."""
        return sum(math.prod(copy.placed.shape) for copy in self.copies) == math.prod(self.shape)


class Recorder(TorchDispatchMode):
    """Within it, a model's loader is recorded. Give the loader the tensors through `named`.

    Tensors of the checkpoint may be on the meta device: then nothing is copied, into whatever tensors the model has.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[int, list[tuple[StorageWeakRef, str, int, tuple[int, ...]]]] = {}
        self._computed: dict[int, tuple[StorageWeakRef, frozenset[str]]] = {}
        self._copies: dict[int, list[Copy]] = {}
        self._changed: dict[int, frozenset[str]] = {}
        self._whole: frozenset[str] = frozenset()

    def named(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same pairs; from now on the tensor is known by its name."""
        for name, tensor in weights:
            whole = tensor.contiguous()
            storage = whole.untyped_storage()
            place = (StorageWeakRef(storage), name, int(whole.storage_offset()), tuple(whole.shape))
            kept = [each for each in self._sources.get(storage._cdata, ()) if not each[0].expired()]
            self._sources[storage._cdata] = [*kept, place]
            yield name, whole

    def loaded(self, model: Any) -> dict[str, Loaded]:
        """By the name of each tensor that a module of `model` holds and that the loader has written."""
        found = {}
        for place, module in model.named_modules():
            for kind, tensor in held_tensors(module).items():
                key = _key(tensor)
                if tensor.numel() and key in self._copies | self._changed and _fills(tensor):
                    copies = tuple(self._copies.get(key, ()))
                    computed = tuple(sorted(self._changed.get(key, ())))
                    name = f"{place}.{kind}".lstrip(".")
                    found[name] = Loaded(tuple(tensor.shape), tuple(tensor.stride()), copies, computed)
        return found

    def wanted(self) -> dict[str, Any]:
        """`boxes`: (name, begin, size) of the checkpoint's tensors that the loader took, sorted, wherever it put them.
        `whole`: names of those of which it wants all, because it computes with them or takes what is no box."""
        boxes, whole = set(), set(self._whole)
        for copy in (copy for copies in self._copies.values() for copy in copies):
            box = box_of(copy.taken, copy.shape)
            boxes |= {(copy.source, *box)} if box is not None else set()
            whole |= {copy.source} if box is None else set()
        return {"boxes": sorted(box for box in boxes if box[0] not in whole), "whole": sorted(whole)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.copy_.default:
            return self._copy(func, args, kwargs)
        result = func(*args, **kwargs)
        read = self._read([*args, *kwargs.values()])
        for tensor in _written(func, args, kwargs):
            if func in FILLS and _fills(tensor):
                self._forget(_key(tensor))
            elif func not in FILLS and (read or _key(tensor) in self._copies):
                self._change(tensor, read)
        if read and not func.is_view:
            self._whole |= read
            for tensor in _tensors([result]):
                if not self._named(tensor):
                    self._computed[_key(tensor)] = (StorageWeakRef(tensor.untyped_storage()), read)
        return result

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        target, source = args[:2]
        named = self._named(source)
        if not target.numel():
            return target
        if named is not None:
            name, begin, shape = named
            taken = View.between(source.expand(target.shape), begin)
            placed = View.between(target, 0)
            copies = self._copies.setdefault(_key(target), [])
            copies[:] = [copy for copy in copies if copy.placed != placed]
            copies.append(Copy(name, shape, taken, placed))
        elif (read := self._read([source])) or _key(target) in self._copies:
            self._change(target, read)
        return target if source.is_meta else func(*args, **kwargs)

    def _change(self, tensor: Tensor, read: frozenset[str]) -> None:
        key = _key(tensor)
        self._whole |= read
        self._changed[key] = (
            self._changed.get(key, frozenset()) | read | {copy.source for copy in self._copies.get(key, ())}
        )

    def _forget(self, key: int) -> None:
        self._copies.pop(key, None)
        self._changed.pop(key, None)

    def _named(self, tensor: Tensor) -> tuple[str, int, tuple[int, ...]] | None:
        """(name, where it begins in its memory, shape) of the checkpoint's tensor that this is a part of."""
        for alive, name, begin, shape in self._sources.get(_key(tensor), ()):
            if not alive.expired() and begin <= tensor.storage_offset() < begin + max(1, math.prod(shape)):
                return name, begin, shape
        return None

    def _read(self, arguments: Iterable[Any]) -> frozenset[str]:
        """Names of the checkpoint's tensors that these are parts of, or computed from."""
        names: frozenset[str] = frozenset()
        for tensor in _tensors(arguments):
            if (named := self._named(tensor)) is not None:
                names |= {named[0]}
            alive, computed = self._computed.get(_key(tensor), (None, frozenset()))
            if alive is not None and not alive.expired():
                names |= computed
        return names


def held_tensors(module: Any) -> dict[str, Tensor]:
    """Parameters, buffers and attributes of one module, by their names in it."""
    kept: Mapping[str, Any] = {**module._parameters, **module._buffers, **vars(module)}
    return {kind: tensor for kind, tensor in kept.items() if isinstance(tensor, Tensor)}


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def box_of(view: View, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(begin, size) of the box that a view is of a row-major tensor of this shape; None when it is no box."""
    strides = row_major(shape)
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    begin = tuple(view.offset // stride % n for stride, n in zip(strides, shape, strict=True))
    end = tuple(last // stride % n for stride, n in zip(strides, shape, strict=True))
    size = tuple(high - low + 1 for low, high in zip(begin, end, strict=True))
    boxed = _merged(zip(size, strides, strict=True)) if all(n > 0 for n in size) else None
    return (begin, size) if boxed == _merged(zip(view.shape, view.strides, strict=True)) else None


def _merged(axes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(length, stride) of a view's axes from the widest stride on, those that follow each other closely as one."""
    merged: list[tuple[int, int]] = []
    for length, stride in sorted(((n, s) for n, s in axes if n != 1), key=lambda axis: -axis[1]):
        if merged and merged[-1][1] == length * stride:
            merged[-1] = (merged[-1][0] * length, stride)
        else:
            merged.append((length, stride))
    return merged


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _tensors(argument)


def _written(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Tensors among the arguments that an operation changes in place."""
    for place, declared in enumerate(func._schema.arguments if func._schema.is_mutable else ()):
        if declared.alias_info is not None and declared.alias_info.is_write:
            yield from _tensors([args[place] if place < len(args) else kwargs.get(declared.name)])


def _fills(tensor: Tensor) -> bool:
    """Whether it is all of its memory."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
