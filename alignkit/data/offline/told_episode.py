"""An episode as a model reads it that is told what the policy is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignkit.data.offline.transitions import learn
from alignkit.data.turns import Renderer
from alignkit.environments.base import PRIVILEGED
from alignkit.errors import DataError
from alignkit.types.item import Item
from alignkit.types.task import Task


def told_episode(renderer: Renderer, task: Task, turns: Sequence[Mapping[str, Any]], limit: int) -> Item:
    """The sequence of `turns`, a list of {observation, action}, with the task's column `privileged` ahead of the first
    observation: in chats a paragraph of the same message, else as it stands. Utterances are its actions.

    Raises DataError where the column is missing, empty or no text, and for what `learn` refuses.
    """
    told = task.columns.get(PRIVILEGED)
    if not isinstance(told, str) or not told:
        wanted = "text, of a column (data.columns renames one) or of info of an environment's first observation"
        raise DataError(f"task {task.id}: '{PRIVILEGED}' is {told!r}; wanted {wanted}")
    if turns and isinstance(turns[0], Mapping):
        first = told + "\n\n" * renderer.chat + str(turns[0].get("observation", ""))
        turns = [{**turns[0], "observation": first}, *turns[1:]]
    prompt, completion, action = learn(renderer, replace(task, columns={"turns": turns}), limit)
    return Item(prompt_ids=prompt, completion_ids=completion, action=action)
