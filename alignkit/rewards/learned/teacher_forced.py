"""What a solution's steps do for its answer: how likely a language model finds the reference after each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from alignkit.data.kinds.stepwise_supervision import step_ids
from alignkit.data.prompts import render
from alignkit.data.tokens import plain_ids
from alignkit.errors import ContentError, DataError
from alignkit.models.adapted import base_model
from alignkit.models.device_type import default_device
from alignkit.models.encoder import Encoder
from alignkit.models.forward import Forward
from alignkit.models.load import load_policy
from alignkit.recipe.schema import Data, Model
from alignkit.rewards.base import as_score, unscorable
from alignkit.rewards.learned.reward_model import MICRO_BATCH_TOKENS, asked
from alignkit.rewards.steps import Rule, split_steps
from alignkit.rewards.verdict import bad_gold, gold_text
from alignkit.types.batch import pack
from alignkit.types.item import Item
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score, StepScore


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """A rollout as the model reads it: one item for each number of steps from 0. ends: characters, of the steps."""

    items: tuple[Item, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TeacherForced:
    """Scores rollouts by the mean log-prob of their task's reference answer, given the prompt, the first steps
    and the cue.

    cue: text between the solution so far and the reference; it and each step are tokenised by themselves.
    """

    forward: Forward
    tokenizer: Any
    split: Rule
    cue: str

    @classmethod
    def load(cls, path: str, *, split: Rule, cue: str, dtype: str, device: str | None = None) -> TeacherForced:
        """From a causal language model's folder or name. device: None is the accelerator, where there is one.

        Raises ContentError for another model.
        """
        model, tokenizer = load_policy(Model(path=path), seed=0)
        if isinstance(model, Encoder):
            raise ContentError(f"reward 'teacher_forced': {path} says no words; name a causal language model")
        model.to(device or default_device()).requires_grad_(False).eval()
        forward = Forward(model, getattr(torch, dtype), report=lambda line: None)
        return cls(forward=forward, tokenizer=tokenizer, split=split, cue=cue)

    def score(self, rollouts: Sequence[Rollout], *, name: str) -> list[Score]:
        """One Score per rollout, in order; each depends on its own rollout only."""
        prepared = [self._prepare(rollout, name) for rollout in rollouts]
        items = [
            replace(item, group=number)
            for number, one in enumerate(prepared)
            if isinstance(one, Prefixes)
            for item in one.items
        ]
        means = self._means(items)
        return [one if isinstance(one, Score) else as_score(_score(one, means), where=name) for one in prepared]

    def _prepare(self, rollout: Rollout, name: str) -> Prefixes | Score:
        reference = gold_text(rollout.task)
        if not reference:
            return bad_gold(rollout.task, name, "text or a number")
        spans = split_steps(rollout.text, self.split)
        if not rollout.text.strip():
            return unscorable(FaultKind.REFUSED, name, "the answer has no step")
        try:
            answer = plain_ids(self.tokenizer, reference)
        except DataError as error:
            return unscorable(FaultKind.GOLD, name, str(error))
        try:
            task = asked(rollout, chat=rollout.task.messages is not None, system=None)
            prompt = render(self.tokenizer, task, Data(source=""))
            ids, places = step_ids(self.tokenizer, [rollout.text[span.start : span.end] for span in spans])
            cue = plain_ids(self.tokenizer, self.cue)
        except DataError as error:
            return unscorable(FaultKind.REFUSED, name, str(error))
        longest, context = places[-1] + 1 + len(cue) + len(answer), self._context
        if not prompt or len(prompt) + longest > context:
            message = f"{len(prompt)} + {longest} tokens, where the model reads 1 and more, {context} together"
            return unscorable(FaultKind.REFUSED, name, message)
        given = [[*ids[:length], *cue] for length in (0, *(place + 1 for place in places))]
        items = [
            Item(prompt_ids=prompt, completion_ids=[*before, *answer], action=_only_last(len(before), len(answer)))
            for before in given
        ]
        return Prefixes(items=tuple(items), ends=tuple(span.end for span in spans))

    @property
    def _context(self) -> int:
        return base_model(self.forward.model).config.max_position_embeddings

    @torch.no_grad()
    def _means(self, items: Sequence[Item]) -> Iterator[float]:
        """Mean log-prob of the action tokens of each item, read in micro-batches."""
        chosen: list[Item] = []
        longest = 0
        for item in items:
            longest = max(longest, len(item.prompt_ids) + len(item.completion_ids))
            if chosen and longest * (len(chosen) + 1) > MICRO_BATCH_TOKENS:
                yield from self._read(chosen)
                chosen, longest = [], len(item.prompt_ids) + len(item.completion_ids)
            chosen.append(item)
        if chosen:
            yield from self._read(chosen)

    def _read(self, items: Sequence[Item]) -> list[float]:
        batch = pack(items)
        self.forward.verify(batch, temperature=1.0)
        said = self.forward(batch.to(self.forward.device), temperature=1.0).logprobs.cpu()
        return (batch.sum_per_sequence(said) / batch.actions_per_sequence()).tolist()


def _only_last(given: int, answer: int) -> list[bool]:
    return [False] * given + [True] * answer


def _score(prefixes: Prefixes, means: Iterator[float]) -> Score:
    """The increase with each step, and from the first number to the last."""
    after = [next(means) for _ in prefixes.items]
    steps = tuple(StepScore(end, new - old) for end, (old, new) in zip(prefixes.ends, pairwise(after), strict=True))
    return Score(value=after[-1] - after[0], steps=steps)
