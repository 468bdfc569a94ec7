"""Multiple choice by likelihood: the model picks the choice that it finds most likely after the question."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.answers import NO_ROOM, Answer, AnswerLog, Model
from alignkit.evaluate.benchmark.grade import Graded
from alignkit.types.task import Task

BLOCK = 16  # questions of one engine call
METRICS = ("acc", "acc_norm")


async def collect_choices(
    model: Model, tasks: Sequence[Task], log: AnswerLog, *, report: Callable[[int], None]
) -> list[list[Graded]]:
    """One grade per task, in order; likelihoods in `log` are not computed again.

    `columns.choices`: the choices as text. The gold answer is the number of the right choice, or one 0/1 label per
    choice. values: acc (the choice of the highest log-prob is right), acc_norm (of the highest log-prob per
    character), and with labels mc2 (share of probability on right choices).
    """
    missing = [task for task in tasks if (task.id, 0) not in log.answers]
    report(len(tasks) - len(missing))
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        log.add(await _answer(model, block))
        report(len(block))
    return [[_graded(task, log.answers[task.id, 0])] for task in tasks]


async def _answer(model: Model, tasks: Sequence[Task]) -> list[Answer]:
    """The log-prob of every choice, as one Answer whose text is the list of them."""
    sequences: list[tuple[int, ...]] = []
    places: list[list[tuple[int, int]] | None] = []
    for task in tasks:
        pairs = [_split(model, task, choice) for choice in _choices(task)]
        if any(len(whole) > model.context - 1 for whole, _ in pairs):
            places.append(None)
            continue
        places.append([(len(sequences) + number, begin) for number, (_, begin) in enumerate(pairs)])
        sequences += [whole for whole, _ in pairs]
    scores = await model.engine.score(sequences) if sequences and model.engine else []
    answers = []
    for task, found in zip(tasks, places, strict=True):
        if found is None:
            answers.append(Answer(task_id=task.id, sample=0, token_ids=(), text="", stop=NO_ROOM))
            continue
        told = [math.fsum(scores[index][begin - 1 :]) for index, begin in found]
        answers.append(Answer(task_id=task.id, sample=0, token_ids=(), text=repr(told), stop="scored"))
    return answers


def _split(model: Model, task: Task, choice: str) -> tuple[tuple[int, ...], int]:
    """(ids of the prompt, a space and the choice; where the choice's ids begin), tokenised as one text."""
    prompt = model.encode(task)
    if task.text is None:
        raise DataError(f"task {task.id}: measure `choices` needs a prompt with `chat: false`")
    whole = model.encode(Task(id=task.id, text=f"{task.text} {choice}"))
    begin = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    return whole, max(1, begin)


def _choices(task: Task) -> list[str]:
    choices = task.columns.get("choices")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) for one in choices):
        raise DataError(f"task {task.id}: `columns.choices` must give two texts or more")
    return choices


def _graded(task: Task, answer: Answer) -> Graded:
    if answer.failed:
        return Graded(task=task, answer=answer, values=dict.fromkeys(METRICS), outcome="failed")
    choices, labels = _choices(task), _labels(task)
    told = [float(value) for value in answer.text.strip("[]").split(",")]
    best = max(range(len(told)), key=lambda number: told[number])
    per_character = max(range(len(told)), key=lambda number: told[number] / len(choices[number]))
    values = {"acc": float(labels[best]), "acc_norm": float(labels[per_character])}
    if isinstance(task.reference, list):
        top = max(told)
        weights = [math.exp(value - top) for value in told]
        mass = sum(weight for weight, right in zip(weights, labels, strict=True) if right) / sum(weights)
        values = {"mc2": mass, **values}
    shown = Answer(task_id=task.id, sample=0, token_ids=answer.token_ids, text=choices[best], stop=answer.stop)
    return Graded(
        task=task,
        answer=shown,
        values=values,
        outcome="right" if labels[best] else "wrong",
        parts={f"logprob_{number}": value for number, value in enumerate(told)},
    )


def _labels(task: Task) -> list[int]:
    gold: Any = task.reference
    size = len(_choices(task))
    if isinstance(gold, list):
        if len(gold) != size or not set(gold) <= {0, 1} or 1 not in gold:
            raise DataError(f"task {task.id}: gold labels {gold} do not fit {size} choices")
        return gold
    if not isinstance(gold, int) or not 0 <= gold < size:
        raise DataError(f"task {task.id}: gold is {gold!r}; wanted the number of one of {size} choices, from 0")
    return [int(number == gold) for number in range(size)]
