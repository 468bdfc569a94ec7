"""How an answer is read in steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRule:
    """split: where a step ends. pattern: a regular expression instead. tag: text put after every step.

    alone: the model says something at the ends of steps only, so that an answer without a step has no score.
    """

    split: Literal["blank_line", "newline", "sentence"]
    pattern: str | None = None
    tag: str = ""
    alone: bool = False
