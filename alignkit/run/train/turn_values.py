"""What a step's algorithm made of each turn of the episodes that were played in it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from alignkit.run_folder.turn_value import TurnValue
from alignkit.train.source import Drawn
from alignkit.types.batch import Batch
from alignkit.types.rollout import Rollout

Q, V = "critic_q", "critic_v"  # channels in which critics of utterances say what they think of a turn


def turn_values(drawn: Drawn, batch: Batch | None) -> dict[int, list[TurnValue]]:
    """Index of a rollout in `drawn.rollouts` -> values of its turns, of episodes that the step learnt from.

    q, v: the channels of that name, else v is what a critic of tokens says before the utterance begins. advantage: the
    mean over the tokens. Of past turns that are drawn again (ArCHer) those are told that were played in this same
    step, found by their tokens; nothing of them is trained but the critics, so that their advantage is q - v.
    """
    episodes = {index: rollout for index, rollout in enumerate(drawn.rollouts) if rollout.end is not None}
    if batch is None or not episodes:
        return {}
    sequences = _turns(batch)
    found: dict[int, list[TurnValue]] = {}
    if drawn.trained:
        members = zip(batch.group.tolist(), batch.member.tolist(), strict=True)
        by_place = {place: number for number, place in enumerate(members)}
        trained = {(rollout.group, rollout.member) for rollout in drawn.trained}
        for index, rollout in episodes.items():
            place = (rollout.group, rollout.member)
            if place in trained and place in by_place:
                before = [TurnValue()] * (rollout.reset.turn if rollout.reset else 0)
                found[index] = before + [_value(batch, turn, past=False) for turn in sequences[by_place[place]]]
        return found
    by_tokens = {_tokens(batch, turns): turns for number, turns in sequences.items() if batch.member[number] == 0}
    for index, rollout in episodes.items():
        turns = by_tokens.get(_chosen(rollout, len(rollout.turns))) or by_tokens.get(
            _chosen(rollout, len(rollout.turns) - 1)  # the last turn of a truncated episode is not kept
        )
        if turns:
            found[index] = [_value(batch, turn, past=True) for turn in turns]
    return found


def _turns(batch: Batch) -> dict[int, list[list[int]]]:
    """Sequence -> the packed indices of each turn's chosen tokens, in order."""
    places = batch.actions.tolist()
    found: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    of = zip(places, batch.segment[places].tolist(), batch.turn[places].tolist(), strict=True)
    for place, sequence, turn in of:
        found[sequence][turn].append(place)
    return {sequence: [turns[number] for number in sorted(turns)] for sequence, turns in found.items()}


def _tokens(batch: Batch, turns: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(batch.tokens[[place for turn in turns for place in turn]].tolist())


def _chosen(rollout: Rollout, turns: int) -> tuple[int, ...]:
    return tuple(token for turn in rollout.turns[:turns] for token in turn.completion_ids)


def _value(batch: Batch, places: Sequence[int], *, past: bool) -> TurnValue:
    first, last = places[0], places[-1]
    q, v = (_number(batch.turn_channels[name], last) if name in batch.turn_channels else None for name in (Q, V))
    if v is None and batch.values is not None and batch.values.shape[1] == 1:
        v = _number(batch.values[:, 0], int(batch.parent[first]))
    if past:
        return TurnValue(q=q, v=v, advantage=None if q is None or v is None else q - v)
    advantage = None if batch.advantages is None else float(batch.advantages[list(places)].mean())
    return TurnValue(q=q, v=v, advantage=advantage)


def _number(column: Tensor, place: int) -> float | None:
    value = float(column[place])
    return value if math.isfinite(value) else None
