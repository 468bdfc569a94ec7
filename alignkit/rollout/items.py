"""From rollouts to the batch: what is learnt from a rollout, as sequences of one group and member."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from alignkit.errors import BatchError
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.rollout import DIRECTION, TURNS, Reset, Rollout
from alignkit.types.turn import EpisodeEnd, Turn


def pack_rollouts(rollouts: Sequence[Rollout], *, version: int, share_prefix: bool) -> Batch:
    """The batch of scored rollouts, a sequence each; raises BatchError when one is of other weights than `version`."""
    stale = next((rollout for rollout in rollouts if rollout.policy_version != version), None)
    if stale is not None:
        raise BatchError(
            f"task {stale.task.id}: sampled by policy version {stale.policy_version}, the trainer is at {version}; "
            "on-policy updates refuse it: sync the engine before sampling"
        )
    scored = [(rollout, reward) for rollout in rollouts if (reward := rollout.reward) is not None]
    learnt = [item for rollout, reward in scored for item in items(rollout, reward=reward)]
    return pack(learnt, share_prefix=share_prefix).validate()


def items(rollout: Rollout, *, reward: float) -> list[Item]:
    """What is learnt from a rollout: all its turns, or the one that was taken anew, after all that was said before it.

    An episode whose context was rewritten on the way is several sequences of one group and member, each paid the whole
    return at its end. reward: of the whole episode; that of a turn taken anew is what was paid from it on.
    """
    if rollout.reset is not None:
        return [_from_reset(rollout, rollout.reset, reward)]
    parts = rollout.contexts
    if len(parts) == 1:
        return [_sequence(rollout, reward, whole=True)]
    ended = replace(rollout, end=EpisodeEnd.DONE)  # a context that was left is not cut
    pieces = [replace(ended, turns=turns) for turns in parts[:-1]] + [replace(rollout, turns=parts[-1])]
    return [_sequence(piece, reward, whole=False) for piece in pieces]


def _from_reset(rollout: Rollout, reset: Reset, reward: float) -> Item:
    turn = rollout.turns[reset.turn]
    size, tail = len(turn.completion_ids), len(turn.finish_ids)
    before = sum(past.reward for past in rollout.turns[: reset.turn] if past.reward is not None)
    return Item(
        prompt_ids=turn.prompt_ids,
        completion_ids=turn.completion_ids + turn.finish_ids,
        action=[True] * size + [False] * tail,
        sampler_logprobs=[*turn.sampler_logprobs, *[0.0] * tail],
        group=rollout.group,
        member=rollout.member,
        reward=reward - before,
        truncated=rollout.truncated,
        policy_version=rollout.policy_version,
        channels={TURNS: reset.of},
        turn_channels=_turn_channels([turn]),
    )


def _sequence(rollout: Rollout, reward: float, *, whole: bool) -> Item:
    """One sequence of all turns: the first prompt, then everything after it, with the policy's tokens as actions.

    Rewards lie where the rollout's `paid` says, else each turn's on the last token of its action; where turns are
    missing (not whole), and without either, `reward` is paid at the end.
    """
    first = rollout.turns[0]
    length = start = len(first.prompt_ids)
    ids: list[int] = []
    action: list[bool] = []
    logprobs: list[float] = []
    rewards: list[float] = []
    turns: list[int] = []
    for number, turn in enumerate(rollout.turns):
        seen = turn.prompt_ids[length:]
        size, tail = len(turn.completion_ids), len(turn.finish_ids)
        ids += [*seen, *turn.completion_ids, *turn.finish_ids]
        length = start + len(ids)
        action += [False] * len(seen) + [True] * size + [False] * tail
        turns += [number] * (len(seen) + size + tail)
        logprobs += [0.0] * len(seen) + list(turn.sampler_logprobs) + [0.0] * tail
        rewards += [0.0] * len(seen)
        rewards += [0.0] * (size - 1) + [turn.reward or 0.0] if rollout.paid is None else rollout.paid[number]
        rewards += [0.0] * tail
    if not whole:
        last = max((place for place, chosen in enumerate(action) if chosen), default=0)
        rewards = [reward * (place == last) for place in range(len(action))]
    parts = rollout.score.parts if rollout.score else {}
    return Item(
        prompt_ids=first.prompt_ids,
        completion_ids=ids,
        action=action,
        sampler_logprobs=logprobs,
        group=rollout.group,
        member=rollout.member,
        reward=reward,
        rewards=rewards if rollout.paid is not None or rollout.end is not None or not whole else None,
        truncated=rollout.truncated,
        policy_version=rollout.policy_version,
        channels={name: math.nan if part is None else part for name, part in parts.items()} | _direction(rollout),
        turn=turns,
        turn_channels=_turn_channels(rollout.turns),
    )


def _turn_channels(turns: Sequence[Turn]) -> dict[str, list[float | str]]:
    """What the environment said of each turn, by name; NaN where it said nothing."""
    told = [dict(turn.info) | {f"before/{name}": value for name, value in turn.info_before.items()} for turn in turns]
    names = dict.fromkeys(name for one in told for name in one)
    return {name: [one.get(name, math.nan) for one in told] for name in names}


def _direction(rollout: Rollout) -> dict[str, float]:
    """How much of each part the task asks for, by its column `direction`, a mapping from parts to weights."""
    direction = rollout.task.columns.get("direction")
    weights = direction if isinstance(direction, Mapping) else {}
    return {f"{DIRECTION}{name}": float(weight) for name, weight in weights.items()}
