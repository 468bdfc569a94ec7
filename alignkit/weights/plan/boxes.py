"""Boxes of one tensor as arrays: integers [boxes, 2, axes], where each begins and where it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Boxes = np.ndarray
"""[boxes, 2, axes]; of one box [2, axes]."""
CHUNK = 2048  # boxes that are compared with all others at a time


@dataclass(frozen=True, slots=True, eq=False)
class Atom:
    """A box, [2, axes], whose numbers all have the same holders, sorted."""

    box: Boxes
    holders: tuple[int, ...]


def numbers(boxes: Boxes) -> np.ndarray:
    """How many numbers each box holds."""
    return np.prod(boxes[..., 1, :] - boxes[..., 0, :], axis=-1)


def overlaps(box: Boxes, others: Boxes) -> tuple[np.ndarray, Boxes]:
    """Which of `others` one box meets, and the boxes in which it does."""
    begin, end = np.maximum(box[0], others[:, 0]), np.minimum(box[1], others[:, 1])
    which = np.flatnonzero((begin < end).all(axis=1))
    return which, np.stack((begin[which], end[which]), axis=1)


def without(box: Boxes, taken: Boxes) -> Iterator[Boxes]:
    """The disjoint boxes that are left of one box when another is taken out."""
    begin, end = np.maximum(box[0], taken[0]), np.minimum(box[1], taken[1])
    if (begin >= end).any():
        yield box
        return
    rest = box.copy()
    for axis in range(box.shape[1]):
        for side, border in ((1, begin[axis]), (0, end[axis])):
            if rest[1 - side, axis] != border:
                part = rest.copy()
                part[side, axis] = border
                yield part
        rest[0, axis], rest[1, axis] = begin[axis], end[axis]


def atoms(boxes: Boxes, holders: np.ndarray) -> list[Atom]:
    """The same numbers in disjoint boxes, each with its holders; one whose boxes overlap stands there twice."""
    if not len(boxes):
        return []
    distinct, place = np.unique(boxes.reshape(len(boxes), -1), axis=0, return_inverse=True)
    distinct, place = distinct.reshape(-1, *boxes.shape[1:]), place.reshape(-1)
    order = np.lexsort((holders, place))
    held = np.split(holders[order], np.flatnonzero(np.diff(place[order])) + 1)
    crossing = _crossing(distinct)
    found = [
        Atom(box, tuple(those.tolist()))
        for box, those, crosses in zip(distinct, held, crossing, strict=True)
        if not crosses
    ]
    refined: list[Atom] = []
    for index in np.flatnonzero(crossing):
        refined = list(_refined(refined, distinct[index], tuple(held[index].tolist())))
    return found + refined


def _crossing(boxes: Boxes) -> np.ndarray:
    """Whether each box meets another one."""
    meets = np.zeros(len(boxes), np.int64)
    for first in range(0, len(boxes), CHUNK):
        part = boxes[first : first + CHUNK, None]
        both = np.ones((len(part), len(boxes)), bool)
        for axis in range(boxes.shape[2]):
            both &= part[..., 0, axis] < boxes[None, :, 1, axis]
            both &= part[..., 1, axis] > boxes[None, :, 0, axis]
        meets[first : first + CHUNK] = both.sum(axis=1)
    return meets > 1


def _refined(known: Sequence[Atom], box: Boxes, holders: tuple[int, ...]) -> Iterator[Atom]:
    """Disjoint atoms and one more box, as disjoint atoms."""
    new = [box]
    for atom in known:
        begin, end = np.maximum(box[0], atom.box[0]), np.minimum(box[1], atom.box[1])
        if (begin >= end).any():
            yield atom
            continue
        both = np.stack((begin, end))
        yield Atom(both, tuple(sorted((*atom.holders, *holders))))
        yield from (Atom(part, atom.holders) for part in without(atom.box, both))
        new = [part for piece in new for part in without(piece, both)]
    yield from (Atom(part, holders) for part in new)


def joined(boxes: Boxes) -> Boxes:
    """The same numbers of disjoint boxes in fewer: neighbours along an axis become one, the last axis first."""
    for axis in reversed(range(boxes.shape[2])):
        if len(boxes) < 2:
            break
        others = np.delete(boxes, axis, axis=2).reshape(len(boxes), -1)
        order = np.lexsort((boxes[:, 0, axis], *others.T[::-1]))
        boxes, others = boxes[order], others[order]
        follows = (others[1:] == others[:-1]).all(axis=1) & (boxes[1:, 0, axis] == boxes[:-1, 1, axis])
        first = np.flatnonzero(np.concatenate(([True], ~follows)))
        last = np.concatenate((first[1:], [len(boxes)])) - 1
        merged = boxes[first].copy()
        merged[:, 1, axis] = boxes[last, 1, axis]
        boxes = merged
    return boxes


def cut(box: Boxes, rows: int, runs: int) -> list[Boxes]:
    """One box along its first axis: at multiples of `rows`, and what lies between in `runs` about equal parts."""
    begin, end = int(box[0, 0]), int(box[1, 0])
    borders = [begin, *range((begin // rows + 1) * rows, end, rows), end]
    parts = []
    for low, high in pairwise(borders):
        share = min(runs, high - low)
        edges = [low + (high - low) * index // share for index in range(share + 1)]
        for first, last in pairwise(edges):
            part = box.copy()
            part[0, 0], part[1, 0] = first, last
            parts.append(part)
    return parts
