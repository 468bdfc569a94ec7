"""What a reward says about a rollout. A failure is data with a cause; it is never the number 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    TIMEOUT = "timeout"  # the deadline passed and the worker was killed
    CRASH = "crash"  # the reward raised, or its worker died
    PARSE = "parse"  # the answer could not be read at all
    GOLD = "gold"  # the reference answer itself cannot be read: the row is at fault, not the policy
    REFUSED = "refused"  # the reward declined to score this row (returned None)
    NOT_A_NUMBER = "not_a_number"  # NaN or infinite
    CONTRACT = "contract"  # wrong count or wrong type of result
    UNREACHABLE = "unreachable"  # a remote scorer did not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why something has no value. `where` names the reward or engine; `message` is one line."""

    kind: FaultKind
    where: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A reward for one rollout.

    value: None means "cannot be scored": the rollout leaves the baseline and the loss.
    parts: the same score broken down by reward name (unweighted), for logs; a part that failed is None.
    steps: one value per reasoning step for process rewards, else None.
    spread: quantiles for distributional rewards, else None.
    fault: set whenever value is None (and may be set beside a value as a note).
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    steps: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None
    fault: Fault | None = None

    def __post_init__(self) -> None:
        if self.value is None and self.fault is None:
            raise ValueError("a Score without a value needs a Fault that says why")
