"""What an algorithm made of one turn of a conversation, as the rollouts' table, the panel and the report show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnValue:
    """q: the critic's value of the utterance. v: of the state before it. advantage: mean over the utterance's tokens.

    Each is None where the algorithm has no such number.
    """

    q: float | None = None
    v: float | None = None
    advantage: float | None = None
