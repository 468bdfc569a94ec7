"""How the answers of rows are judged: labels, preferences, references, steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from alignkit.data.kinds.paired_preference import SIDES
from alignkit.data.offline.columns import TRUTH, number, numbers
from alignkit.types.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """equal: both sides say the same. chosen_longer: share of pairs whose chosen side has more characters.

    margins: of each rating that both sides have (chosen_NAME, rejected_NAME): the mean lead of the chosen one, and the
    share of pairs in which it does not lead.
    """

    count: int
    equal: int
    chosen_longer: float
    margins: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What is known of the tasks' answers; 0 and None where there is nothing to know.

    good, bad, neither: labels of answers. steps_good, steps: of all labels of steps those above one half. references:
    tasks with a gold answer. distinct_references: how many different ones.
    """

    good: int
    bad: int
    neither: int
    pairs: Pairs | None
    steps_good: int
    steps: int
    references: int
    distinct_references: int


def balance(tasks: Sequence[Task]) -> Balance:
    """Counts over all tasks."""
    labels = [
        TRUTH.get(str(task.columns["label"]).strip().lower())
        for task in tasks
        if task.columns.get("label") is not None and task.columns.get("completion") is not None
    ]
    steps = [value for task in tasks for value in _step_labels(task)]
    references = [task.reference for task in tasks if task.reference is not None]
    sided = [task for task in tasks if all(task.columns.get(side) is not None for side in ("chosen", "rejected"))]
    return Balance(
        good=labels.count(True),
        bad=labels.count(False),
        neither=labels.count(None),
        pairs=_pairs(sided) if sided else None,
        steps_good=sum(value > 0.5 for value in steps),
        steps=len(steps),
        references=len(references),
        distinct_references=len({str(reference) for reference in references}),
    )


def said(answer: Any) -> str:
    """An answer as text: of messages their contents."""
    if isinstance(answer, str):
        return answer
    return "\n".join(str(message.get("content") or "") for message in answer) if isinstance(answer, list) else ""


def _pairs(tasks: Sequence[Task]) -> Pairs:
    sides = [(said(task.columns["chosen"]), said(task.columns["rejected"])) for task in tasks]
    leads: dict[str, list[float]] = {}
    for task in tasks:
        chosen, rejected = (numbers(task.columns, side) for side in SIDES)
        chosen |= _scored(task, "score_chosen")
        rejected |= _scored(task, "score_rejected")
        for name in chosen.keys() & rejected.keys():
            leads.setdefault(name, []).append(chosen[name] - rejected[name])
    return Pairs(
        count=len(tasks),
        equal=sum(
            chosen == rejected and task.columns["chosen"] == task.columns["rejected"]
            for task, (chosen, rejected) in zip(tasks, sides, strict=True)
        ),
        chosen_longer=fmean(len(chosen) > len(rejected) for chosen, rejected in sides),
        margins={name: (fmean(lead), fmean(one <= 0 for one in lead)) for name, lead in sorted(leads.items())},
    )


def _scored(task: Task, name: str) -> dict[str, float]:
    """UltraFeedback's name of a rating."""
    value = number(task.columns.get(name))
    return {} if value is None else {"score": value}


def _step_labels(task: Task) -> Iterable[float]:
    labels = task.columns.get("labels") if task.columns.get("steps") is not None else None
    return (value for label in labels if (value := number(label)) is not None) if isinstance(labels, list) else ()
