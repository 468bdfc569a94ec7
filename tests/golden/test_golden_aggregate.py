"""Aggregators: two sequences of 2 and 6 tokens with token losses 1 and 3, constant 8."""

import pytest
import torch

from alignkit import ops
from alignkit.types.batch import pack
from alignkit.types.item import Item

BATCH = pack([Item(prompt_ids=[1], completion_ids=range(2)), Item(prompt_ids=[1], completion_ids=range(6), member=1)])
LOSS = torch.tensor([1.0] * 2 + [3.0] * 6)
WANTED = {
    "token_mean": 2.5,
    "sequence_mean_token_mean": 2.0,
    "sequence_mean_token_sum": 10.0,
    "sequence_mean_constant": 1.25,
}


@pytest.mark.parametrize("mode", WANTED)
def test_sum_over_count_is_the_aggregate(mode):
    total, count = ops.aggregate.aggregate(LOSS, BATCH, mode, constant=8.0)
    assert total.item() / count == WANTED[mode]


@pytest.mark.parametrize("mode", WANTED)
def test_a_sequence_without_action_tokens_enters_neither_sum_nor_count(mode):
    silent = Item(prompt_ids=[1], completion_ids=[4, 5], action=[False, False], member=2)
    items = [Item(prompt_ids=[1], completion_ids=range(2)), silent, Item(prompt_ids=[1], completion_ids=range(6))]
    total, count = ops.aggregate.aggregate(LOSS, pack(items), mode, constant=8.0)
    assert total.item() / count == WANTED[mode]


@pytest.mark.parametrize("mode", WANTED)
def test_sums_and_counts_of_parts_add_up_to_those_of_the_whole(mode):
    parts = [
        ops.aggregate.aggregate(LOSS[:2], BATCH.select([0]), mode, constant=8.0),
        ops.aggregate.aggregate(LOSS[2:], BATCH.select([1]), mode, constant=8.0),
    ]
    assert sum(total.item() for total, _ in parts) / sum(count for _, count in parts) == WANTED[mode]


def test_with_a_constant_divisor_a_token_weighs_the_same_in_short_and_long_sequences():
    """Dr.GRPO: the gradient on every token is 1 / (sequences x constant); with token means it depends on the length."""
    for mode, wanted in (
        ("sequence_mean_constant", [1 / 16] * 8),
        ("sequence_mean_token_mean", [1 / 4] * 2 + [1 / 12] * 6),
    ):
        loss = LOSS.clone().requires_grad_()
        total, count = ops.aggregate.aggregate(loss, BATCH, mode, constant=8.0)
        (total / count).backward()
        assert loss.grad is not None
        assert loss.grad.tolist() == pytest.approx(wanted)
