"""TrainingTraces as data: their chains by their own tokens, whole or as the turns of episodes that were paid."""

from __future__ import annotations

import math
from itertools import groupby

from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.transitions import Transition, transitions_of
from alignkit.data.traces.training_trace import check_tokens, from_training_trace, is_trace
from alignkit.errors import DataError
from alignkit.types.item import Item
from alignkit.types.task import Task

NOTHING = "no learnt token"


def chains_of(task: Task, row_filter: RowFilter, *, reward: float = 0.0) -> list[Item]:
    """The chains of a task's TrainingTrace that fit the model's context, each paid `reward`; the others are counted.

    Raises DataError for what is no trace, or a trace of another tokenizer.
    """
    where = f"task {task.id}"
    chains = from_training_trace(task.columns, where=where, reward=reward)
    check_tokens(task.columns, row_filter.tokenizer, where=where)
    row_filter.seen += max(1, len(chains))
    if not chains:
        row_filter.leave_out(NOTHING)
    fitting = [item for item in chains if len(item.prompt_ids) + len(item.completion_ids) <= row_filter.context]
    for _ in range(len(chains) - len(fitting)):
        row_filter.leave_out("a trace longer than the model's context")
    return fitting


def episodes_of(task: Task, row_filter: RowFilter) -> list[list[Transition]]:
    """The episodes of a task's column `turns`: one of observations and actions, of a TrainingTrace one for each chain.

    A trace's column `reward` is what its rollout earned; each of its chains is paid that, on its last utterance. Tokens
    that its masks leave out are what was answered. Raises DataError for other columns and where no reward is.
    """
    if not is_trace(task.columns.get("turns")):
        return [transitions_of(row_filter.renderer, task, row_filter.context)]
    reward = task.columns.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise DataError(
            f"task {task.id}: a trace knows no rewards and its column `reward` is {reward!r}; wanted a number beside "
            "`turns`, what the rollout earned"
        )
    return [_turns(item) for item in chains_of(task, row_filter, reward=float(reward))]


def _turns(item: Item) -> list[Transition]:
    """Each run of learnt tokens of one call is an utterance; the last one is paid the item's reward."""
    ids, runs = tuple(item.completion_ids), _runs(item)
    turns = []
    for (begin, end), (following, _) in zip(runs, [*runs[1:], (None, None)], strict=True):
        answer, paid = ((), item.reward) if following is None else (ids[end:following], 0.0)
        turns.append(Transition((*item.prompt_ids, *ids[:begin]), ids[begin:end], answer, paid))
    return turns


def _runs(item: Item) -> list[tuple[int, int]]:
    """Where the completion's learnt tokens begin and end, call by call."""
    marks = zip(item.action or (), item.turn or (), range(len(item.completion_ids)), strict=True)
    runs = [(said, [place for _, _, place in run]) for (said, _), run in groupby(marks, key=lambda mark: mark[:2])]
    return [(places[0], places[-1] + 1) for said, places in runs if said]
