"""What reward models learn from besides pairs: ranked answers, rated answers, answers with labelled steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

from alignkit.data.pairs import TRUTH, Sieve, column
from alignkit.data.prompts import plain_ids
from alignkit.errors import DataError
from alignkit.types.task import Task

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Several completions of one prompt and a number for each: the higher, the better; equal ones are ties."""

    task: Task
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A completion and the numbers in its row, by column."""

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    ratings: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A completion in steps. ends: place of each step's last token in it. labels: of each step, in [0, 1]."""

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    ends: tuple[int, ...]
    labels: tuple[float, ...]


def make_ranked(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve) -> list[Ranked]:
    """Rows with `completions` and `scores`, lists of one length; fewer than two answers teach nothing."""
    return _made(prompts, sieve, _ranked)


def make_rated(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve) -> list[Rated]:
    """Rows with `completion`; every other column that holds a number (or true or false) is a rating."""
    return _made(prompts, sieve, _rated)


def make_stepped(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve, *, tag: str = "") -> list[Stepped]:
    """Rows with `steps`, a list of texts that together are the completion, and `labels`, a number for each.

    tag: text put after each step.
    """
    return _made(prompts, sieve, partial(_stepped, tag=tag))


def numbers(columns: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The columns whose names begin with `prefix` and which hold a finite number, true or false; without the prefix."""
    found = {name.removeprefix(prefix): _number(value) for name, value in columns.items() if name.startswith(prefix)}
    return {name: value for name, value in found.items() if value is not None}


def step_ids(tokenizer: Any, steps: Sequence[str]) -> tuple[list[int], list[int]]:
    """(token ids of the steps one after another with a stop token at the end, place of each step's last token).

    Each step is tokenised by itself, so that where it ends does not depend on what follows. The stop token belongs to
    no step.
    """
    pieces = [plain_ids(tokenizer, step) for step in steps]
    ends = [end - 1 for end in accumulate(map(len, pieces))]
    return [*(token for piece in pieces for token in piece), tokenizer.eos_token_id], ends


def _made(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve, make: Callable[..., Row | None]) -> list[Row]:
    rows = []
    for task, prompt in prompts:
        sieve.given += 1
        row = make(task, prompt, sieve)
        if row is not None:
            rows.append(row)
    if not rows:
        raise DataError(sieve.report() or f"{sieve.data.name}: no row is left to train on")
    return rows


def _ranked(task: Task, prompt: list[int], sieve: Sieve) -> Ranked | None:
    answers, scores = _lists(task, "completions", "scores")
    sides = [ids for answer in answers if (ids := sieve.ids(task, answer)) is not None]
    if len(sides) < len(answers):
        return None
    if len(sides) < 2:
        return sieve.leave_out("fewer than two completions")
    values = [_number(score) for score in scores]
    if any(value is None for value in values):
        return sieve.leave_out("a score that is not a finite number")
    fitted, _ = sieve.fit(task, prompt, sides)
    if not fitted:
        return None
    return Ranked(
        task=task,
        prompt=tuple(prompt),
        completions=tuple(map(tuple, fitted)),
        scores=tuple(value for value in values if value is not None),
    )


def _rated(task: Task, prompt: list[int], sieve: Sieve) -> Rated | None:
    ids = sieve.ids(task, column(task, "completion"))
    if ids is None:
        return None
    ratings = numbers({name: value for name, value in task.columns.items() if name != "completion"})
    if not ratings:
        return sieve.leave_out("no rating")
    fitted, _ = sieve.fit(task, prompt, [ids])
    return Rated(task=task, prompt=tuple(prompt), completion=tuple(fitted[0]), ratings=ratings) if fitted else None


def _stepped(task: Task, prompt: list[int], sieve: Sieve, *, tag: str) -> Stepped | None:
    steps, given = _lists(task, "steps", "labels")
    labels = [_number(label) for label in given]
    if not steps or not all(step.strip() for step in steps):
        return sieve.leave_out("an empty step")
    if not all(label is not None and 0 <= label <= 1 for label in labels):
        return sieve.leave_out("a step's label that is not between 0 and 1")
    ids, ends = step_ids(sieve.tokenizer, [step + tag for step in steps])
    if len({-1, *ends}) <= len(ends):
        return sieve.leave_out("a step without tokens")
    fitted, _ = sieve.fit(task, prompt, [ids])
    if not fitted:
        return None
    kept = [(end, label) for end, label in zip(ends, labels, strict=True) if end < len(fitted[0]) and label is not None]
    if not kept:
        return sieve.leave_out("no whole step within the length limit")
    ends, labels = zip(*kept, strict=True)
    return Stepped(task=task, prompt=tuple(prompt), completion=tuple(fitted[0]), ends=ends, labels=labels)


def _lists(task: Task, *names: str) -> tuple[list[Any], list[Any]]:
    first, second = (column(task, name) for name in names)
    if not isinstance(first, list) or not isinstance(second, list) or len(first) != len(second):
        raise DataError(f"task {task.id}: {names[0]} and {names[1]} must be two lists of one length")
    return first, second


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = TRUTH.get(value.strip().lower(), value)
    try:
        number = float(value) if not isinstance(value, list | dict) else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
