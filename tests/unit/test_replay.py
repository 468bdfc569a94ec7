"""Replayed episodes: what is kept of one, what forks from it, and that saving and loading changes nothing."""

from __future__ import annotations

import asyncio
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
from alignkit.rollout.items import items
from alignkit.train.offline import OfflineSource
from alignkit.train.replay import ReplaySource, past_episodes, utterances
from alignkit.train.source import Order
from alignkit.types.item import Item
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


def test_each_group_is_a_past_episode_and_a_fresh_utterance_after_every_state_of_it():
    batch, rollouts = (drawn := source().next(0, 0)).batch, drawn.rollouts
    assert len(batch.blocks) == 4  # a prompt and the episode after it are stored once for all that forks from them
    episodes = {tuple(item.completion_ids): item for rollout in rollouts for item in past_episodes(rollout)}
    first = 0
    for block in batch.blocks:
        own = [batch.tokens[batch.segment == first + m].tolist() for m in range(len(block.lengths))]
        episode = episodes[tuple(own[0])]
        states = [begin for begin, _ in utterances(episode)]
        assert list(block.forks) == ([0, *states] if any(states) else [])
        assert batch.member[first : first + len(own)].tolist() == list(range(len(states) + 1))
        assert batch.reward[first].item() == episode.reward == sum(episode.rewards)
        assert batch.reward[first + 1 : first + len(own)].abs().sum() == 0
        for number, (begin, said) in enumerate(zip(states, own[1:], strict=True)):
            assert len(said) == 2  # a digit and the stop token
            assert batch.turn[batch.segment == first + 1 + number].tolist() == [number, number]
            path, token = [], int((batch.segment == first + 1 + number).nonzero()[0])
            while (token := int(batch.parent[token])) >= 0:
                path.append(int(batch.tokens[token]))
            assert path[::-1] == [*episode.prompt_ids, *episode.completion_ids[:begin]]
        first += len(own)


def test_an_episode_ends_with_its_last_utterance_or_with_the_state_where_it_was_cut():
    """The last turn of a truncated one has no end on record: what was paid for it is not the episode's either."""
    played = source()
    for rollout in played.next(0, 0).rollouts:
        (item,) = past_episodes(rollout)
        assert len(utterances(item)) == len(rollout.turns)
        assert utterances(item)[-1][1] == len(item.completion_ids)
        assert item.reward == pytest.approx(rollout.reward)
    object.__setattr__(played.collector.play, "max_turns", 2)
    rollouts = [r for start in range(3, 18, 3) for r in played.next(start, 0).rollouts if r.truncated]
    assert rollouts
    for rollout in rollouts:
        (item,) = past_episodes(rollout)
        assert len(rollout.turns) == 2
        assert len(utterances(item)) == 1
        assert utterances(item)[0][1] < len(item.completion_ids) == utterances(items(rollout, reward=0.0)[0])[1][0]
        assert item.reward == sum(item.rewards) == rollout.turns[0].reward


def test_turns_that_follow_one_another_without_an_answer_are_two_utterances():
    item = Item(prompt_ids=[1], completion_ids=[2, 3, 4, 5], action=[True, True, True, False], turn=[0, 0, 1, 1])
    assert utterances(item) == [(0, 2), (2, 3)]


def test_episodes_are_played_every_few_draws_and_the_oldest_leave_first():
    played = source(every=3, capacity=6)
    cursor, seen = 0, []
    for _ in range(7):
        drawn = played.next(cursor, 0)
        cursor = drawn.cursor
        seen.append((cursor, len(drawn.rollouts), len(drawn.batch.blocks)))
    assert [cursor for cursor, _, _ in seen] == [3, 3, 3, 6, 6, 6, 9]
    assert [played for _, played, _ in seen] == [3, 0, 0, 3, 0, 0, 3]
    assert {blocks for _, _, blocks in seen} == {4}
    assert sum(len(utterances(episode.item)) for episode in played.episodes) <= 6
    (newest,) = past_episodes(drawn.rollouts[-1])
    assert played.episodes[-1].item == newest
    assert played.episodes[-1].born == 6


def test_a_share_of_each_draw_is_of_the_latest_collection_and_its_age_is_counted_in_draws():
    """3 of 4 episodes are newest; of the first draw all are, drawn again since there are only 3."""
    played = source(every=2, newest=0.75)
    ages = []
    for step in range(4):
        batch = played.next(3 * step, 0).batch
        ages.append(sorted(batch.channels["age"][batch.member == 0].tolist()))
        assert batch.channels["age"][batch.member > 0].isnan().all()
    assert ages == [[0.0] * 4, [1.0] * 4, [0.0] * 3 + [2.0], [1.0] * 3 + [3.0]]


def test_the_share_of_utterances_that_nobody_ever_said_is_counted():
    """The engine says the digits 0 to 4; a buffer of one game holds few of them."""
    played = source(capacity=1)
    drawn = played.next(0, 0)
    (episode,) = played.episodes
    known = {episode.item.completion_ids[begin] for begin, _ in utterances(episode.item)}
    fresh = drawn.batch.tokens[drawn.batch.action_mask & (drawn.batch.member > 0)[drawn.batch.segment]].tolist()[::2]
    share = sum(token not in known for token in fresh) / len(fresh)
    assert 0 < share < 1
    assert drawn.metrics["replay/never_said"] == pytest.approx(share)


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
