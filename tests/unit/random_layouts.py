"""Random pairs of layouts: a few tensors, hosts and processes, boxes that overlap as they come."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import strategies as st

from alignkit.types.layout import Box, Holder, Layout, Part, Shape


def holders(hosts: int, each: int) -> list[Holder]:
    return [Holder(f"host{host}", host * each + index) for host in range(hosts) for index in range(each)]


@st.composite
def boxes(draw: st.DrawFn, name: str, shape: Shape) -> Box:
    begin = tuple(draw(st.integers(0, length - 1)) for length in shape)
    size = tuple(draw(st.integers(1, length - first)) for length, first in zip(shape, begin, strict=True))
    return Box(name, begin, size)


@st.composite
def held(draw: st.DrawFn, name: str, shape: Shape, processes: list[Holder], most: int) -> list[Part]:
    """Boxes of processes; those of one process do not overlap."""
    parts: list[Part] = []
    for _ in range(draw(st.integers(0, most))):
        part = Part(draw(boxes(name, shape)), draw(st.sampled_from(processes)))
        if not any(p.holder == part.holder and p.box.overlap(part.box) for p in parts):
            parts.append(part)
    return parts


def rest(name: str, shape: Shape, parts: list[Part], processes: list[Holder]) -> list[Part]:
    """Single numbers that nobody in `parts` holds, shared out."""
    taken = {
        place
        for part in parts
        for place in product(*(range(b, b + s) for b, s in zip(part.box.begin, part.box.size, strict=True)))
    }
    left = [place for place in product(*map(range, shape)) if place not in taken]
    ones = (1,) * len(shape)
    return [Part(Box(name, place, ones), processes[i % len(processes)]) for i, place in enumerate(left)]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Layout, Layout]:
    """(source, target): somebody of the source has each number; some processes are in both."""
    processes = holders(draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    split = draw(st.integers(0, len(processes) - 1))
    sources, targets = processes[: split + 1], processes[draw(st.integers(0, split)) :]
    shapes, have, want = {}, [], []
    for index in range(draw(st.integers(1, 2))):
        name = f"layers.{index}.weight"
        shapes[name] = tuple(draw(st.lists(st.integers(1, 5), max_size=3)))
        mine = draw(held(name, shapes[name], sources, 4))
        have += mine + rest(name, shapes[name], mine, sources)
        want += draw(held(name, shapes[name], targets, 5))
    return Layout.of(shapes, have), Layout.of(shapes, want)


def masks(layout: Layout) -> dict[Holder, dict[str, np.ndarray]]:
    """Number by number, what each process holds: how often."""
    found = {holder: {name: np.zeros(shape, int) for name, shape in layout.shapes.items()} for holder in layout.holders}
    for part in layout.parts:
        found[part.holder][part.box.name][part.box.slices] += 1
    return found
