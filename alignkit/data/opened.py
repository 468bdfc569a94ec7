"""What a prompt has said of its answer before the policy begins."""

from __future__ import annotations

from typing import Any

from alignkit.data.chat_template import OPEN_TAG, chat_template
from alignkit.data.rendering import continues
from alignkit.recipe.schema import Data
from alignkit.types.task import Task


def opened(tokenizer: Any, task: Task, data: Data) -> str:
    """What the prompt already holds of the answer: a tag that its end leaves open (`<think>`), or the beginning of the
    message that the policy goes on with. It belongs to the text that is judged."""
    if task.messages is None:
        tag = OPEN_TAG.search(task.text or "")
        return tag.group() if tag else ""
    if continues(task.messages):
        return task.messages[-1]["content"]
    return chat_template(tokenizer, data.chat_template_kwargs).opened
