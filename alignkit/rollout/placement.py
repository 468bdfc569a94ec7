"""From characters to tokens: what a rollout is paid after each token that the policy chose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from alignkit.rewards.reading import turn_of
from alignkit.rewards.steps import last_tokens, settled_ends
from alignkit.types.rollout import Rollout, Turn
from alignkit.types.score import StepScore

Decode = Callable[[Sequence[int]], str]


def place(rollout: Rollout, decode: Decode) -> Rollout:
    """The rollout with `paid`: its score's steps on the tokens that complete them, the rest of its value on the last.

    A step is complete with the token that writes the last part of its last character, though that token may reach into
    the next step; the step that ends an utterance with the utterance's last token, its stop token where it has one.
    decode: the tokenizer's, by which the turns' text came about. A rollout that cannot be trained on stays as it is.
    """
    if rollout.reward is None or rollout.score is None or not rollout.sampled_tokens:
        return rollout
    by_turn: dict[int, list[StepScore]] = defaultdict(list)
    for step in rollout.score.steps or ():
        by_turn[turn_of(step, rollout)].append(step)
    paid = [_paid(turn, by_turn[number], decode) for number, turn in enumerate(rollout.turns)]
    spoken = max(number for number, tokens in enumerate(paid) if tokens)
    paid[spoken][-1] += rollout.reward - sum(step.value for step in rollout.score.steps or ())
    return replace(rollout, paid=tuple(tuple(tokens) for tokens in paid))


def _paid(turn: Turn, steps: Sequence[StepScore], decode: Decode) -> list[float]:
    """What the steps of an utterance pay after each of its tokens."""
    import torch

    from alignkit.ops import process

    if not steps:
        return [0.0] * len(turn.completion_ids)
    settled, last = settled_ends(decode, turn.completion_ids), len(turn.completion_ids) - 1
    inside = [step for step in steps if step.end < len(turn.text)]
    tokens = last_tokens(settled, [step.end for step in inside]) + [last] * (len(steps) - len(inside))
    amounts = torch.tensor([step.value for step in steps], dtype=torch.float64)
    return process.place(amounts, torch.tensor(tokens), last + 1).tolist()
