"""Where DeepSpeed ZeRO leaves the weights of the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from alignkit.types.layout import Holder, Layout, Placed, Shape
from alignkit.weights.plan.flat_range import flat_range


def zero_layout(stage: int, shapes: Mapping[str, Shape], ranks: Sequence[Holder]) -> Layout:
    """Stages 0 to 2: every rank has every tensor whole. Stage 3: of each tensor, flat and padded to a multiple of the
    ranks, a rank has the run `shard_range`; paddings are nobody's, so the last ranks may have none of a small one.

    shapes: by checkpoint name, of adapters' matrices alone where these alone travel. ranks: in their order.
    """
    known: dict[Shape, Placed] = {}
    placed = {}
    for name, shape in shapes.items():
        if prod(shape):
            if shape not in known:
                known[shape] = _cut(shape, len(ranks)) if stage == 3 else _whole(shape, len(ranks))
            placed[name] = known[shape]
    return Layout(shapes, tuple(ranks), placed)


def shard_range(shape: Shape, rank: int, ranks: int) -> tuple[int, int]:
    """Where a rank's run of a flat tensor begins and ends, under ZeRO-3, without the padding."""
    count = prod(shape)
    share = -(-count // ranks)
    return min(rank * share, count), min((rank + 1) * share, count)


def _whole(shape: Shape, ranks: int) -> Placed:
    begin = np.zeros((ranks, len(shape)), np.int64)
    return Placed(begin, begin + np.array(shape, np.int64), np.arange(ranks, dtype=np.int32))


def _cut(shape: Shape, ranks: int) -> Placed:
    found = [(box, rank) for rank in range(ranks) for box in flat_range("", shape, *shard_range(shape, rank, ranks))]
    begin, size = (np.array([getattr(box, side) for box, _ in found], np.int64) for side in ("begin", "size"))
    where = (len(found), len(shape))
    holder = np.array([rank for _, rank in found], np.int32)
    return Placed(begin.reshape(where), size.reshape(where), holder)
