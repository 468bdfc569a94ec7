"""How a rollout comes about: what a play is given, what it asks for, and the protocol that all plays fulfil."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from alignkit.types.rollout import Completion, Request, Rollout
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A task, rendered. position: its place in the stage's endless order, which names its randomness.

    completion: the task's own, where there is one. opened: what the prompt says of the answer already, which is judged
    with it. begun: tokens with which every completion begins, written by a guide and not by the policy.
    """

    task: Task
    ids: tuple[int, ...]
    position: int
    completion: tuple[int, ...] = ()
    opened: str = ""
    begun: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RolloutStart:
    """A rollout that is wanted: the prompt, the number of its group within the step, and its own within the group."""

    prompt: Prompt
    group: int
    member: int


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """What a play wants to be said next. ids: the exact tokens before it.

    name: position, member and, in an episode, number of the turn: what its randomness is named by. room: the most
    tokens that fit; None: as many as the settings allow.
    """

    ids: tuple[int, ...]
    name: tuple[int, ...]
    room: int | None = None


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """Who says a play's utterances: an engine with the settings of the stage, perhaps helped by a guide.

    sample: says utterances, all of a call together: a Completion each, in order. request: what an engine is asked for
    one. seed: what a play draws itself is named from it. policy_version: that of the weights.
    """

    sample: Callable[[Sequence[Utterance]], Awaitable[list[Completion]]]
    request: Callable[[Utterance], Request]
    seed: int
    policy_version: int


class Play(Protocol):
    """One way in which rollouts come about. Plays wrap one another: in other starts, or with another speaker."""

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        """The rollouts of `starts`, in their order, with the scores of whoever pays on the way.

        The first member of each group is always among them; others may be missing where it failed.
        """
        ...
