"""What `alignkit check` tells of a stage's rows: which tokens are learnt, where sampling stops, which rows repeat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.data.look.spans import Sequenced, spans
from alignkit.errors import DataError
from alignkit.types.item import Item

if TYPE_CHECKING:
    from alignkit.data.rendering import Rendering
    from alignkit.models.tokenizer import StopToken
    from alignkit.recipe.schema import Data, Model
    from alignkit.types.task import Task

SHOWN_IDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a stage of supervised training learns of the rows that were read.

    example: the first row of which something is learnt. without: ids of rows without a learnt token. too_long: of those
    that are longer than the model's context.
    """

    rows: int
    turns: int
    tokens: int
    all_tokens: int
    without: list[str]
    too_long: list[str]
    example: list[Sequenced]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Rows that stand more than once. duplicates: equal in every column. same_prompt: different rows that ask the same.

    Each is a list of ids that belong together.
    """

    duplicates: list[list[str]]
    same_prompt: list[list[str]]


def learnt_of(tokenizer: Any, tasks: Sequence[Task], data: Data, *, context: int | None = None) -> Learnt:
    """Renders every task as supervised training does; what cannot be rendered is left to `checked_prompts`.

    context: most tokens that the model can read; None: not known.
    """
    from alignkit.data.rendering import render_learnt

    renderings = {}
    for task in tasks:
        with suppress(DataError):
            renderings[task.id] = render_learnt(tokenizer, task, data)
    shown = next((one for one in renderings.values() if any(one.action)), None)
    return Learnt(
        rows=len(renderings),
        turns=sum(one.turns for one in renderings.values()),
        tokens=sum(sum(one.action) for one in renderings.values()),
        all_tokens=sum(len(one.prompt) + len(one.completion) for one in renderings.values()),
        without=[name for name, one in renderings.items() if not any(one.action)],
        too_long=[
            name
            for name, one in renderings.items()
            if context is not None and len(one.prompt) + len(one.completion) > context
        ],
        example=[Sequenced(caption="", spans=spans(tokenizer, _item(shown)))] if shown else [],
    )


def _item(rendering: Rendering) -> Item:
    return Item(prompt_ids=rendering.prompt, completion_ids=rendering.completion, action=rendering.action)


def repeats_of(tasks: Sequence[Task]) -> Repeats:
    """The rows that repeat others, by their content."""
    rows: dict[str, list[str]] = defaultdict(list)
    prompts: dict[str, dict[str, str]] = defaultdict(dict)
    for task in tasks:
        prompt = repr((task.messages, task.text))
        row = repr((prompt, task.reference, {name: one for name, one in task.columns.items() if name != "id"}))
        rows[row].append(task.id)
        prompts[prompt].setdefault(row, task.id)
    return Repeats(
        duplicates=[names for names in rows.values() if len(names) > 1],
        same_prompt=[list(names.values()) for names in prompts.values() if len(names) > 1],
    )


def stops_of(tokenizer: Any, model: Model, beside: Path | None) -> list[StopToken]:
    """The tokens at which sampling will stop, by who names them."""
    from alignkit.models.load import locate
    from alignkit.models.tokenizer import stop_tokens

    settings = None
    if model.path is not None:
        from transformers import GenerationConfig

        with suppress(OSError, ValueError):  # not every model has generation settings
            settings = GenerationConfig.from_pretrained(
                locate(str(model.path), beside), revision=model.revision or "main"
            )
    return stop_tokens(tokenizer, settings)


def known_config(model: Model, beside: Path | None) -> Any:
    """The config of the language model; None for one that is built from nothing, and where it is not to be had."""
    from alignkit.errors import ContentError
    from alignkit.models.load import locate
    from alignkit.run.memory.config_of import config_of

    if model.path is None:
        return None
    try:
        return config_of(locate(model.path, beside), model.revision, beside).get_text_config()
    except ContentError:
        return None


def named(ids: Sequence[str]) -> str:
    """The first few ids, and how many more there are."""
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(ids[:SHOWN_IDS]) + more
