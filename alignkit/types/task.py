"""What is asked of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]
"""One chat message in the Hugging Face convention: {"role": ..., "content": ...}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt and what is needed to judge an answer to it.

    id: stable over runs, unique in its source (the ledger of consumed prompts is kept by it).
    messages: the conversation to answer; None when the source gives plain text.
    text: the plain-text prompt; None when `messages` is given. Exactly one of the two is set.
    reference: gold answer, or None when there is none.
    columns: every other column of the source row, handed to reward functions by name.
    """

    id: str
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    reference: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.text is None):
            raise ValueError(f"task {self.id}: exactly one of messages and text must be given")
