"""One verdict of a health rule, as the panel, the event log and the report show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """name: the rule. level: `stop` ends the run. sentence: what was seen, with numbers. advice: what to do."""

    name: str
    level: Literal["ok", "warn", "stop"]
    sentence: str
    advice: str = ""
