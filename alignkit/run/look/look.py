"""`alignkit data`: what a file holds, what alignkit makes of it, and who can train on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.data.look.balance import Balance, balance, said
from alignkit.data.look.near_duplicates import near_duplicates
from alignkit.data.look.sampled_rows import MOST, SampledRows, sample_rows
from alignkit.data.look.spans import Sequenced
from alignkit.data.look.taken_columns import taken_columns
from alignkit.data.rows import Row
from alignkit.data.sources import iterate_source, levelled
from alignkit.data.tasks import make_task
from alignkit.data.tokens import plain_ids
from alignkit.errors import DataError
from alignkit.evaluate.held_out.known_questions import every_protocol, known_questions
from alignkit.recipe.schema import Data
from alignkit.run.check.trained_questions import trained_questions
from alignkit.run.look.trainers import Trainer, stand_in, trainers
from alignkit.types.task import Task, message_text

SHARES = (0.5, 0.9, 0.99, 1.0)
BINS = 8
FAR = "hub:"
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """types: how often it holds a value of which type. taken_for: what of a task comes from it; nothing: ignored."""

    name: str
    types: dict[str, int]
    taken_for: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """percentiles: share -> length. histogram: (longest of the bin, how many), bins of one width up to the longest.

    limit, over: of rows (a prompt and its longest answer) the model's context and how many are longer.
    """

    what: str
    unit: str
    percentiles: dict[float, int]
    histogram: list[tuple[int, int]]
    limit: int | None = None
    over: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All that is known of one source. looked_at: rows of the sample; all but `read`, `columns` and `repeated`, which
    count all rows that were read, speak of these.

    left_out: what is wrong with rows -> (how many, the first sentence). whole: whether no row was left unread.
    near: groups of ids of rows that say nearly the same. asked: sentences on benchmarks. compared: files of these.
    """

    source: str
    read: int
    whole: bool
    looked_at: int
    columns: list[Column]
    tasks: int
    left_out: dict[str, tuple[int, str]]
    forms: dict[str, int]
    lengths: list[Lengths]
    repeated: int
    near: list[list[str]]
    balance: Balance
    asked: list[str]
    compared: int
    trainers: list[Trainer]
    model: str | None
    shown: list[list[Sequenced]]


def look(data: Data, *, rows: int, tokenizer: Any = None, model: str | None = None, beside: Path | None = None) -> Look:
    """Goes through the source once, and looks at a sample of `rows` of it; of a hub dataset at the first ones.

    data: of one source. tokenizer: of the model that is to be trained; None: lengths in characters only, and rows are
    shown with a plain chat template. Raises DataError when the source cannot be read at all.
    """
    return looked(data, rows=rows, tokenizer=tokenizer, model=model, beside=beside)[0]


def looked(data: Data, *, rows: int, tokenizer: Any, model: str | None, beside: Path | None) -> tuple[Look, list[Task]]:
    """As `look`, with the tasks that it looked at."""
    far = data.source.startswith(FAR)  # is streamed, no further than it is looked at
    read = data.model_copy(update={"window": rows}) if far else data
    source, stream = iterate_source(read, seed=0, beside=beside)
    found = sample_rows(islice(stream, data.limit), rows, most=rows if far else MOST)
    sample = levelled(found.sample)
    tasks, left_out = _tasks(sample, found.numbers, data, source)
    who, shown = trainers(tasks, data, tokenizer or stand_in(tasks))
    protocols = list(every_protocol(beside=beside))
    near = near_duplicates([all_said(task) for task in tasks])
    whole = Look(
        source=data.source,
        read=found.read,
        whole=found.whole,
        looked_at=len(sample),
        columns=_columns(found, sample, data),
        tasks=len(tasks),
        left_out=left_out,
        forms=_forms(tasks),
        lengths=_lengths(tasks, tokenizer),
        repeated=found.repeated,
        near=[[tasks[place].id for place in group] for group in near],
        balance=balance(tasks),
        asked=[str(overlap) for overlap in trained_questions(data, tasks, protocols)],
        compared=len(known_questions(protocols)),
        trainers=who,
        model=model,
        shown=shown,
    )
    return whole, tasks


