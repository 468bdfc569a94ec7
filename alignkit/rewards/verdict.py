"""What every verifier needs: the reference as text, and a verdict as a Score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignkit.rewards.answers import after_hashes, last_boxed
from alignkit.rewards.base import unscorable
from alignkit.types.rollout import StopReason
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task


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
        note = Fault(kind=FaultKind.PARSE, where=where, message="no readable answer in the completion")
        return Score(value=0.0, parts={where: 0.0}, fault=note)
    return Score(value=float(right), parts={where: float(right)})


def bad_gold(task: Task, where: str, wanted: str) -> Score:
    """No value, because the row is at fault and not the policy."""
    got = repr(task.reference)
    shown = got if len(got) <= 60 else got[:57] + "..."
    return unscorable(FaultKind.GOLD, where, f"task {task.id}: the reference is {shown}; wanted {wanted}")
