"""What vLLM's own loaders take of a checkpoint: which part of which tensor goes where in which tensor of the model.

A loader cuts by views (narrow, chunk, an index, a transpose) and ends in `copy_`. Seen from below these calls, where a
view lies in the memory of its tensor says all about it, so that no family of models needs to be known. Copies in
another order (`moved.py`) are followed, too. What a loader computes otherwise is noticed and said.
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

from alignkit.engines.vllm.moved import MOVES, Moved, Taken, View, names_of

FILLS = (torch.ops.aten.fill_.Scalar, torch.ops.aten.fill_.Tensor, torch.ops.aten.zero_.default)


@dataclass(frozen=True, slots=True)
class Copy:
    """taken: of `source`, a tensor of this shape, the checkpoint's of that name or one made of such; placed: of the
    model's."""

    source: str | Moved
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
        self._sources: dict[int, list[tuple[StorageWeakRef, str | Moved, int, tuple[int, ...]]]] = {}
        self._computed: dict[int, tuple[StorageWeakRef, frozenset[str]]] = {}
        self._copies: dict[int, list[Copy]] = {}
        self._changed: dict[int, frozenset[str]] = {}
        self._whole: frozenset[str] = frozenset()

    def named(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same pairs; from now on the tensor is known by its name."""
        for name, tensor in weights:
            whole = tensor.contiguous()
            self._know(whole, name)
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
        `whole`: names of those of which it wants all, because it computes with them, moves
        them about, or takes what is no box."""
        boxes, whole = set(), set(self._whole)
        for copy in (copy for copies in self._copies.values() for copy in copies):
            box = box_of(copy.taken, copy.shape) if isinstance(copy.source, str) else None
            boxes |= {(copy.source, *box)} if box is not None else set()
            whole |= names_of(copy.source) if box is None else set()
        return {"boxes": sorted(box for box in boxes if box[0] not in whole), "whole": sorted(whole)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.copy_.default:
            return self._copy(func, args, kwargs)
        result = func(*args, **kwargs)
        read = self._read([*args, *kwargs.values()])
        for tensor in _written(func, args, kwargs):
            self._spoil(tensor, read)
            if func in FILLS and _fills(tensor):
                self._forget(_key(tensor))
            elif func not in FILLS and (read or _key(tensor) in self._copies):
                self._change(tensor, read)
        if not read or func.is_view:
            return result
        self._whole |= read
        moved = self._moved(func, args, kwargs) if func in MOVES else None
        if moved is not None:
            self._know(result, moved)
            return result
        for tensor in _tensors([result]):
            if not self._named(tensor):
                self._computed[_key(tensor)] = (StorageWeakRef(tensor.untyped_storage()), read)
        return result

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        target, source = args[:2]
        named = self._named(source)
        if not target.numel():
            return target
        self._spoil(target, self._read([source]))
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

    def _know(self, tensor: Tensor, source: str | Moved) -> None:
        storage = tensor.untyped_storage()
        place = (StorageWeakRef(storage), source, int(tensor.storage_offset()), tuple(tensor.shape))
        kept = [each for each in self._sources.get(storage._cdata, ()) if not each[0].expired()]
        self._sources[storage._cdata] = [*kept, place]

    def _moved(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Moved | None:
        """What an operation makes of parts of known tensors; None where it takes others, too."""
        try:
            return Moved(func, tuple(map(self._taken, args)), tuple(kwargs.items()))
        except LookupError:
            return None

    def _taken(self, argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return tuple(map(self._taken, argument))
        if not isinstance(argument, Tensor):
            return argument
        if (named := self._named(argument)) is None:
            raise LookupError
        source, begin, shape = named
        return Taken(source, shape, View.between(argument, begin))

    def _spoil(self, tensor: Tensor, read: frozenset[str]) -> None:
        """A known tensor is written over: from now on it is computed."""
        if (named := self._named(tensor)) is not None:
            storage = tensor.untyped_storage()
            self._computed[storage._cdata] = (StorageWeakRef(storage), read | names_of(named[0]))
            others = [each for each in self._sources[storage._cdata] if each[1:] != named]
            self._sources[storage._cdata] = others

    def _change(self, tensor: Tensor, read: frozenset[str]) -> None:
        key = _key(tensor)
        self._whole |= read
        self._changed[key] = self._changed.get(key, frozenset()).union(
            read, *(names_of(copy.source) for copy in self._copies.get(key, ()))
        )

    def _forget(self, key: int) -> None:
        self._copies.pop(key, None)
        self._changed.pop(key, None)

    def _named(self, tensor: Tensor) -> tuple[str | Moved, int, tuple[int, ...]] | None:
        """(source, where it begins in its memory, shape) of the known tensor that this is a part of."""
        for alive, name, begin, shape in self._sources.get(_key(tensor), ()):
            if not alive.expired() and begin <= tensor.storage_offset() < begin + max(1, math.prod(shape)):
                return name, begin, shape
        return None

    def _read(self, arguments: Iterable[Any]) -> frozenset[str]:
        """Names of the checkpoint's tensors that these are parts of, or computed from."""
        names: frozenset[str] = frozenset()
        for tensor in _tensors(arguments):
            if (named := self._named(tensor)) is not None:
                names |= names_of(named[0])
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
