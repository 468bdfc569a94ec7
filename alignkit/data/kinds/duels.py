"""Pairs of which both answers are read in one context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from alignkit.data.given.sieve import Sieve
from alignkit.data.kinds.kind import Kind
from alignkit.data.kinds.pairs import SIDES, Pair, by_side, describe, make_pairs, pair_items
from alignkit.errors import DataError
from alignkit.types.item import Item
from alignkit.types.task import Task


def make_duels(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve) -> list[Pair]:
    """The pairs of which both answers fit into the context together. Raises DataError when none is left."""
    pairs = []
    for pair in make_pairs(prompts, sieve):
        if len(pair.prompt) + len(pair.chosen) + len(pair.rejected) <= sieve.context:
            pairs.append(pair)
        else:
            sieve.leave_out("two completions too long to be read together")
    if not pairs:
        raise DataError(sieve.report() or f"{sieve.data.name}: no pair is left to train on")
    return pairs


def duel_items(pair: Pair, group: int) -> list[Item]:
    """The pair in both orders: the answer shown first joins the prompt, the other one is the completion."""
    return [
        replace(own, prompt_ids=(*own.prompt_ids, *other.completion_ids))
        for own, other in permutations(pair_items(pair, group))
    ]


KIND = Kind(
    name="duels",
    unit="pairs",
    rows=lambda tasks, sieve: make_duels(sieve.prompts(tasks), sieve),
    items=duel_items,
    describe=describe,
    verdict=by_side,
    sided=SIDES,
    table="sides",
    beside_reference=True,
)
