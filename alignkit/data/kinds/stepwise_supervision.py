"""Stepwise supervision, for process reward models: answers in steps, each of them with a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from alignkit.data.chat_template import chat_template
from alignkit.data.kinds.kind import Kind
from alignkit.data.offline.columns import lists, number
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.verdict import Verdict, mean, share
from alignkit.data.rendering import eos_id
from alignkit.data.tokens import plain_ids
from alignkit.types.item import Item
from alignkit.types.task import Task

if TYPE_CHECKING:
    from alignkit.types.batch import Batch
    from alignkit.types.outputs import Judgement


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A completion in steps. ends: place of each step's last token in it. labels: of each step, in [0, 1]."""

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    ends: tuple[int, ...]
    labels: tuple[float, ...]


def make_stepped(prompts: Sequence[tuple[Task, list[int]]], row_filter: RowFilter, *, tag: str = "") -> list[Stepped]:
    """Rows with `steps`, a list of texts that together are the completion, and `labels`, a number for each.

    tag: text put after each step.
    """
    return row_filter.made(prompts, partial(_stepped, tag=tag))


def step_ids(tokenizer: Any, steps: Sequence[str]) -> tuple[list[int], list[int]]:
    """(token ids of the steps one after another with a stop token at the end, place of each step's last token).

    Each step is tokenised by itself, so that where it ends does not depend on what follows. The stop token belongs to
    no step.
    """
    pieces = [plain_ids(tokenizer, step) for step in steps]
    ends = [end - 1 for end in accumulate(map(len, pieces))]
    return [*(token for piece in pieces for token in piece), _turn_end(tokenizer)], ends


def _turn_end(tokenizer: Any) -> int:
    end = chat_template(tokenizer).turn_end_id if tokenizer.chat_template else None
    return eos_id(tokenizer) if end is None else end


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


def by_step(judgement: Judgement, batch: Batch, members: Sequence[int]) -> Verdict:
    """Share of steps on the right side of one half."""
    assert judgement.steps is not None, "a model of steps says their values"
    assert batch.rewards is not None, "the data has labels of steps"
    ends = (batch.segment == members[0]) & batch.action_mask
    right = (judgement.steps[ends] > 0.5) == (batch.rewards[ends] > 0.5)
    return share(right.float().tolist()), mean(judgement.value, members)


KIND = Kind(
    name="stepwise_supervision",
    rows=lambda tasks, row_filter: make_stepped(row_filter.prompts(tasks), row_filter, tag=row_filter.tag),
    items=stepped_items,
    verdict=by_step,
    table="sides",
)


def _stepped(task: Task, prompt: list[int], row_filter: RowFilter, *, tag: str) -> Stepped | None:
    steps, given = lists(task, "steps", "labels")
    labels = [number(label) for label in given]
    if not steps or not all(step.strip() for step in steps):
        return row_filter.leave_out("an empty step")
    if not all(label is not None and 0 <= label <= 1 for label in labels):
        return row_filter.leave_out("a step's label that is not between 0 and 1")
    ids, ends = step_ids(row_filter.tokenizer, [step + tag for step in steps])
    if len({-1, *ends}) <= len(ends):
        return row_filter.leave_out("a step without tokens")
    fitted, _ = row_filter.fit(task, prompt, [ids])
    if not fitted:
        return None
    kept = [(end, label) for end, label in zip(ends, labels, strict=True) if end < len(fitted[0]) and label is not None]
    if not kept:
        return row_filter.leave_out("no whole step within the length limit")
    ends, labels = zip(*kept, strict=True)
    return Stepped(task=task, prompt=tuple(prompt), completion=tuple(fitted[0]), ends=ends, labels=labels)
