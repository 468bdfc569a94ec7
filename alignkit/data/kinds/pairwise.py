"""Paired preferences for a pairwise reward model, which reads both answers in one context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from alignkit.data.kinds.kind import Kind
from alignkit.data.kinds.paired_preference import SIDES, Pair, by_side, describe, make_pairs, pair_items
from alignkit.data.offline.row_filter import RowFilter
from alignkit.errors import NothingLeft
from alignkit.types.item import Item
from alignkit.types.task import Task


def make_pairwise(prompts: Sequence[tuple[Task, list[int]]], row_filter: RowFilter) -> list[Pair]:
    """The pairs of which both answers fit into the context together. Raises NothingLeft when none is."""
    pairs = []
    for pair in make_pairs(prompts, row_filter):
        if len(pair.prompt) + len(pair.chosen) + len(pair.rejected) <= row_filter.context:
            pairs.append(pair)
        else:
            row_filter.leave_out("two completions too long to be read together")
    if not pairs:
        raise NothingLeft(row_filter.report() or f"{row_filter.data.name}: no pair is left to train on")
    return pairs


def pairwise_items(pair: Pair, group: int) -> list[Item]:
    """The pair in both orders: the answer shown first joins the prompt, the other one is the completion."""
    return [
        replace(own, prompt_ids=(*own.prompt_ids, *other.completion_ids))
        for own, other in permutations(pair_items(pair, group))
    ]


KIND = Kind(
    name="pairwise",
    unit="pairs",
    rows=lambda tasks, row_filter: make_pairwise(row_filter.prompts(tasks), row_filter),
    items=pairwise_items,
    describe=describe,
    verdict=by_side,
    sided=SIDES,
    table="sides",
    beside_reference=True,
)
