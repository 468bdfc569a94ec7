"""The fewest numbers that must move between two layouts, counted without a plan."""

from __future__ import annotations

import numpy as np

from alignkit.types.layout import Layout, Placed, Shape
from alignkit.weights.plan.plan import Numbers


def fewest(source: Layout, target: Layout) -> Numbers:
    """The bound that no plan goes below, each class for itself, and that `plan` reaches.

    With D_p and S_p the numbers that process p wants and has, D_h and S_h those of all processes of host h:
    local = sum_p |D_p & S_p|; between hosts = sum_h |D_h - S_h|, as what no process of a host has must enter it once;
    within hosts = sum_p |D_p - S_p| - sum_h |D_h - S_h|, as every process gets what it has not, and what entered its
    host for one needs not enter for another. Counted on the grid of all borders of each tensor.
    """
    local = wanted = entering = 0
    for name, shape in target.shapes.items():
        if name not in target.placed:
            continue
        cuts = _cuts(shape, source.placed.get(name), target.placed[name])
        volumes = _volumes(cuts)
        want = _masks(cuts, target, name)
        have = _masks(cuts, source, name)
        nothing = np.zeros(volumes.shape, bool)
        hosts_want: dict[str, np.ndarray] = {}
        hosts_have: dict[str, np.ndarray] = {}
        for holder, mask in have.items():
            hosts_have[holder.host] = hosts_have.get(holder.host, nothing) | mask
        for holder, mask in want.items():
            hosts_want[holder.host] = hosts_want.get(holder.host, nothing) | mask
            local += int(volumes[mask & have.get(holder, nothing)].sum())
            wanted += int(volumes[mask & ~have.get(holder, nothing)].sum())
        entering += sum(int(volumes[mask & ~hosts_have.get(host, nothing)].sum()) for host, mask in hosts_want.items())
    return Numbers(local, wanted - entering, entering)


def _cuts(shape: Shape, *placed: Placed | None) -> list[np.ndarray]:
    """The borders along each axis."""
    borders = [[0, length] for length in shape]
    for one in filter(None, placed):
        for axis, found in enumerate(borders):
            found.extend(one.begin[:, axis].tolist())
            found.extend((one.begin + one.size)[:, axis].tolist())
    return [np.unique(found) for found in borders]


def _volumes(cuts: list[np.ndarray]) -> np.ndarray:
    """How many numbers lie in each cell of the grid."""
    volumes = np.ones((), np.int64)
    for found in cuts:
        volumes = volumes[..., None] * np.diff(found)
    return volumes


def _masks(cuts: list[np.ndarray], layout: Layout, name: str) -> dict:
    """The cells that each holder has."""
    masks: dict = {}
    placed = layout.placed.get(name)
    if placed is None:
        return masks
    shape = tuple(len(found) - 1 for found in cuts)
    for begin, size, index in zip(placed.begin, placed.size, placed.holder, strict=True):
        mask = masks.setdefault(layout.holders[index], np.zeros(shape, bool))
        edges = zip(cuts, begin, begin + size, strict=True)
        mask[tuple(slice(*np.searchsorted(found, (low, high))) for found, low, high in edges)] = True
    return masks
