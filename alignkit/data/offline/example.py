"""One task as token ids."""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Example:
    """One task, tokenised. completion is empty for prompts to be answered, the prompt too where an environment asks.

    action: which completion tokens are to be learnt; None: all of them. opened: what the prompt says of an answer that
    is still to come (data/opened.py).
    """

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...] = ()
    action: tuple[bool, ...] | None = None
    opened: str = ""
