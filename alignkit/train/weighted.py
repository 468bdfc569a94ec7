"""The order of a mixture whose parts are drawn by weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Generic

import numpy as np

from alignkit.train.source import Order, Row
from alignkit.types.seeds import child

FINEST = 10_000
"""Rows in the longest round."""


@dataclass(frozen=True, kw_only=True)
class WeightedOrder(Order[Row], Generic[Row]):
    """Rows of several orders by turns: in each round of sum(turns) rows every part has its own, in an order drawn from
    (seed, round).

    A pure function of the cursor as Order: part p has given floor(cursor / sum) * turns[p] rows, and those of the round
    that has begun. Parts go on by themselves: a short one begins its next pass while a long one is in its first.
    `examples` are those of all parts, so that an epoch is as many rows as there are.

    parts: by name. turns: rows of each part in a round (`turns_of`). whole: whether `examples` are all rows.
    """

    parts: Mapping[str, Order[Row]]
    turns: Mapping[str, int]
    whole: bool = True

    _round: list[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_round", [name for name, turns in self.turns.items() for _ in range(turns)])

    def take(self, cursor: int, count: int) -> list[Row]:
        """Those at `cursor` to `cursor + count`, however the stream is cut."""
        first, last = cursor // len(self._round), (cursor + count) // len(self._round)
        names = [name for number in range(first, last + 1) for name in self._names(number)]
        begin = cursor - first * len(self._round)
        before = self.taken(cursor)
        wanted = names[begin : begin + count]
        rows = {name: iter(part.take(before[name], wanted.count(name))) for name, part in self.parts.items()}
        return [next(rows[name]) for name in wanted]

    def epoch(self, cursor: int) -> float:
        """Passes over as many rows as there are; where nobody knows, of the part that is furthest behind."""
        if self.whole:
            return super().epoch(cursor)
        return min(self.parts[name].epoch(count) for name, count in self.taken(cursor).items())

    def taken(self, cursor: int) -> dict[str, int]:
        """How many rows of each part stand before the cursor."""
        rounds, inside = divmod(cursor, len(self._round))
        begun = self._names(rounds)[:inside]
        return {name: rounds * turns + begun.count(name) for name, turns in self.turns.items()}

    def _names(self, number: int) -> list[str]:
        """Whose turn it is in a round."""
        random = np.random.Generator(np.random.Philox(key=child(self.seed, "round", number)))
        return [self._round[place] for place in random.permutation(len(self._round))]


def turns_of(weights: Mapping[str, float]) -> dict[str, int]:
    """The smallest whole numbers in the proportions of the weights: {a: 0.75, b: 0.25} is {a: 3, b: 1}.

    Where they add up to more than 10,000, the nearest ones that add up to about as many, and 1 at least.
    """
    total = sum(weights.values())
    fractions = {name: Fraction(weight / total).limit_denominator(FINEST) for name, weight in weights.items()}
    whole = math.lcm(*(fraction.denominator for fraction in fractions.values()))
    if whole <= FINEST and all(fractions.values()):
        return {name: int(fraction * whole) for name, fraction in fractions.items()}
    return {name: max(round(FINEST * weight / total), 1) for name, weight in weights.items()}
