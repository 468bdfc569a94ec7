"""From characters to tokens: what a rollout is paid after each token that the policy chose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from alignkit.rewards.pool.reading import turn_of
from alignkit.rewards.steps import last_tokens, settled_ends
from alignkit.types.rollout import Rollout, Turn
from alignkit.types.score import Score, StepScore

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


def pay_too(rollout: Rollout, score: Score, decode: Decode, *, places_steps: bool) -> Rollout:
    """An episode paid by its environment, paid by rewards too; without a value where either could not score it.

    score: the rewards' own. What they pay lies where `place` puts it, or without places_steps at the end, beside what
    each turn was paid on its last token.
    """
    own = rollout.score
    assert own is not None, "an episode has its return"
    parts = {**own.parts, **score.parts}
    if own.value is None or score.value is None:
        return replace(rollout, score=Score(value=None, parts=parts, fault=own.fault or score.fault))
    placed = score if places_steps else replace(score, steps=None)
    paid = [list(tokens) for tokens in place(replace(rollout, score=placed), decode).paid or ()]
    for turn, tokens in zip(rollout.turns, paid, strict=bool(paid)):
        tokens[-1] += turn.reward or 0.0
    total = replace(score, value=own.value + score.value, parts=parts)
    return replace(rollout, score=total, paid=tuple(map(tuple, paid)) or None)


def _paid(turn: Turn, steps: Sequence[StepScore], decode: Decode) -> list[float]:
    """What the steps of an utterance pay after each of its tokens."""
    import torch

    from alignkit.ops import process

    if not steps:
        return [0.0] * len(turn.completion_ids)
    settled, last = settled_ends(decode, turn.completion_ids), len(turn.completion_ids) - 1
    inside = [step for step in steps if step.end < len(turn.text)]
    ends = [max(0, step.end - turn.opened) for step in inside]
    tokens = last_tokens(settled, ends) + [last] * (len(steps) - len(inside))
    amounts = torch.tensor([step.value for step in steps], dtype=torch.float64)
    return process.place(amounts, torch.tensor(tokens), last + 1).tolist()
