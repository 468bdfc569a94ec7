"""The ways by which a row becomes tokens: one function for each kind of task, from the row as a file holds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignkit.data.kinds.paired_preference import Pair, make_pairs
from alignkit.data.kinds.unpaired_feedback import Feedback, make_feedback
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.transitions import learn
from alignkit.data.prompts import render
from alignkit.data.rendering import render_learnt
from alignkit.data.rows import read_rows
from alignkit.data.tasks import make_task
from alignkit.data.turns import Renderer
from alignkit.recipe.schema import Data
from alignkit.types.task import Task

MEMORY = Path("/dev/shm")
FOLDER = TemporaryDirectory(prefix="alignkit-fuzz-", dir=MEMORY if MEMORY.is_dir() else None)
FILE = Path(FOLDER.name) / "rows.jsonl"
SOURCE = "rows.jsonl"
NAMES = (f"{FILE} line 1", f"{SOURCE}/0")
"""How an error may name the row."""
CONTEXT = 100_000


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What supervised training makes of a row."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    action: tuple[bool, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.completion

    @property
    def runs(self) -> list[tuple[int, int]]:
        """(start, end) in `ids` of each run of learnt tokens."""
        on = [False] * len(self.prompt) + list(self.action)
        starts = [place for place, one in enumerate(on) if one and (place == 0 or not on[place - 1])]
        ends = [place + 1 for place, one in enumerate(on) if one and (place + 1 == len(on) or not on[place + 1])]
        return list(zip(starts, ends, strict=True))


def task_of(row: dict[str, Any], data: Data) -> Task:
    """The row as a task, by way of a file."""
    FILE.write_text(json.dumps(row) + "\n")
    return make_task(read_rows(FILE)[0], data, source=SOURCE, number=0)


def prompt_ids(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> list[int]:
    """What the policy is given to answer these messages."""
    data = Data(source=SOURCE)
    return render(tokenizer, task_of({"prompt": list(messages)}, data), data)


def learnt(tokenizer: Any, row: dict[str, Any], **settings: Any) -> Learnt:
    """What supervised training learns of the row. settings: of `data`."""
    data = Data(source=SOURCE, **settings)
    rendering = render_learnt(tokenizer, task_of(row, data), data)
    return Learnt(prompt=rendering.prompt, completion=rendering.completion, action=rendering.action)


def episode(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> Learnt:
    """What supervised training learns of an episode's (observation, action)."""
    row = {"prompt": "go", "turns": [{"observation": seen, "action": done} for seen, done in turns]}
    renderer = Renderer(tokenizer=tokenizer, chat=True)
    prompt, completion, action = learn(renderer, task_of(row, Data(source=SOURCE)), CONTEXT)
    return Learnt(prompt=tuple(prompt), completion=tuple(completion), action=tuple(action))


def pair(tokenizer: Any, row: dict[str, Any]) -> tuple[Pair | None, RowFilter]:
    """What learning from preferences makes of the row; no pair where it is left out with a reason."""
    data = Data(source=SOURCE)
    task = task_of(row, data)
    row_filter = RowFilter(tokenizer=tokenizer, data=data, context=CONTEXT, unit="pairs")
    prompt = render(tokenizer, task, data)
    try:
        return make_pairs([(task, prompt)], row_filter)[0], row_filter
    except Exception:
        if row_filter.left_out:
            return None, row_filter
        raise


def judged(tokenizer: Any, row: dict[str, Any]) -> list[Feedback]:
    """What learning from judged completions makes of the row's two sides."""
    data = Data(source=SOURCE)
    task = task_of(row, data)
    row_filter = RowFilter(tokenizer=tokenizer, data=data, context=CONTEXT, unit="completions")
    return make_feedback([(task, render(tokenizer, task, data))], row_filter, seed=0)
