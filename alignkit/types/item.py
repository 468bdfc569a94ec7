"""One sequence on its way into a batch. Knows no torch: what makes items of offline data does not need it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One sequence on its way into a batch. Items of the same `group` and prompt that follow one another share it."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    action: Sequence[bool] | None = None  # None: every completion token was chosen by the policy
    sampler_logprobs: Sequence[float] | None = None
    group: int = 0
    member: int | None = (
        None  # of the group, the same for all sequences of a rollout; None: this is a rollout by itself
    )
    reward: float = 0.0
    rewards: Sequence[float] | None = None  # per completion token; None: all of `reward` on the last action token
    side: int = 0
    truncated: bool = False
    policy_version: int = -1
    channels: Mapping[str, float] = field(default_factory=dict)
    turn: Sequence[int] | None = None  # per completion token, number of its turn; None: chosen tokens in a row are one
    turn_channels: Mapping[str, Sequence[float | str]] = field(default_factory=dict)  # one entry per turn
    fork: int = 0  # tokens of the group's first completion that come between the prompt and these


def members(items: Sequence[Item]) -> list[int]:
    """The number of each item's rollout in its group: its own, or else how many items of the group came before."""
    before: Counter[int] = Counter()
    numbers = []
    for item in items:
        numbers.append(before[item.group] if item.member is None else item.member)
        before[item.group] += 1
    return numbers
