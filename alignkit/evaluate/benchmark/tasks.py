"""From a benchmark's rows to tasks: templates filled, worked examples put before, a seeded subset chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.data import Columns, check_tasks, load_rows
from alignkit.evaluate.benchmark.protocol import Named, Shots
from alignkit.types.seeds import child
from alignkit.types.task import Message, Task

GROUP = "group"  # the column of a Task that holds its category


def load_benchmark(named: Named, *, data: Path | None, seed: int) -> list[Task]:
    """All tasks of a protocol, in the data's order.

    Task.columns: those that the protocol defines, `group`, and `question` (the prompt without worked examples).
    Raises DataError when data are missing, are not those that the protocol means, or do not fill its templates.
    """
    protocol, owner = named.protocol, named.name
    prompt = protocol.prompt
    assert prompt is not None, "a Protocol has a prompt"
    rows, origin = load_rows(protocol.source, owner=owner, data=data, seed=seed)
    stem = f"{origin}:{seed}" if protocol.source.generator else _stem(protocol.source.file or origin)
    questions = [_text(prompt.template, row, owner) for row in rows]
    golds = [_value(protocol.gold, row, owner) if protocol.gold else None for row in rows]
    if origin.startswith("hub:"):
        check_tasks(protocol.source, list(zip(questions, golds, strict=True)), owner)
    tasks = []
    for number, (row, question, gold, shots) in enumerate(
        zip(rows, questions, golds, _shots(named, len(rows), data), strict=True)
    ):
        name = _value(protocol.id, row, owner) if protocol.id else number
        columns = {column: _value(expression, row, owner) for column, expression in protocol.columns.items()}
        group = str(_value(protocol.group, row, owner)) if protocol.group else None
        text = shots + question
        tasks.append(
            Task(
                id=f"{stem}/{name}",
                messages=_messages(prompt.system, text) if prompt.chat else None,
                text=None if prompt.chat else text,
                reference=gold,
                columns={**columns, GROUP: group, "question": question},
            )
        )
    if len({task.id for task in tasks}) < len(tasks):
        raise DataError(f"{owner}: `id` gives two rows the same name")
    return tasks


def choose(tasks: Sequence[Task], limit: int | None, seed: int) -> list[Task]:
    """`limit` tasks drawn by the seed, in the given order; a larger limit adds tasks and takes none away."""
    if limit is None or limit >= len(tasks):
        return list(tasks)
    drawn = sorted(tasks, key=lambda task: child(seed, "subset", task.id))[:limit]
    names = {task.id for task in drawn}
    return [task for task in tasks if task.id in names]


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop texts, and all of it when there is none."""
    places = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(places)] if places else text


def _messages(system: str | None, text: str) -> tuple[Message, ...]:
    user: Message = {"role": "user", "content": text}
    return ({"role": "system", "content": system}, user) if system else (user,)


def _shots(named: Named, count: int, data: Path | None) -> Iterator[str]:
    """The worked examples before each of `count` questions, as one text that ends with the separator."""
    prompt = named.protocol.prompt
    shots = prompt.shots if prompt else None
    if prompt is None or shots is None:
        yield from [""] * count
        return
    if shots.source is None:
        yield from [_joined(prompt.template, shots, shots.rows, named.name)] * count
        return
    rows, _ = load_rows(shots.source, owner=named.name, data=data, seed=shots.seed)
    random = Random(shots.seed)
    for _ in range(count):
        yield _joined(prompt.template, shots, random.sample(rows, shots.count or 1), named.name)


def _joined(template: str, shots: Shots, rows: Sequence[Columns], owner: str) -> str:
    return "".join(_text(template, row, owner) + _text(shots.answer, row, owner) + shots.separator for row in rows)


def _text(template: str, row: Columns, owner: str) -> str:
    from jinja2 import TemplateError

    try:
        return _template(template).render(row, row=row)
    except TemplateError as error:
        raise DataError(f"{owner}: a template does not fit the row: {error}; it has {', '.join(row)}") from error


def _value(expression: str, row: Columns, owner: str) -> Any:
    from jinja2 import TemplateError

    try:
        value = _expression(expression)(**{**row, "row": row})
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{owner}: `{expression}` does not fit the row: {error}; it has {', '.join(row)}") from error
    if type(value).__name__.endswith("Undefined"):
        raise DataError(f"{owner}: `{expression}` is not in the row; it has {', '.join(row)}")
    return list(value) if isinstance(value, map | filter | range | tuple) or hasattr(value, "__next__") else value


@cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@cache
def _template(text: str) -> Any:
    return _environment().from_string(text)


@cache
def _expression(text: str) -> Any:
    return _environment().compile_expression(text, undefined_to_none=False)


def _stem(file: str) -> str:
    for suffix in (".gz", ".jsonl", ".csv", ".json", ".parquet"):
        file = file.removesuffix(suffix)
    return file
