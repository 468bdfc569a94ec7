"""Replayed turns: what is kept of an episode, what stands beside it, and that saving and loading changes nothing."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alignkit.data.kinds.transitions import KIND
from alignkit.data.offline.example import Example
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.offline.transitions import Transition, transitions_of
from alignkit.data.turns import Renderer
from alignkit.environments.lift import find_environment
from alignkit.errors import DataError
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.schema import Data, Replay, Rollouts
from alignkit.rollout.collect import Collector
from alignkit.rollout.episodes import Episodes
from alignkit.train.offline import OfflineSource
from alignkit.train.replay import ReplaySource, onwards, turns_of
from alignkit.train.source import Order
from alignkit.types.rollout import Completion, StopReason
from alignkit.types.task import Task

TOKENIZER = character_tokenizer("0123456789?<>=!", context=64)
END = TOKENIZER.eos_token_id


class Player:
    """An engine that says a digit by the request's seed, with its stop token."""

    def __init__(self) -> None:
        self.policy_version, self.requests = 0, []

    async def generate(self, requests) -> list[Completion]:
        self.requests += requests
        said = [TOKENIZER.convert_tokens_to_ids(str(request.seed % 5)) for request in requests]
        return [
            Completion(token_ids=(token, END), logprobs=(-1.0, 0.0), stop=StopReason.END_OF_TEXT, versions=((0, 0),))
            for token in said
        ]


def source(**settings: Any) -> ReplaySource:
    renderer = Renderer(tokenizer=TOKENIZER, chat=False)
    episodes = Episodes(
        make=find_environment("guess_number", {"numbers": 5, "guesses": 3}, None),
        name="guess_number",
        renderer=renderer,
        max_turns=3,
        context=60,
        deadline_s=5.0,
    )
    collector = Collector(
        engine=Player(),
        play=episodes,
        scorer=None,
        decode=renderer.decode,
        stop_token_ids=(END,),
        settings=Rollouts(engine="hf", prompts=3, group=1, max_new_tokens=3),
        seed=7,
    )
    tasks = [Example(task=Task(id=f"game/{i}", text=""), prompt=()) for i in range(50)]
    order = Order(examples=tasks, seed=1, shuffle=False)
    return ReplaySource(
        order=order,
        collector=collector,
        context=episodes.context,
        settings=Replay(**settings),
        size=4,
        seed=3,
        run=asyncio.run,
    )


def test_each_group_is_a_past_turn_with_all_that_followed_and_a_fresh_utterance_after_the_same_state():
    played = source()
    drawn = played.next(0, 0)
    assert drawn.batch.num_sequences == 8
    assert drawn.batch.member.tolist() == [0, 1] * 4
    assert len(drawn.batch.blocks) == 4  # both share the state's tokens
    episodes = [turns_of(rollout) for rollout in drawn.rollouts]
    kept = [turns[k:] for turns in episodes for k in range(len(turns))]
    for group in range(4):
        past, fresh = drawn.batch.select([2 * group]), drawn.batch.select([2 * group + 1])
        assert fresh.num_actions == 2  # a digit and the stop token
        assert fresh.reward.item() == 0
        start, tokens = past.blocks[0].prompt, past.tokens.tolist()
        chain = next(
            turns
            for turns in kept
            if tokens[:start] == list(turns[0].state)
            and tokens[start:] == [token for turn in turns for token in (*turn.action, *turn.answer)]
        )
        assert past.tokens[past.action_mask].tolist() == [token for turn in chain for token in turn.action]
        assert past.rewards[start:][past.tokens[start:] == END].tolist() == [turn.reward for turn in chain]
        assert past.reward.item() == sum(turn.reward for turn in chain)


def test_what_followed_a_turn_ends_with_its_episode():
    """The next episode begins with the same state as this one, and a cut one has no end of its own."""
    first, second = Transition((1,), (2,), (3,), -1.0), Transition((1, 2, 3), (4,), (5,), -1.0)
    other = Transition((1,), (2,), (3,), 0.0)
    turns = [first, second, other]
    assert [onwards(turns, number) for number in range(3)] == [[first, second], [second], [other]]


