"""Turns in the batch: which token belongs to which, and what an environment said of each beside its answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alignkit import ops
from alignkit.environments.base import Observation
from alignkit.errors import BatchError
from alignkit.rollout.items import items, pack_rollouts
from alignkit.types.batch import pack
from alignkit.types.item import Item
from tests.unit.scripted_episodes import Script, Scripted, collector, sample

TALK = Item(
    prompt_ids=[1, 2],
    completion_ids=[3, 4, 5, 6, 7],
    action=[True, True, False, True, False],
    turn_channels={"room": ["hall", "cellar"], "keys": [1.0, 2.0]},
)
NAN = float("nan")


def test_chosen_tokens_in_a_row_are_one_turn_unless_the_item_says_otherwise():
    assert pack([TALK]).turn.tolist() == [-1, -1, 0, 0, -1, 1, -1]
    whole = Item(prompt_ids=[1], completion_ids=[2, 3, 4], turn=[0, 0, 1])
    assert pack([whole]).turn.tolist() == [-1, 0, 0, 1]
    with pytest.raises(BatchError, match="turn has 2 entries for 3 completion tokens"):
        pack([Item(prompt_ids=[1], completion_ids=[2, 3, 4], turn=[0, 1])])


def test_an_algorithm_sees_where_each_turn_begins_and_ends():
    batch = pack([TALK, Item(prompt_ids=[8], completion_ids=[9, 9], turn=[0, 1], group=1)])
    before, last, sequence, of = ops.turns.turns(batch)
    assert before.tolist() == [1, 4, 7, 8]
    assert last.tolist() == [3, 5, 8, 9]
    assert sequence.tolist() == [0, 0, 1, 1]
    assert of.tolist() == [0, 0, 1, 2, 3], "the turn of each chosen token"


def test_what_was_said_of_a_turn_lies_on_its_tokens_words_as_numbers_and_nan_where_nothing_was():
    other = Item(prompt_ids=[1, 2], completion_ids=[3, 4], turn_channels={"room": ["cellar"]}, member=1)
    batch = pack([TALK, other])
    room, keys = batch.turn_channels["room"], batch.turn_channels["keys"]
    assert room.tolist() == [0, 0, 0, 0, 0, 1, 0, 1, 1]  # the hall is 0, the cellar 1 in both
    assert keys[:7].tolist() == [0, 0, 1, 1, 0, 2, 0]
    assert all(math.isnan(value) for value in keys[7:].tolist())


def test_selected_and_repacked_sequences_keep_their_turns():
    batch = pack([TALK, Item(prompt_ids=[1, 2], completion_ids=[3, 4], turn_channels={"keys": [7.0]}, member=1)])
    second = batch.select([1])
    assert second.turn.tolist() == [-1, -1, 0, 0]
    assert second.turn_channels["keys"].tolist() == [0, 0, 7, 7]
    apart = pack([TALK], share_prefix=False)
    assert torch.equal(apart.turn, pack([TALK]).turn)


def test_an_environments_info_reaches_the_batch_before_and_after_each_turn():
    """Two utterances, seen in hall and cellar, answered from cellar and attic; what is no number or word stays out."""
    answers = [
        Observation(text="?", info={"room": "hall", "light": 0.5}),
        Observation(text="!", info={"room": "cellar", "map": [1, 2], "light": True}),
        Observation(text="", info={"room": "attic"}, reward=1.0, done=True),
    ]
    driver = collector(Script(lambda call, request: "12"), lambda: Scripted(list(answers)), settings={"group": 1})
    [rollout] = sample(driver)
    assert [turn.info_before for turn in rollout.turns] == [
        {"room": "hall", "light": 0.5},
        {"room": "cellar", "light": 1.0},
    ]
    assert [turn.info for turn in rollout.turns] == [{"room": "cellar", "light": 1.0}, {"room": "attic"}]
    [item] = items(rollout, reward=1.0)
    assert item.turn_channels["before/room"] == ["hall", "cellar"]
    batch = pack_rollouts([rollout], version=0, share_prefix=True)
    start = ops.turns.turns(batch).last
    assert batch.turn_channels["before/room"][start].tolist() == [0, 1]
    assert batch.turn_channels["before/light"][start].tolist() == [0.5, 1.0]
    assert batch.turn_channels["light"][start].tolist() == pytest.approx([1.0, NAN], nan_ok=True)


def test_what_an_environment_says_out_of_turn_stays_with_it_and_ends_no_run():
    """No mapping, a number beyond floats, a list: none of them is a channel; numpy's numbers are."""
    answers = [
        Observation(text="?", info=None),
        Observation(text="!", info={"huge": 10**400, "list": [1], "seen": np.int64(3), "old": np.bool_(True)}),
        Observation(text="", info=[], done=True),
    ]
    driver = collector(Script(lambda call, request: "12"), lambda: Scripted(list(answers)), settings={"group": 1})
    [rollout] = sample(driver)
    assert [turn.info for turn in rollout.turns] == [{"seen": 3.0, "old": 1.0}, {}]
    assert rollout.score.fault is None
