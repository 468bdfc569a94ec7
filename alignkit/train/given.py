"""Sources of given completions with a judgement: pairs, ranked, rated, judged, rewritten ones, and ones in steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from alignkit.data.pairs import Judged, Pair, Rewritten
from alignkit.data.ratings import Ranked, Rated, Stepped, numbers
from alignkit.errors import DataError
from alignkit.train.source import Drawn, Order
from alignkit.types.batch import Item, pack


@dataclass(frozen=True, kw_only=True)
class GivenSource:
    """`size` rows a step, each a group. items: what a row becomes, one of the functions below.

    left_out: share of the data's rows that cannot be learnt from.
    """

    order: Order[Any]
    size: int
    items: Callable[[Any, int], list[Item]]
    share_prefix: bool
    left_out: float = 0.0

    def next(self, cursor: int, version: int) -> Drawn:
        rows = self.order.take(cursor, self.size)
        items = [item for group, row in enumerate(rows) for item in self.items(row, group)]
        cursor += self.size
        return Drawn(
            batch=pack(items, share_prefix=self.share_prefix).validate(),
            cursor=cursor,
            consumed=[row.task.id for row in rows],
            metrics={
                "data/epoch": self.order.epoch(cursor),
                "data/consumed": cursor,
                "data/left_out_frac": self.left_out,
            },
        )


def pair_items(pair: Pair, group: int) -> list[Item]:
    """The chosen and the rejected completion; numbers in columns chosen_NAME and rejected_NAME become channel NAME."""
    rewards = pair.rewards or (0.0, 0.0)
    return [
        Item(
            prompt_ids=pair.prompt,
            completion_ids=completion,
            group=group,
            member=member,
            side=1 - 2 * member,
            reward=rewards[member],
            truncated=pair.cut[member],
            channels=numbers(pair.task.columns, ("chosen_", "rejected_")[member]),
        )
        for member, completion in enumerate((pair.chosen, pair.rejected))
    ]


def duel_items(pair: Pair, group: int) -> list[Item]:
    """The pair in both orders: the answer shown first joins the prompt, the other one is the completion."""
    return [
        replace(own, prompt_ids=(*own.prompt_ids, *other.completion_ids))
        for own, other in permutations(pair_items(pair, group))
    ]


def judged_items(row: Judged, group: int) -> list[Item]:
    """The completion, good or bad; the mismatched one follows it with side 0."""
    side = 1 if row.good else -1
    own = Item(
        prompt_ids=row.prompt, completion_ids=row.completion, group=group, side=side, reward=side, truncated=row.cut
    )
    if not row.mismatched:
        return [own]
    return [own, Item(prompt_ids=row.prompt, completion_ids=row.mismatched, group=group, member=1)]


def rewritten_items(row: Rewritten, group: int) -> list[Item]:
    """The completion, right or wrong; the rewrite of a wrong one follows it with side 0."""
    side = 1 if row.right else -1
    own = Item(
        prompt_ids=row.prompt, completion_ids=row.completion, group=group, side=side, reward=side, truncated=row.cut
    )
    if row.right:
        return [own]
    return [own, Item(prompt_ids=row.prompt, completion_ids=row.rewrite, group=group, member=1)]


def ranked_items(row: Ranked, group: int) -> list[Item]:
    """All completions of the prompt, their scores as rewards."""
    return [
        Item(prompt_ids=row.prompt, completion_ids=completion, group=group, member=member, reward=score)
        for member, (completion, score) in enumerate(zip(row.completions, row.scores, strict=True))
    ]


def rated_items(row: Rated, group: int) -> list[Item]:
    """The completion, its ratings as channels."""
    return [Item(prompt_ids=row.prompt, completion_ids=row.completion, group=group, channels=row.ratings)]


def stepped_items(row: Stepped, group: int) -> list[Item]:
    """The completion; of its tokens those that end a step are actions, and a step's label is paid there."""
    label = dict(zip(row.ends, row.labels, strict=True))
    places = range(len(row.completion))
    return [
        Item(
            prompt_ids=row.prompt,
            completion_ids=row.completion,
            action=[place in label for place in places],
            rewards=[label.get(place, 0.0) for place in places],
            reward=sum(row.labels),
            group=group,
        )
    ]


def check_columns(rows: Sequence[Any], kind: str, wanted: Sequence[str]) -> None:
    """Raises DataError when no row has a rating that the algorithm reads."""
    if not wanted:
        return
    found = {name for row in rows for item in ITEMS[kind](row, 0) for name in item.channels}
    for name in wanted:
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            where = f" (chosen_{name}, rejected_{name})" if kind in ("pairs", "duels") else ""
            raise DataError(f"no row has a rating '{name}'{where}; the data has {known}: rename one with data.columns")


ITEMS = {
    "pairs": pair_items,
    "duels": duel_items,
    "judged": judged_items,
    "rewrites": rewritten_items,
    "ranked": ranked_items,
    "rated": rated_items,
    "steps": stepped_items,
}
"""What a row becomes, by the algorithm's source."""
