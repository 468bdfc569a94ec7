"""What a reward says about a rollout. A failure is data with a cause; it is never the number 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    TIMEOUT = "timeout"  # the deadline passed and the worker was killed
    CRASH = "crash"  # the reward raised, or its worker died
    MEMORY = "memory"  # it needed more memory than its worker may have
    PARSE = "parse"  # the answer could not be read at all
    GOLD = "gold"  # the reference answer itself cannot be read: the row is at fault, not the policy
    REFUSED = "refused"  # the reward declined to score this row (returned None)
    ABSTAINED = "abstained"  # a TRL function returned None: the row is not its own, other rewards may score it
    NOT_A_NUMBER = "not_a_number"  # NaN or infinite
    CONTRACT = "contract"  # wrong count or wrong type of result
    UNREACHABLE = "unreachable"  # a remote scorer did not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why something has no value. `where` names the reward or engine; `message` is one line."""

    kind: FaultKind
    where: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class StepScore:
    """What a process reward says about one step of an utterance; the whole utterance may be one, or a token.

    end: the character of the utterance's text after the step's last, so that steps need no tokenizer. turn: number of
    the utterance, from 0; -1 is the last one, which is `Rollout.text`.
    """

    end: int
    value: float
    turn: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A reward for one rollout.

    value: None means "cannot be scored": the rollout leaves the baseline and the loss.
    parts: the same score broken down by reward name (unweighted), for logs; a part that failed is None.
    steps: of process rewards the steps in the order of the text; () for a completion without any. Else None.
    spread: of distributional rewards the quantiles at the levels j / (M + 1), j = 1..M. Else None.
    members: of ensembles each model's own value, always as many and in the same order. Else None.
    fault: set whenever value is None (and may be set beside a value as a note).
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    steps: tuple[StepScore, ...] | None = None
    spread: tuple[float, ...] | None = None
    members: tuple[float, ...] | None = None
    fault: Fault | None = None

    def __post_init__(self) -> None:
        if self.value is None and self.fault is None:
            raise ValueError("a Score without a value needs a Fault that says why")
