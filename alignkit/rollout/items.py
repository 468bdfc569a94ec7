"""From rollouts to the batch: what is learnt from a rollout, as sequences of one group and member."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from alignkit.errors import BatchError
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.rollout import DIRECTION, TURNS, Reset, Rollout, Turn


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

    A list, because an episode whose context was rewritten on the way would break into several sequences of one group
    and member. reward: of the whole episode; that of a turn is what was paid from it on.
    Raises BatchError, naming the turn, when a turn's context does not begin with the turns before it.
    """
    return [_whole(rollout, reward) if rollout.reset is None else _from_reset(rollout, rollout.reset, reward)]


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


def _whole(rollout: Rollout, reward: float) -> Item:
    """One sequence of all turns: the first prompt, then everything after it, with the policy's tokens as actions.

    Rewards lie where the rollout's `paid` says, else each turn's on the last token of its action; without either
    `reward` is paid at the end.
    Raises BatchError, naming the turn, when a turn's context does not begin with the turns before it.
    """
    first = rollout.turns[0]
    ids: list[int] = list(first.prompt_ids)
    start = len(ids)
    action: list[bool] = []
    logprobs: list[float] = []
    rewards: list[float] = []
    turns: list[int] = []
    for number, turn in enumerate(rollout.turns, start=1):
        seen = turn.prompt_ids[len(ids) :]
        if list(turn.prompt_ids[: len(ids)]) != ids:
            raise BatchError(
                f"task {rollout.task.id}: the context of turn {number} does not begin with the tokens of the turns "
                "before it; a context may only be appended to"
            )
        size, tail = len(turn.completion_ids), len(turn.finish_ids)
        ids += [*seen, *turn.completion_ids, *turn.finish_ids]
        action += [False] * len(seen) + [True] * size + [False] * tail
        turns += [number - 1] * (len(seen) + size + tail)
        logprobs += [0.0] * len(seen) + list(turn.sampler_logprobs) + [0.0] * tail
        rewards += [0.0] * len(seen)
        rewards += [0.0] * (size - 1) + [turn.reward or 0.0] if rollout.paid is None else rollout.paid[number - 1]
        rewards += [0.0] * tail
    parts = rollout.score.parts if rollout.score else {}
    return Item(
        prompt_ids=first.prompt_ids,
        completion_ids=ids[start:],
        action=action,
        sampler_logprobs=logprobs,
        group=rollout.group,
        member=rollout.member,
        reward=reward,
        rewards=rewards if rollout.paid is not None or rollout.end is not None else None,
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
