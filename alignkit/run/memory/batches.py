"""The batches that need the most memory of all that a stage's limits allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.data.kinds.kind import Kind
from alignkit.recipe.schema import Stage
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one stage, in tokens and sequences.

    group: sequences of one prompt. groups: prompts of one optimizer step. whole: a group is never cut. given: the data
    sets how long a completion is, and the recipe does not; a micro-batch is then taken to be full of it.
    """

    prompt: int
    completion: int
    group: int
    groups: int
    budget: int
    whole: bool
    shares: bool
    given: bool

    @classmethod
    def of(cls, stage: Stage, kind: Kind, *, unit: str, context: int) -> Limits:
        """context: the model's, in tokens."""
        train, rollouts, data = stage.train, stage.rollouts, stage.data
        group = rollouts.group if kind.samples else 2 if kind.sided else 1
        prompt = min(data.max_prompt_tokens, context - 1)
        longest = rollouts.max_new_tokens if kind.samples else data.max_completion_tokens
        if stage.environment is not None:
            longest = min(context, stage.environment.max_tokens or context) - prompt
        given = longest is None
        if longest is None:
            longest = max(1, (train.micro_batch_tokens - prompt) // group)
        number = rollouts.prompts if kind.fresh else -(-(train.batch or 1) // (rollouts.group if kind.samples else 1))
        return cls(
            prompt=prompt,
            completion=max(1, min(longest, context - prompt)),
            group=group,
            groups=max(1, number // train.minibatches),
            budget=train.micro_batch_tokens,
            whole=unit == "group",
            shares=train.fast_paths,
            given=given,
        )

    @property
    def longest_unit(self) -> int:
        """Tokens of the most that must lie in one micro-batch whatever its budget."""
        return self.prompt + self.completion * (self.group if self.whole else 1)

    def longest(self) -> Batch:
        """Two groups in which all sequences have the most tokens."""
        return _batch([self.completion] * min(2, self.groups), self)

    def full(self) -> Batch:
        """A step of micro-batches as full as they can be, at least two of them where a step has so many tokens: the
        second meets the gradients of the first."""
        block = self.prompt + self.group * self.completion
        fitting = -(-self.budget // block)  # so many groups of slightly shorter sequences fill a micro-batch exactly
        room = (self.budget // fitting - self.prompt) // self.group
        completion = self.completion if self.budget < self.longest_unit else max(1, min(self.completion, room))
        return _batch([completion] * min(self.groups, 2 * fitting), self)


def _batch(completions: Sequence[int], limits: Limits) -> Batch:
    """A group with completions of that length for each entry; no number in it is of interest but how many there are."""
    items = [
        Item(
            prompt_ids=[0] * limits.prompt,
            completion_ids=[0] * length,
            sampler_logprobs=[0.0] * length,
            group=group,
            member=member,
            reward=float(member % 2),
            side=1 - 2 * (member % 2),
        )
        for group, length in enumerate(completions)
        for member in range(limits.group)
    ]
    return pack(items, share_prefix=limits.shares)
