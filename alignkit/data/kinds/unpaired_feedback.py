"""Unpaired feedback: answers that were called good or bad, each beside an answer to another prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from alignkit.data.kinds.kind import Kind
from alignkit.data.offline.columns import column, label
from alignkit.data.offline.lengths import two_lengths
from alignkit.data.offline.row_filter import RowFilter
from alignkit.errors import DataError
from alignkit.types.item import Item
from alignkit.types.seeds import child
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """A completion that was called good or bad. mismatched: a completion of another prompt, if there is one."""

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    good: bool
    cut: bool = False
    mismatched: tuple[int, ...] = ()


def make_feedback(prompts: Sequence[tuple[Task, list[int]]], row_filter: RowFilter, *, seed: int) -> list[Feedback]:
    """The completions with their feedback, in order; a row with chosen and rejected gives one of each kind.

    Each also gets the completion of another prompt (the next one in an order drawn by the seed), from which KTO
    estimates how far the policy is from the reference. Raises DataError when all feedback is alike.
    """
    rows = [row for task, prompt in prompts for row in _judged(task, prompt, row_filter)]
    if len({row.good for row in rows}) < 2:
        found = f"all {len(rows)} completions are {'good' if rows[0].good else 'bad'}" if rows else "nothing is left"
        why = row_filter.report()
        raise DataError(
            f"{row_filter.data.name}: {found}, so there is nothing to tell apart; give rows with both labels"
            + (f" ({why})" if why else "")
        )
    return _mismatch(rows, row_filter, seed)


def feedback_items(row: Feedback, group: int) -> list[Item]:
    """The completion, good or bad; the mismatched one follows it with side 0."""
    side = 1 if row.good else -1
    own = Item(
        prompt_ids=row.prompt, completion_ids=row.completion, group=group, side=side, reward=side, truncated=row.cut
    )
    if not row.mismatched:
        return [own]
    return [own, Item(prompt_ids=row.prompt, completion_ids=row.mismatched, group=group, member=1)]


def describe(rows: Sequence[Feedback]) -> str:
    """How long the good completions are and how long the bad ones."""
    good, bad = ([row.completion for row in rows if row.good is good] for good in (True, False))
    return two_lengths(good, bad)


KIND = Kind(
    name="unpaired_feedback",
    rows=lambda tasks, row_filter: make_feedback(row_filter.prompts(tasks), row_filter, seed=row_filter.seed),
    items=feedback_items,
    sides=lambda row: (row.completion,),
    describe=describe,
    table="sides",
)


def _judged(task: Task, prompt: list[int], row_filter: RowFilter) -> Iterator[Feedback]:
    columns = task.columns
    if columns.get("completion") is None and columns.get("chosen") is not None:
        answers = [(column(task, "chosen"), True), (column(task, "rejected"), False)]
    else:
        answers = [(column(task, "completion"), label(task))]
    for answer, good in answers:
        row_filter.seen += 1
        ids = row_filter.ids(task, answer)
        if ids is None:
            continue
        fitted, cut = row_filter.fit(task, prompt, [ids])
        if fitted:
            yield Feedback(task=task, prompt=tuple(prompt), completion=tuple(fitted[0]), good=good, cut=cut[0])


def _mismatch(rows: list[Feedback], row_filter: RowFilter, seed: int) -> list[Feedback]:
    from numpy.random import Generator, Philox

    order = Generator(Philox(key=child(seed, "mismatched"))).permutation(len(rows)).tolist()
    result = list(rows)
    for place, index in enumerate(order):
        row = rows[index]
        others = (rows[order[(place + step) % len(order)]] for step in range(1, len(order)))
        other = next((each for each in others if each.prompt != row.prompt), None)
        if other is not None:
            room = row_filter.context - len(row.prompt)
            result[index] = replace(row, mismatched=other.completion[:room])
    return result
