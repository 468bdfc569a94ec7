"""The ways that one tensor's numbers take from those who have them to those who want them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from alignkit.weights.plan.boxes import Atom, Boxes, cut, joined, numbers, overlaps

RUN = 1 << 14  # numbers: less is not cut for the sake of balance


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """One move a row: boxes [moves, 2, axes] go from `sender` to `receiver` (the same: it has them) in a stage.

    What is sent in a stage was there before or has come in an earlier one. missing: the first box that nobody has.
    """

    boxes: Boxes
    sender: np.ndarray
    receiver: np.ndarray
    stage: np.ndarray
    missing: Boxes | None


def routes(source: Sequence[Atom], target: Sequence[Atom], host: Sequence[int], rows: int) -> Routes:
    """Every wanted number once to each that wants it, by the nearest way.

    host: of each process. rows: boxes are cut at multiples of it along the first axis. Hosts that want the same box
    stand in a chain; each sends its neighbour what that one's host lacks, so every number crosses the network once a
    host, and nobody sends a number more than twice over it. Within a host the processes that want it form a chain too.
    """
    axes = target[0].box.shape[1]
    owned = np.stack([atom.box for atom in source]) if source else np.zeros((0, 2, axes), np.int64)
    owners = [atom.holders for atom in source]
    most = max(map(len, owners), default=1)
    found = _Found(host)
    for box, wanting in _runs(target, most, host, rows):
        which, pieces = overlaps(box, owned)
        if numbers(pieces).sum() != numbers(box):
            return Routes(pieces[:0], *(np.zeros(0, np.int32),) * 3, missing=box)
        found.spread(wanting, [(piece, owners[index]) for piece, index in zip(pieces, which.tolist(), strict=True)])
    return found.routes()


def _runs(target: Sequence[Atom], most: int, host: Sequence[int], rows: int) -> list[tuple[Boxes, tuple[int, ...]]]:
    """Atoms cut so that equal owners, and equal receivers of a host, can share them out: (box, who wants it)."""
    runs = []
    for atom in target:
        hosts = [host[process] for process in atom.holders]
        several = max(hosts.count(one) for one in set(hosts))
        sharing = -(-most // (min(most, len(set(hosts))) * len(target)))
        count = max(1, min(max(several, sharing), int(numbers(atom.box)) // RUN))
        runs += [(box, atom.holders) for box in cut(atom.box, rows, count)]
    return runs


@dataclass(slots=True)
class _Found:
    """Moves as they are found."""

    host: Sequence[int]
    boxes: list[Boxes] = field(default_factory=list)
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)  # boxes, sender, receiver, stage
    sent: dict[int, int] = field(default_factory=dict)  # numbers, by owner
    runs: int = 0

    def add(self, boxes: Boxes, sender: int, receiver: int, stage: int) -> None:
        if len(boxes):
            self.boxes.append(boxes)
            self.rows.append((len(boxes), sender, receiver, stage))

    def routes(self) -> Routes:
        counts, *columns = np.array(self.rows, np.int64).T
        sender, receiver, stage = (np.repeat(column, counts).astype(np.int32) for column in columns)
        return Routes(np.concatenate(self.boxes), sender, receiver, stage, missing=None)

    def spread(self, wanting: Sequence[int], pieces: Sequence[tuple[Boxes, tuple[int, ...]]]) -> None:
        """One box, in pieces with their owners, to all that want it."""
        chain = _chain(wanting, self.host, self.runs)
        position = {self.host[link[0]]: place for place, link in enumerate(chain)}
        starts: dict[tuple[bool, tuple[int, ...]], list[Boxes]] = {}
        late = [-1] * len(chain)  # the stage in which what starts at a link has reached it
        for piece, owners in pieces:
            inside = sorted({position[self.host[owner]] for owner in owners if self.host[owner] in position})
            if inside:
                for place in inside:
                    late[place] = max(late[place], self._from_own_host(piece, owners, chain[place]))
                starts.setdefault((True, tuple(inside)), []).append(piece[None])
            else:
                entries = min(len(owners), len(chain))
                places = tuple(index * len(chain) // entries for index in range(entries))
                for place, sender in zip(places, self._idlest(owners, entries, piece), strict=True):
                    self.add(piece[None], sender, chain[place][0], 0)
                    late[place] = 0
                starts.setdefault((False, places), []).append(piece[None])
        self._along(chain, {start: joined(np.concatenate(those)) for start, those in starts.items()}, late)
        self.runs += 1

    def _idlest(self, owners: Sequence[int], count: int, piece: Boxes) -> list[int]:
        """Those of equal owners that have sent least of this tensor."""
        chosen = sorted(owners, key=lambda owner: self.sent.get(owner, 0))[:count] if len(owners) > 1 else list(owners)
        for owner in chosen:
            self.sent[owner] = self.sent.get(owner, 0) + int(numbers(piece))
        return chosen

    def _from_own_host(self, piece: Boxes, owners: Sequence[int], link: Sequence[int]) -> int:
        """A piece to all of a host from its owners there; the stage in which the first has it, -1 if it is its own."""
        near = [owner for owner in owners if self.host[owner] == self.host[link[0]]]
        sender, stage = near[0], 0
        if not set(link) <= set(near):
            [sender] = self._idlest(near, 1, piece)
        for process in link:
            if process in near:
                self.add(piece[None], process, process, 0)
            else:
                self.add(piece[None], sender, process, stage)
                sender, stage = process, stage + 1
        return -1 if link[0] in near else 0

    def _along(
        self, chain: Sequence[Sequence[int]], starts: dict[tuple[bool, tuple[int, ...]], Boxes], late: list[int]
    ) -> None:
        """From link to link what starts elsewhere: rightwards, and leftwards what starts nowhere to the left."""
        count = len(chain)
        none = next(iter(starts.values()))[:0]
        stages, came = [0] * count, [[none] for _ in chain]
        for step, places in ((1, range(1, count)), (-1, range(count - 2, -1, -1))):
            before = -1
            for place in places:
                boxes = _joined([box for (_, at), box in starts.items() if _passes(at, place, step)], none)
                if len(boxes):
                    before = 1 + max(before, late[place - step])
                    self.add(boxes, chain[place - step][0], chain[place][0], before)
                    stages[place] = max(stages[place], before)
                    came[place].append(boxes)
        for place, link in enumerate(chain):
            if len(link) > 1:
                entered = [box for (own, at), box in starts.items() if not own and place in at]
                boxes = _joined(came[place] + entered, none)
                for index in range(1, len(link)):
                    self.add(boxes, link[index - 1], link[index], stages[place] + index)


def _chain(wanting: Sequence[int], host: Sequence[int], turn: int) -> list[list[int]]:
    """The processes that want a box by their hosts; within a host another one is the first each time."""
    links: dict[int, list[int]] = {}
    for process in wanting:
        links.setdefault(host[process], []).append(process)
    return [link[turn % len(link) :] + link[: turn % len(link)] for link in links.values()]


def _passes(starts: tuple[int, ...], place: int, step: int) -> bool:
    """Whether a link gets what starts at `starts` from its left neighbour (step 1), from its right one (-1)."""
    return starts[0] > place if step < 0 else starts[0] < place and place not in starts


def _joined(boxes: list[Boxes], none: Boxes) -> Boxes:
    return boxes[0] if len(boxes) == 1 else joined(np.concatenate([none, *boxes]))
