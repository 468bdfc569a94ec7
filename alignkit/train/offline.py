"""The source of offline data, whatever its kind: preferences, feedback, rankings, ratings, SFT, transitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.data.kinds.kind import Kind
from alignkit.errors import DataError
from alignkit.train.source import Drawn, Order
from alignkit.types.batch import pack


@dataclass(frozen=True, kw_only=True)
class OfflineSource:
    """`size` rows a step, each a group. kind: says what a row becomes.

    left_out: share of the data's rows that cannot be learnt from; None where that is not told.
    """

    kind: Kind
    order: Order[Any]
    size: int
    share_prefix: bool
    left_out: float | None = None

    def next(self, cursor: int, version: int) -> Drawn:
        rows = self.order.take(cursor, self.size)
        cursor += self.size
        told = {} if self.left_out is None else {"data/left_out_frac": self.left_out}
        return Drawn(
            batch=pack(self.kind.items_of(rows), share_prefix=self.share_prefix).validate(),
            cursor=cursor,
            consumed=[row.task.id for row in rows],
            metrics={"data/epoch": self.order.epoch(cursor), "data/consumed": cursor, **told},
        )


def check_columns(rows: Sequence[Any], kind: Kind, wanted: Sequence[str]) -> None:
    """Raises DataError when no row has a rating that the algorithm reads."""
    if not wanted:
        return
    found = {name for item in kind.items_of(rows) for name in item.channels}
    for name in wanted:
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            where = f" ({', '.join(f'{side}{name}' for side in kind.sided)})" if kind.sided else ""
            raise DataError(f"no row has a rating '{name}'{where}; the data has {known}: rename one with data.columns")
