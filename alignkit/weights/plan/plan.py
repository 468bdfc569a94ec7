"""Who sends what to whom so that weights lie as another layout wants them: every number once, by the nearest way.

Boxes and their intersections as the language of weights that change their layout are DynaTrain's (arXiv 2605.18815),
between layouts of training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alignkit.errors import LayoutError
from alignkit.types.layout import Box, Holder, Layout, Placed, Shape
from alignkit.weights.plan.boxes import Atom, atoms
from alignkit.weights.plan.routes import Routes, routes

BUCKET = 1 << 27  # numbers: 256 MiB in bfloat16, of which a process holds its share


class Numbers(NamedTuple):
    """How many numbers reach those who want them, by their way: a process has them itself, from its own host, from
    another host. Times the bytes of a number only the last two are traffic."""

    local: int
    within_host: int
    between_hosts: int


@dataclass(frozen=True, slots=True)
class Move:
    """One box from one process to another, or within one (nothing is sent then)."""

    box: Box
    sender: Holder
    receiver: Holder


@dataclass(frozen=True, slots=True)
class Step:
    """What one process does in one stage of one bucket: take its own, and with each peer exchange one message."""

    bucket: int
    stage: int
    own: Sequence[Box]
    incoming: Mapping[Holder, Sequence[Box]]
    outgoing: Mapping[Holder, Sequence[Box]]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Moves in the order of (bucket, stage), one a row.

    No order in which messages arrive can lock the processes: each walks through the same order and, in a (bucket,
    stage), asks for all that comes and offers all that goes before it waits; what goes it had before that stage. So of
    all stages that are not done the first one has all its messages asked for and offered, and ends; then the next.

    shapes: of the tensors. holders: all processes. tensor, sender, receiver: [moves], places in them. begin, size:
    [moves, axes]; axes beyond those of a tensor begin at 0 and have one place. bucket, stage: [moves].
    """

    shapes: Mapping[str, Shape]
    holders: Sequence[Holder]
    tensor: np.ndarray
    begin: np.ndarray
    size: np.ndarray
    sender: np.ndarray
    receiver: np.ndarray
    bucket: np.ndarray
    stage: np.ndarray

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Move]:
        return self._moves(np.arange(len(self)))

    @property
    def numbers(self) -> Numbers:
        """Of all moves."""
        host = _hosts(self.holders)
        moved = np.prod(self.size, axis=1)
        own, near = self.sender == self.receiver, host[self.sender] == host[self.receiver]
        return Numbers(*(int(moved[which].sum()) for which in (own, near & ~own, ~near)))

    @property
    def sent(self) -> np.ndarray:
        """How many numbers each of `holders` sends to others."""
        return self._total(self.sender)

    @property
    def received(self) -> np.ndarray:
        """How many numbers each of `holders` gets from others."""
        return self._total(self.receiver)

    def steps(self, holder: Holder) -> Iterator[Step]:
        """What one process does, in its order; stages in which it does nothing are left out."""
        me = self.holders.index(holder)
        mine = np.flatnonzero((self.sender == me) | (self.receiver == me))
        when = self.bucket[mine].astype(np.int64) * (1 + int(self.stage.max(initial=0))) + self.stage[mine]
        for rows in np.split(mine, np.flatnonzero(np.diff(when)) + 1) if len(mine) else ():
            own, incoming, outgoing = [], {}, {}
            for move in self._moves(rows):
                if move.sender == move.receiver:
                    own.append(move.box)
                elif move.sender == holder:
                    outgoing.setdefault(move.receiver, []).append(move.box)
                else:
                    incoming.setdefault(move.sender, []).append(move.box)
            yield Step(int(self.bucket[rows[0]]), int(self.stage[rows[0]]), own, incoming, outgoing)

    def _moves(self, rows: np.ndarray) -> Iterator[Move]:
        names = list(self.shapes)
        columns = (self.tensor, self.begin, self.size, self.sender, self.receiver)
        for tensor, begin, size, sender, receiver in zip(*(column[rows].tolist() for column in columns), strict=True):
            axes = len(self.shapes[names[tensor]])
            box = Box(names[tensor], tuple(begin[:axes]), tuple(size[:axes]))
            yield Move(box, self.holders[sender], self.holders[receiver])

    def _total(self, who: np.ndarray) -> np.ndarray:
        moved = np.where(self.sender != self.receiver, np.prod(self.size, axis=1), 0)
        return np.bincount(who, moved, minlength=len(self.holders)).astype(np.int64)


def plan(source: Layout, target: Layout, *, bucket: int = BUCKET) -> Plan:
    """Brings every number of `target` once to each process that wants it, at the fewest bytes (see `fewest`).

    bucket: how many numbers of whole tensors travel together at most; a layer is one bucket or several, a row of a
    tensor is never cut for it. Raises LayoutError where names or shapes differ, a process would hold a number twice, or
    nobody has one that is wanted.
    """
    _check_names(source, target)
    holders = tuple(dict.fromkeys((*source.holders, *target.holders)))
    place = {holder: index for index, holder in enumerate(holders)}
    planner = _Planner(
        np.array([place[holder] for holder in source.holders], np.int32),
        np.array([place[holder] for holder in target.holders], np.int32),
        _hosts(holders).tolist(),
    )
    found: list[tuple[int, Routes, np.ndarray]] = []
    counter = _Buckets(bucket)
    for index, (name, shape) in enumerate(target.shapes.items()):
        if name in target.placed:
            rows = counter.rows(shape)
            way = planner.routes(name, shape, source.placed.get(name), target.placed[name], rows)
            found.append((index, way, counter.of(name, shape, way.boxes[:, 0, 0])))
    return _plan(target.shapes, holders, found)


