"""The packed batch: every sequence can be rebuilt from it, any selection of it; it refuses what it must not hold."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import BatchError
from alignkit.models.forward import padded_index
from alignkit.types.batch import FLOAT_COLUMNS, TOKEN_COLUMNS, Batch, Block, pack, structure
from alignkit.types.item import Item
from alignkit.types.metric import Max, Mean, Sum, combine
from tests.tiny import random_batch, random_items

shapes = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(1, 6), min_size=1, max_size=4)), min_size=1, max_size=5
)
packings = st.tuples(shapes, st.booleans(), st.booleans(), st.integers(0, 99)).map(
    lambda case: (random_items(case[0], holes=case[1], seed=case[3]), case[2])
)


def ancestors(batch: Batch, token: int) -> list[int]:
    """Packed indices from the first token of the prompt to `token`."""
    chain = []
    while token >= 0:
        chain.append(token)
        token = int(batch.parent[token])
    return chain[::-1]


def last_tokens(batch: Batch) -> list[int]:
    return [int((batch.segment == index).nonzero().max()) for index in range(batch.num_sequences)]


def equal(left: Batch, right: Batch) -> bool:
    columns = (*TOKEN_COLUMNS, "group", "member", "reward", "truncated", "policy_version")
    pairs = [(getattr(left, name), getattr(right, name)) for name in columns]
    return left.blocks == right.blocks and all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in pairs
    )


@given(packings)
def test_the_parent_chain_of_its_last_token_is_each_full_sequence(case):
    items, share_prefix = case
    batch = pack(items, share_prefix=share_prefix).validate()
    for item, last in zip(items, last_tokens(batch), strict=True):
        chain = ancestors(batch, last)
        assert batch.tokens[chain].tolist() == [*item.prompt_ids, *item.completion_ids]
        assert batch.position[chain].tolist() == list(range(len(chain)))
        wanted = item.action if item.action is not None else [True] * len(item.completion_ids)
        assert batch.action_mask[chain].tolist() == [False] * len(item.prompt_ids) + list(wanted)


@given(packings)
def test_a_prompt_is_stored_once_per_group_when_shared_and_once_per_sequence_when_not(case):
    items, share_prefix = case
    batch = pack(items, share_prefix=share_prefix)
    prompts = {item.group: len(item.prompt_ids) for item in items} if share_prefix else dict.fromkeys(())
    stored = sum(prompts.values()) if share_prefix else sum(len(item.prompt_ids) for item in items)
    assert batch.num_tokens == stored + sum(len(item.completion_ids) for item in items)
    assert batch.num_sequences == len(items)


def test_the_columns_of_two_small_blocks_are_those_written_out_by_hand():
    items = [
        Item(prompt_ids=[7, 8], completion_ids=[4], group=0, sampler_logprobs=[-0.5]),
        Item(prompt_ids=[7, 8], completion_ids=[5, 6], action=[True, False], group=0, sampler_logprobs=[-1.0, -2.0]),
        Item(prompt_ids=[9], completion_ids=[3], group=1, sampler_logprobs=[-3.0], truncated=True, reward=0.5),
    ]
    batch = pack(items)
    assert batch.tokens.tolist() == [7, 8, 4, 5, 6, 9, 3]
    assert batch.position.tolist() == [0, 1, 2, 2, 3, 0, 1]
    assert batch.parent.tolist() == [-1, 0, 1, 1, 3, -1, 5]
    assert batch.segment.tolist() == [-1, -1, 0, 1, 1, -1, 2]
    assert batch.action_mask.tolist() == [False, False, True, True, False, False, True]
    assert batch.require("sampler_logprobs").tolist() == [0, 0, -0.5, -1.0, 0, 0, -3.0]
    assert batch.truncated.tolist() == [False, False, True]
    assert batch.reward.tolist() == [0, 0, 0.5]


def test_a_sequence_that_forks_from_another_has_its_beginning_ahead_of_it():
    """Prompt 1 2, trunk 3 4 5, after whose first token 6 7 goes on and after whose last 8 does."""
    common = {"prompt_ids": [1, 2], "group": 4}
    trunk = Item(completion_ids=[3, 4, 5], action=[True, False, True], **common)
    others = [
        Item(completion_ids=[6, 7], member=1, fork=1, **common),
        Item(completion_ids=[8], member=2, fork=3, **common),
    ]
    batch = pack([trunk, *others]).validate()
    assert batch.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert batch.parent.tolist() == [-1, 0, 1, 2, 3, 2, 5, 4]
    assert batch.position.tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert batch.last_prompt_token().tolist() == [1, 2, 4]
    assert padded_index(batch)[0].tolist() == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 5, 6, 0], [0, 1, 2, 3, 4, 7]]
    part = batch.select([0, 2])
    assert part.tokens.tolist() == [1, 2, 3, 4, 5, 8]
    assert part.parent.tolist() == [-1, 0, 1, 2, 3, 4]
    assert batch.select([0]).blocks == (Block(0, 2, (3,)),)
    with pytest.raises(BatchError, match=r"forks at \(1,\) of 2 tokens: groups stay whole and in order"):
        batch.select([1])
    with pytest.raises(BatchError, match="groups stay whole and in order"):
        pack([trunk, *others[::-1]])
    with pytest.raises(BatchError, match="groups stay whole and in order"):
        pack(others)


def test_two_groups_with_the_same_prompt_do_not_share_it_and_neither_do_interrupted_ones():
    def item(group: int) -> Item:
        return Item(prompt_ids=[7, 8], completion_ids=[4], group=group)

    assert [block.lengths for block in pack([item(0), item(1)]).blocks] == [(1,), (1,)]
    assert [block.lengths for block in pack([item(0), item(1), item(0)]).blocks] == [(1,), (1,), (1,)]
    changed = replace(item(0), prompt_ids=[7, 9])
    assert [block.lengths for block in pack([item(0), item(0), changed]).blocks] == [(1, 1), (1,)]


@given(packings)
def test_selecting_everything_gives_the_same_batch(case):
    items, share_prefix = case
    batch = pack(items, share_prefix=share_prefix)
    assert equal(batch.select(range(len(items))), batch)


@given(packings, st.data())
def test_selecting_is_packing_the_selected_items(case, data):
    items, share_prefix = case
    chosen = data.draw(st.lists(st.integers(0, len(items) - 1), min_size=1, unique=True))
    wanted = pack([items[i] for i in sorted(chosen)], share_prefix=share_prefix)
    assert equal(pack(items, share_prefix=share_prefix).select(chosen), wanted)


@given(packings, st.data())
def test_selecting_from_a_selection_is_selecting_at_once(case, data):
    items, share_prefix = case
    batch = pack(items, share_prefix=share_prefix)
    outer = sorted(data.draw(st.sets(st.integers(0, len(items) - 1), min_size=1)))
    inner = sorted(data.draw(st.sets(st.integers(0, len(outer) - 1), min_size=1)))
    assert equal(batch.select(outer).select(inner), batch.select([outer[i] for i in inner]))


@given(packings, st.data())
def test_the_token_index_points_at_the_tokens_that_a_selection_holds(case, data):
    items, share_prefix = case
    batch = pack(items, share_prefix=share_prefix)
    chosen = data.draw(st.sets(st.integers(0, len(items) - 1), min_size=1))
    index = batch.token_index(sorted(chosen))
    assert torch.equal(batch.tokens[index], batch.select(sorted(chosen)).tokens)
    assert index.unique().numel() == index.numel()


@given(packings)
def test_sums_per_sequence_are_sums_over_action_tokens_and_garbage_elsewhere_is_never_read(case):
    items, share_prefix = case
    batch = pack(items, share_prefix=share_prefix)
    values = torch.where(batch.action_mask, 1.0 + torch.arange(batch.num_tokens) % 7, math.nan)
    got = batch.sum_per_sequence(values)
    wanted = [values[batch.action_mask & (batch.segment == i)].sum().item() for i in range(len(items))]
    assert got.tolist() == wanted
    assert batch.actions_per_sequence().tolist() == [
        int((batch.action_mask & (batch.segment == i)).sum()) for i in range(len(items))
    ]


@given(packings)
def test_spreading_writes_on_action_tokens_and_zero_elsewhere(case):
    items, share_prefix = case
    batch = pack(items, share_prefix=share_prefix)
    spread = batch.spread(1.0 + torch.arange(len(items)))
    assert torch.equal(spread, torch.where(batch.action_mask, 1.0 + batch.segment, 0.0))
    batch.replace(advantages=spread).validate()


@given(shapes)
def test_structure_follows_from_the_blocks_alone(shape):
    batch = random_batch(shape)
    rebuilt = structure(batch.blocks)
    assert all(torch.equal(rebuilt[name], getattr(batch, name)) for name in ("position", "parent", "segment"))


def test_moving_to_a_device_moves_every_column():
    batch = random_batch().replace(channels={"part": torch.zeros(10)})
    moved = batch.to(torch.device("meta"))
    held = [moved.tokens, moved.reward, moved.require("sampler_logprobs"), moved.channels["part"]]
    assert {column.device.type for column in held} == {"meta"}
    assert batch.tokens.device.type == "cpu"


def test_channels_are_packed_by_name_and_nan_where_an_item_lacks_one():
    items = [
        Item(prompt_ids=[1], completion_ids=[2], channels={"correct": 1.0, "short": 0.5}),
        Item(prompt_ids=[1], completion_ids=[2], channels={"correct": 0.0}),
    ]
    channels = pack(items).channels
    assert channels["correct"].tolist() == [1.0, 0.0]
    assert channels["short"][0] == 0.5
    assert math.isnan(channels["short"][1])
    assert pack(items).select([1]).channels["correct"].tolist() == [0.0]


def test_nothing_to_pack_and_columns_of_the_wrong_length_are_refused():
    with pytest.raises(BatchError, match="nothing to pack"):
        pack([])
    with pytest.raises(BatchError, match=r"group 3 member 2: sampler_logprobs has 1 entries for 2 completion tokens"):
        pack([Item(prompt_ids=[1], completion_ids=[2, 3], sampler_logprobs=[0.0], group=3, member=2)])
    with pytest.raises(BatchError, match="action has 3 entries for 2"):
        pack([Item(prompt_ids=[1], completion_ids=[2, 3], action=[True] * 3)])


def test_sampler_logprobs_are_a_column_only_when_every_item_has_them():
    sampled = Item(prompt_ids=[1], completion_ids=[2], sampler_logprobs=[-1.0])
    assert pack([sampled, Item(prompt_ids=[1], completion_ids=[2])]).sampler_logprobs is None
    with pytest.raises(BatchError, match="the batch has no sampler_logprobs: list it in the algorithm's `needs`"):
        pack([Item(prompt_ids=[1], completion_ids=[2])]).require("sampler_logprobs")


def test_an_empty_prompt_or_completion_is_refused():
    for prompt, completion in (([], [1]), ([1], [])):
        with pytest.raises(BatchError, match="at least 1 token"):
            pack([Item(prompt_ids=prompt, completion_ids=completion)]).validate()


def test_training_on_a_prompt_token_is_refused():
    batch = random_batch()
    with pytest.raises(BatchError, match="set on a prompt token"):
        batch.replace(action_mask=torch.ones_like(batch.action_mask)).validate()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(value):
    batch = random_batch()
    with pytest.raises(BatchError, match="reward holds NaN or inf"):
        batch.replace(reward=batch.reward.index_fill(0, torch.tensor([4]), value)).validate()


@pytest.mark.parametrize("name", FLOAT_COLUMNS)
def test_a_float_column_is_finite_and_zero_outside_the_mask(name):
    batch = random_batch(holes=True)
    inside, outside = int(batch.action_mask.nonzero()[0]), int((~batch.action_mask).nonzero()[-1])
    column = torch.zeros(batch.num_tokens)
    batch.replace(**{name: column}).validate()
    with pytest.raises(BatchError, match=f"{name} holds NaN or inf"):
        batch.replace(**{name: column.index_fill(0, torch.tensor([inside]), math.nan)}).validate()
    with pytest.raises(BatchError, match=f"{name} is not 0 outside action_mask"):
        batch.replace(**{name: column.index_fill(0, torch.tensor([outside]), 1e-9)}).validate()


def test_metrics_combine_as_they_say():
    parts = [
        {"mean": Mean(6.0, 4), "sum": Sum(2), "max": Max(1.5), "only": Sum(1)},
        {"mean": Mean(0.0, 2), "sum": Sum(3), "max": Max(0.5)},
    ]
    combined = combine(parts)
    assert {name: metric.value for name, metric in combined.items()} == {"mean": 1.0, "sum": 5, "max": 1.5, "only": 1}
    assert Mean(0.0, 0).value is None
    assert combine([]) == {}


def test_items_that_name_no_rollout_are_rollouts_by_themselves():
    items = [
        Item(prompt_ids=(1,), completion_ids=(2,), group=group, member=m)
        for group, m in ((0, None), (0, None), (1, 3), (1, 3))
    ]
    assert pack(items).member.tolist() == [0, 1, 3, 3]