def _columns(found: SampledRows, sample: Sequence[Row], data: Data) -> list[Column]:
    taken = taken_columns(sample, data)
    return [Column(name=name, types=dict(types), taken_for=taken.get(name, [])) for name, types in found.types.items()]


def _tasks(
    rows: Sequence[Row], numbers: Sequence[int], data: Data, source: str
) -> tuple[list[Task], dict[str, tuple[int, str]]]:
    tasks = []
    wrong: dict[str, list[str]] = {}
    for number, row in zip(numbers, rows, strict=True):
        try:
            tasks.append(make_task(row, data, source=source, number=number, elsewhere=lambda path: True))
        except DataError as error:
            problem = str(error).removeprefix(f"{row.where}: ")
            wrong.setdefault(problem.split(";")[0][:60], []).append(str(error))
    return tasks, {problem: (len(sentences), sentences[0]) for problem, sentences in wrong.items()}


def _forms(tasks: Sequence[Task]) -> dict[str, int]:
    """How the prompts are given, and what else templates meet."""
    forms: Counter[str] = Counter()
    for task in tasks:
        messages = task.messages or ()
        forms["texts as they are, without a chat template"] += task.messages is None
        forms["whole conversations"] += task.conversation
        forms["prompts in messages"] += task.messages is not None and not task.conversation
        forms["with a system message"] += any(message["role"] == "system" for message in messages)
        forms["with tools"] += bool(task.columns.get("tools"))
        forms["with settings of the chat template"] += bool(task.columns.get("chat_template_kwargs"))
        forms["with several turns of the user"] += sum(message["role"] == "user" for message in messages) > 1
    return {name: count for name, count in forms.items() if count}


def _answers(task: Task) -> list[str]:
    columns = task.columns
    given = [columns.get(name) for name in ("completion", "chosen", "rejected")]
    several = columns.get("completions") or columns.get("steps") or []
    return [said(answer) for answer in [*given, *(several if isinstance(several, list) else [])] if answer is not None]


def _asked(task: Task) -> str:
    return (task.text or "") if task.messages is None else "\n".join(map(message_text, task.messages))


def all_said(task: Task) -> str:
    """Prompt and answers, line by line."""
    return "\n".join([_asked(task), *_answers(task)])


def _lengths(tasks: Sequence[Task], tokenizer: Any) -> list[Lengths]:
    asked = [text for task in tasks if (text := _asked(task))]
    answers = [answer for task in tasks for answer in _answers(task)]
    told = [(what, texts) for what, texts in (("prompts", asked), ("answers", answers)) if texts]
    found = [lengths(what, "characters", [*map(len, texts)]) for what, texts in told]
    if tokenizer is None or not told:
        return found
    count = cache(lambda text: len(plain_ids(tokenizer, text)))
    found += [lengths(what, "tokens", [*map(count, texts)]) for what, texts in told]
    whole = [count(_asked(task)) + max(map(count, _answers(task)), default=0) for task in tasks]
    return [*found, lengths("rows", "tokens", whole, limit=int(tokenizer.model_max_length))]


def lengths(what: str, unit: str, counts: Sequence[int], *, limit: int | None = None) -> Lengths:
    """Percentiles (the least length that so many do not exceed) and a histogram of lengths, of which there is one."""
    values = np.sort(np.asarray(counts))
    width = -(-max(int(values[-1]), 1) // BINS)
    inside, _ = np.histogram(values, bins=np.arange(BINS + 1) * width + 0.5)
    inside[0] += int((values < 1).sum())
    return Lengths(
        what=what,
        unit=unit,
        percentiles={share: int(values[max(int(np.ceil(share * len(values))) - 1, 0)]) for share in SHARES},
        histogram=[((place + 1) * width, int(count)) for place, count in enumerate(inside)],
        limit=limit,
        over=None if limit is None else int((values > limit).sum()),
    )