def _plan(shapes: Mapping[str, Shape], holders: Sequence[Holder], found: list[tuple[int, Routes, np.ndarray]]) -> Plan:
    axes = max((way.boxes.shape[2] for _, way, _ in found), default=1)
    total = sum(len(way.sender) for _, way, _ in found)
    begin, size = np.zeros((total, axes), np.int64), np.ones((total, axes), np.int64)
    columns = {key: np.empty(total, np.int32) for key in ("tensor", "sender", "receiver", "bucket", "stage")}
    first = 0
    for index, way, buckets in found:
        here = slice(first, first + len(way.sender))
        begin[here, : way.boxes.shape[2]] = way.boxes[:, 0]
        size[here, : way.boxes.shape[2]] = way.boxes[:, 1] - way.boxes[:, 0]
        values = (index, way.sender, way.receiver, buckets, way.stage)
        for column, value in zip(columns.values(), values, strict=True):
            column[here] = value
        first = here.stop
    stages = 1 + int(columns["stage"].max(initial=0))
    order = np.argsort(columns["bucket"].astype(np.int64) * stages + columns["stage"], kind="stable")
    ordered = {key: column[order] for key, column in columns.items()}
    return Plan(shapes, holders, begin=begin[order], size=size[order], **ordered)


class _Planner:
    """Routes of tensors; those of a shape that lie in the same places are found once."""

    def __init__(self, source: np.ndarray, target: np.ndarray, host: Sequence[int]):
        self._source, self._target, self._host = source, target, host
        self._known: dict[tuple[object, ...], Routes] = {}

    def routes(self, name: str, shape: Shape, source: Placed | None, target: Placed, rows: int) -> Routes:
        if source is None:
            raise LayoutError(f"plan: nobody has {name}; list the processes that hold it in the source layout")
        key = (shape, rows, *(_print(placed) for placed in (source, target)))
        if key not in self._known:
            have, want = self._atoms(name, source, self._source), self._atoms(name, target, self._target)
            self._known[key] = routes(have, want, self._host, rows)
        way = self._known[key]
        if way.missing is not None:
            begin, end = way.missing.tolist()
            raise LayoutError(
                f"plan: nobody has all of {name} from {begin} to {end} (shape {shape}); list its holders in the source"
            )
        return way

    def _atoms(self, name: str, placed: Placed, place: np.ndarray) -> list[Atom]:
        begin, size = placed.begin, placed.size
        if not begin.shape[1]:
            begin, size = np.zeros((len(begin), 1), np.int64), np.ones((len(begin), 1), np.int64)
        found = atoms(np.stack((begin, begin + size), axis=1), place[placed.holder])
        if any(len(set(atom.holders)) < len(atom.holders) for atom in found):
            raise LayoutError(f"plan: a process holds numbers of {name} twice; give it boxes that do not overlap")
        return found


class _Buckets:
    """Numbers of buckets, counted up as tensors come."""

    def __init__(self, limit: int):
        self._limit, self._number, self._full, self._layer = limit, -1, 0, ""

    def rows(self, shape: Shape) -> int:
        """How many rows of a tensor are one bucket at most."""
        row = int(np.prod(shape[1:], dtype=np.int64))
        return max(1, self._limit // max(row, 1))

    def of(self, name: str, shape: Shape, begin: np.ndarray) -> np.ndarray:
        """The buckets of boxes that begin at these rows of a tensor."""
        layer = _layer(name)
        if layer != self._layer or self._full + int(np.prod(shape, dtype=np.int64)) > self._limit:
            self._number, self._full, self._layer = self._number + 1, 0, layer
        buckets = self._number + begin // self.rows(shape)
        self._number, self._full = int(buckets.max()), self._full + int(np.prod(shape, dtype=np.int64))
        return buckets


def _layer(name: str) -> str:
    """The transformer layer that a tensor belongs to; else its module."""
    numbered = re.match(r"(.*?\.\d+)\.", name)
    return numbered[1] if numbered else name.rpartition(".")[0]


def _print(placed: Placed) -> bytes:
    return b"/".join(column.tobytes() for column in (placed.begin, placed.size, placed.holder))


def _hosts(holders: Sequence[Holder]) -> np.ndarray:
    """The host of each, as numbers."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(holder.host, len(known)) for holder in holders], np.int64)


def _check_names(source: Layout, target: Layout) -> None:
    for one, other, where in ((source, target, "target"), (target, source, "source")):
        lost = sorted(one.shapes.keys() - other.shapes.keys())
        if lost:
            raise LayoutError(
                f"plan: {len(lost)} tensors are not in the {where} layout, first: {lost[0]}; "
                "name the same tensors on both sides (Layout.only leaves some out)"
            )
    for name, shape in target.shapes.items():
        if tuple(source.shapes[name]) != tuple(shape):
            raise LayoutError(
                f"plan: {name} is {tuple(source.shapes[name])} at its source, {tuple(shape)} at its target; "
                "give the checkpoint's shape on both sides, without padding"
            )