def test_a_turn_without_an_answer_is_one_that_ended_the_episode():
    rollouts = source().next(0, 0).rollouts
    for rollout in rollouts:
        turns = turns_of(rollout)
        assert [turn.answer == () for turn in turns] == [False] * (len(turns) - 1) + [True]
        assert sum(turn.reward for turn in turns) == pytest.approx(rollout.reward)
        for before, after in pairwise(turns):
            assert after.state == before.state + before.action + before.answer


def test_the_last_turn_of_a_truncated_episode_is_left_out():
    cut = source()
    object.__setattr__(cut.collector.play, "max_turns", 2)
    rollouts = [rollout for start in range(0, 15, 3) for rollout in cut.next(start, 0).rollouts if rollout.truncated]
    assert rollouts
    for rollout in rollouts:
        assert len(rollout.turns) == 2
        assert [turn.answer != () for turn in turns_of(rollout)] == [True]


def test_episodes_are_played_every_few_steps_and_the_oldest_turns_leave_first():
    played = source(every=3, capacity=6)
    cursor, seen = 0, []
    for _ in range(7):
        drawn = played.next(cursor, 0)
        cursor = drawn.cursor
        seen.append((cursor, len(drawn.rollouts), drawn.batch.num_sequences))
    assert [cursor for cursor, _, _ in seen] == [3, 3, 3, 6, 6, 6, 9]
    assert [played for _, played, _ in seen] == [3, 0, 0, 3, 0, 0, 3]
    assert len(played.turns) <= 6
    newest = turns_of(drawn.rollouts[-1])
    assert played.turns[-len(newest) :] == newest


def test_a_saved_source_goes_on_as_if_nothing_had_happened(tmp_path: Path):
    whole, cut = source(every=2), source(every=2)
    cursors = [0, 0]
    for step in range(6):
        drawn = whole.next(cursors[0], 0)
        if step == 3:
            cut.save(tmp_path)
            cut = source(every=2)
            cut.load(tmp_path)
        again = cut.next(cursors[1], 0)
        cursors = [drawn.cursor, again.cursor]
        assert cursors[0] == cursors[1]
        assert drawn.batch.tokens.tolist() == again.batch.tokens.tolist()
        assert drawn.batch.reward.tolist() == again.batch.reward.tolist()


def test_given_episodes_are_cut_into_turns_as_a_policy_would_have_met_them():
    turns = [{"observation": "?", "action": "3", "reward": -1.0}, {"observation": ">", "action": "4", "reward": 0.0}]
    task = Task(id="a", text="", columns={"turns": turns})
    ids = TOKENIZER.convert_tokens_to_ids
    first, second = transitions_of(Renderer(tokenizer=TOKENIZER, chat=False), task, 64)
    assert first.state[-1] == ids("?")
    assert first == Transition(first.state, (ids("3"), END), (ids(">"),), -1.0)
    assert second == Transition((*first.state, ids("3"), END, ids(">")), (ids("4"), END), (), 0.0)
    row_filter = RowFilter(tokenizer=TOKENIZER, data=Data(source="x", chat=False), context=64, unit=KIND.unit)
    rows = KIND.rows([task], row_filter)
    assert [row.turn for row in rows] == [first, second]
    order = Order(examples=rows, seed=0, shuffle=False)
    batch = OfflineSource(kind=KIND, order=order, size=2, share_prefix=True).next(0, 0).batch
    assert batch.reward.tolist() == [-1.0, 0.0]
    assert batch.num_actions == 4
    bare = Task(id="a", text="", columns={"turns": [{"observation": "?", "action": "3"}]})
    with pytest.raises(DataError, match=r"task a: turn 1 has no reward; wanted observation, action and reward"):
        transitions_of(Renderer(tokenizer=TOKENIZER, chat=False), bare, 64)
