"""Which methods can train on rows, by letting each try."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.data.asked import check_asked
from alignkit.data.kinds.kind import Kind
from alignkit.data.look.spans import Sequenced, sequences, spans
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.prompts import render
from alignkit.errors import DataError, first_line
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.lookup.methods import methods
from alignkit.recipe.read import read_recipe, resolve_algorithm
from alignkit.recipe.schema import Data
from alignkit.types.item import Item
from alignkit.types.task import Task

TRIED, SHOWN = 200, 3
NO_LIMIT = 10**9
PLAIN = (
    "{% for tool in tools or [] %}<tool>{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}<{{ message.role }}>\n"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>\n{% endif %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call | tojson }}{% endfor %}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
"""A chat template that shows all there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """method: a recipe for anyone's model. kind: of the data that it reads. rows: how many of the rows it can use.

    problem: why it can use none; None where it can. left_out: why it leaves out some.
    """

    method: str
    kind: str
    samples: bool
    rows: int
    problem: str | None
    left_out: dict[str, int]


def trainers(tasks: Sequence[Task], data: Data, tokenizer: Any) -> tuple[list[Trainer], list[list[Sequenced]]]:
    """What every method makes of the first 200 tasks, and the first rows as the first of them reads them.

    Methods that play in an environment ask no rows and are left out.
    """
    found: list[Trainer] = []
    shown: dict[str, list[list[Sequenced]]] = {}
    tried = tasks[:TRIED]
    for method in methods():
        recipe = read_recipe(method, ["model.path=MODEL", "data.source=hub:any/rows"])  # the tasks are there already
        algorithm, config = resolve_algorithm(recipe.stages[0], recipe)
        kind, steps = kind_of(algorithm.source), algorithm.steps(config)
        if kind.environment == "must" or not tried:
            continue
        row_filter = _row_filter(tokenizer, data, kind, tag=steps.tag if steps else "")
        rows, problem = _tried(tried, kind, row_filter)
        one = Trainer(
            method=method,
            kind=kind.name,
            samples=kind.samples,
            rows=len(rows),
            problem=problem,
            left_out=dict(row_filter.reasons),
        )
        found.append(one)
        if kind.name not in shown and rows:
            shown[kind.name] = _shown(tokenizer, kind, rows[:SHOWN], data)
    # who has pairs, or labels, has them for a reason: what only reads conversations or prompts can use all rows
    found.sort(key=lambda one: (one.problem is not None, one.samples, kind_of(one.kind).table != "sides"))
    return found, shown.get(found[0].kind, []) if found and found[0].problem is None else []


def stand_in(tasks: Sequence[Task]) -> Any:
    """A tokenizer of single characters that knows all of the tasks', with a plain chat template."""
    letters = {*string.printable} | _letters([[task.messages, task.text, task.columns] for task in tasks[:TRIED]])
    tokenizer = character_tokenizer("".join(sorted(letters)), context=NO_LIMIT)
    tokenizer.chat_template = PLAIN
    return tokenizer


def _letters(value: Any) -> set[str]:
    """All characters of all texts within."""
    if isinstance(value, str):
        return set(value)
    if isinstance(value, Mapping):
        return _letters([*value.keys(), *value.values()])
    return set().union(*map(_letters, value)) if isinstance(value, list | tuple) else set(str(value))


def _row_filter(tokenizer: Any, data: Data, kind: Kind, *, tag: str) -> RowFilter:
    context = int(tokenizer.model_max_length)
    limits = {"long_prompts": "filter", "long_completions": "filter", "max_prompt_tokens": context}
    lenient = data.model_copy(update=limits)
    return RowFilter(tokenizer=tokenizer, data=lenient, context=context, unit=kind.unit, tag=tag)


def _tried(tasks: Sequence[Task], kind: Kind, row_filter: RowFilter) -> tuple[Sequence[Any], str | None]:
    """(the rows that it can use, why there are none)."""
    try:
        if kind.rows is not None:
            return kind.rows(tasks, row_filter), None
        check_asked(tasks)
        return row_filter.prompts(tasks), None
    except DataError as error:
        return [], first_line(error)


def _shown(tokenizer: Any, kind: Kind, rows: Sequence[Any], data: Data) -> list[list[Sequenced]]:
    if kind.rows is not None:
        return [sequences(tokenizer, kind, row) for row in rows]
    prompts = [Item(prompt_ids=render(tokenizer, task, data), completion_ids=()) for task, _ in rows]
    return [[Sequenced(caption="the policy answers", spans=spans(tokenizer, item))] for item in prompts]
