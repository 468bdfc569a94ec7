"""A plan carried out by processes that see nothing but their own steps, while messages arrive in any order."""

from __future__ import annotations

from random import Random

import numpy as np

from alignkit.types.layout import Box, Holder, Layout
from alignkit.weights.plan.plan import Plan, Step
from tests.unit.random_layouts import masks

Key = tuple[int, int, Holder, Holder]  # bucket, stage, sender, receiver
Tensors = dict[str, np.ndarray]


def walked(made: Plan, source: Layout, target: Layout, order: Random) -> dict[Holder, Tensors]:
    """How often each number came where. A message is there when both its sides have come to its stage.

    Fails where somebody sends what it does not hold yet, where two sides expect different boxes, and where all wait.
    """
    walk = _Walk(made, source, target)
    while ready := [key for key, sides in walk.messages.items() if len(sides) == 2]:
        walk.arrive(order.choice(ready))
    assert not walk.messages, "somebody waits for ever"
    assert not any(walk.left.values()), "somebody waits for ever"
    return walk.came


class _Walk:
    def __init__(self, made: Plan, source: Layout, target: Layout):
        nothing = {name: np.zeros(shape, int) for name, shape in made.shapes.items()}
        self._source = masks(source)
        self._held = {holder: _copy(self._source.get(holder, nothing)) for holder in made.holders}
        self.came = {holder: _copy(nothing) for holder in masks(target)}
        self.left = {holder: list(made.steps(holder)) for holder in made.holders}
        self.messages: dict[Key, list[list[Box]]] = {}
        self._waits: dict[Holder, set[Key]] = {}
        for holder in made.holders:
            self._enter(holder)

    def arrive(self, key: Key) -> None:
        sent, taken = self.messages.pop(key)
        assert sent == taken, "two sides of a message name different boxes"
        self._take(key[3], sent)
        for holder in key[2:]:
            self._waits[holder].remove(key)
            if not self._waits[holder]:
                self._leave(holder)

    def _enter(self, holder: Holder) -> None:
        if not self.left[holder]:
            return
        step: Step = self.left[holder][0]
        for box in step.own:
            assert self._source[holder][box.name][box.slices].all(), "takes what is not its own"
        sends = {(step.bucket, step.stage, holder, to): list(boxes) for to, boxes in step.outgoing.items()}
        takes = {(step.bucket, step.stage, sender, holder): list(boxes) for sender, boxes in step.incoming.items()}
        for boxes in sends.values():
            assert all(self._held[holder][box.name][box.slices].all() for box in boxes), "sends what it does not hold"
        for key, boxes in {**sends, **takes}.items():
            self.messages.setdefault(key, []).append(boxes)
        self._waits[holder] = {*sends, *takes}
        if not self._waits[holder]:
            self._leave(holder)

    def _leave(self, holder: Holder) -> None:
        self._take(holder, self.left[holder].pop(0).own)
        self._enter(holder)

    def _take(self, holder: Holder, boxes: list[Box]) -> None:
        for box in boxes:
            self.came[holder][box.name][box.slices] += 1
            self._held[holder][box.name][box.slices] = 1


def _copy(tensors: Tensors) -> Tensors:
    return {name: tensor.copy() for name, tensor in tensors.items()}
