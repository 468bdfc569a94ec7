"""What every verifier needs: the reference as text, one vocabulary of outcomes, and an outcome as a Score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from alignkit.rewards.base import unscorable
from alignkit.rewards.verify.answers import after_hashes, last_boxed
from alignkit.types.rollout import StopReason
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task


class Outcome(StrEnum):
    """What a verifier can say of an answer. Only `right` pays; a row with a gold error has no value at all."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # there is no answer that could be read
    TIMEOUT = "timeout"  # judging it took too long
    CRASHED = "crashed"  # judging it failed, or the answer was a program that did
    GOLD_ERROR = "gold_error"  # the reference is at fault


FAULTS = {
    Outcome.UNPARSED: FaultKind.PARSE,
    Outcome.TIMEOUT: FaultKind.TIMEOUT,
    Outcome.CRASHED: FaultKind.CRASH,
    Outcome.GOLD_ERROR: FaultKind.GOLD,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of a reward's SELF_TEST: what it must say about `completion`. The contract tests run all of them.

    expected: the value, or the FaultKind that leaves it without one. The completion counts one token per character.
    """

    completion: str
    expected: float | FaultKind
    reference: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    stop: StopReason = StopReason.END_OF_TEXT


def gold_text(task: Task) -> str | None:
    """The task's reference answer as text, or None when there is none.

    Numbers become text; of a worked solution only the answer counts: what follows its last `####` (GSM8K) or stands
    in its last `\\boxed{...}` (MATH).
    """
    reference = task.reference
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        return repr(reference) if math.isfinite(reference) else None
    if not isinstance(reference, str):
        return None
    if "####" in reference:
        return after_hashes(reference)
    return (last_boxed(reference) if "\\boxed" in reference else reference.strip()) or None


def verdict(right: bool | None, where: str) -> Score:
    """1 for right, 0 for wrong, and 0 with a PARSE note for an answer that could not be read (None)."""
    if right is None:
        return judged(Outcome.UNPARSED, where, "no readable answer in the completion")
    return judged(Outcome.RIGHT if right else Outcome.WRONG, where)


def judged(outcome: Outcome, where: str, message: str = "") -> Score:
    """An outcome as a Score: 1 for right, no value for a gold error, 0 for all others, with a note that says why."""
    kind = FAULTS.get(outcome)
    if outcome is Outcome.GOLD_ERROR:
        return unscorable(FaultKind.GOLD, where, message)
    value = 1.0 if outcome is Outcome.RIGHT else 0.0
    note = None if kind is None else Fault(kind=kind, where=where, message=message)
    return Score(value=value, parts={where: value}, fault=note)


def outcome_of(score: Score) -> Outcome:
    """The outcome behind any verifier's Score, also one that the pool gave up on. Right means the full value, 1."""
    if score.fault is not None:
        kinds = {kind: outcome for outcome, kind in FAULTS.items()}
        return kinds.get(score.fault.kind, Outcome.CRASHED)
    return Outcome.RIGHT if score.value is not None and score.value >= 1.0 else Outcome.WRONG


def bad_gold(task: Task, where: str, wanted: str) -> Score:
    """No value, because the row is at fault and not the policy."""
    got = repr(task.reference)
    shown = got if len(got) <= 60 else got[:57] + "..."
    return unscorable(FaultKind.GOLD, where, f"task {task.id}: the reference is {shown}; wanted {wanted}")
