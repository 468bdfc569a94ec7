"""The order of rows that are read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np

from alignkit.errors import DataError
from alignkit.train.source import Order, Row
from alignkit.train.window_index import Begin, WindowIndex
from alignkit.types.seeds import child


@dataclass
class _Place(Generic[Row]):
    """Where the reading stands. rows: the window that is held, in the order in which it is drawn. first: cursor of its
    first row. number: windows before it, over all passes. passes: that ended. of_pass: rows of the present pass.
    position: of the source behind it, as `read` says."""

    ahead: Iterator[tuple[Sequence[Row], Any]]
    rows: list[Row] = field(default_factory=list)
    first: int = 0
    number: int = -1
    passes: int = 0
    of_pass: int = 0
    position: Any = None


@dataclass(frozen=True, kw_only=True)
class WindowedOrder(Order[Row], Generic[Row]):
    """Rows window after window, each in an order drawn from (seed, number of the window), or as given without shuffle.

    No more than a window is held. Where the rows end they are read again, in other orders within their windows. What is
    taken at a cursor depends on it and on the rows alone, however it was come to: a resumed run begins at the window
    that it left, where the index knows of it.

    examples: the first window's. read: the rest of a pass from a position of its own, window by window, each with the
    position behind it; None: from its beginning. index: of where windows begin; None: all is read from the beginning.
    """

    read: Callable[[Any], Iterator[tuple[Sequence[Row], Any]]]
    index: WindowIndex | None = None

    _place: list[_Place[Row]] = field(default_factory=list, init=False, repr=False)

    def take(self, cursor: int, count: int) -> list[Row]:
        """Those at `cursor` to `cursor + count`, however the stream is cut; raises DataError where there are none."""
        taken: list[Row] = []
        while len(taken) < count:
            place = self._at(cursor + len(taken))
            begin = cursor + len(taken) - place.first
            taken += place.rows[begin : begin + count - len(taken)]
        return taken

    def epoch(self, cursor: int) -> float:
        """Whole passes, since nobody knows how many rows there are."""
        return float(self._place[0].passes) if self._place else 0.0

    def _at(self, cursor: int) -> _Place[Row]:
        if not self._place or cursor < self._place[0].first:
            self._place[:] = [self._start(cursor)]
        place = self._place[0]
        while cursor >= place.first + len(place.rows):
            self._advance(place)
        return place

    def _start(self, cursor: int) -> _Place[Row]:
        known = self.index.before(cursor) if self.index else None
        if known is None:
            return _Place(ahead=self.read(None))
        return _Place(
            ahead=self.read(known.position),
            first=known.first,
            number=known.number - 1,
            passes=known.passes,
            of_pass=known.of_pass,
            position=known.position,
        )

    def _advance(self, place: _Place[Row]) -> None:
        rows, behind = next(place.ahead, (None, None))
        if rows is None:
            if not place.of_pass:
                raise DataError("data: there are no tasks to draw from; wanted at least one row")
            place.ahead, place.passes, place.of_pass, place.position = self.read(None), place.passes + 1, 0, None
            return
        place.first += len(place.rows)
        place.number += 1
        if self.index is not None:
            fields = {name: getattr(place, name) for name in ("number", "first", "passes", "of_pass", "position")}
            self.index.add(Begin(**fields))
        place.of_pass += len(rows)
        place.position = behind
        place.rows = [rows[index] for index in self._window(place.number, len(rows))]

    def _window(self, number: int, size: int) -> Any:
        if not self.shuffle:
            return range(size)
        return np.random.Generator(np.random.Philox(key=child(self.seed, "window", number))).permutation(size)
