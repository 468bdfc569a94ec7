"""Packed attention against the definition: softmax over each token's ancestors, written with a dense mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.models.attention import layout, packed_attention
from alignkit.types.batch import Batch, Block, pack
from alignkit.types.item import Item
from tests.tiny import SHAPE, random_batch

shapes = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=4)), min_size=1, max_size=4
)


def ancestor_mask(batch: Batch) -> Tensor:
    """(token, token): whether the column's token is the row's token itself or one of its ancestors."""
    mask = torch.eye(batch.num_tokens, dtype=torch.bool)
    for token in range(batch.num_tokens):  # a parent always lies before its child
        parent = int(batch.parent[token])
        if parent >= 0:
            mask[token] |= mask[parent]
    return mask


def random_parts(batch: Batch, *, heads: int = 4, key_heads: int = 4, width: int = 8, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (heads, key_heads, key_heads)
    return [torch.randn(n, batch.num_tokens, width, generator=generator, requires_grad=True) for n in sizes]


def dense(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    repeat = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(repeat, 0), value.repeat_interleave(repeat, 0)
    scores = (query.double() @ key.double().transpose(1, 2) * scale).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ value.double()).float()


def assert_equals_dense(batch: Batch, *, key_heads: int = 4, scale: float = 0.35, loosened: float = 1.0) -> None:
    parts = random_parts(batch, key_heads=key_heads)
    got = packed_attention(*parts, layout(batch.blocks), scale=scale)
    wanted = dense(*parts, ancestor_mask(batch), scale)
    torch.testing.assert_close(got, wanted, rtol=1e-5 * loosened, atol=1e-5 * loosened)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((got * weights).sum(), parts)
    for gradient, expected in zip(gradients, torch.autograd.grad((wanted * weights).sum(), parts), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4 * loosened, atol=2e-5 * loosened)


@settings(max_examples=40)
@given(shapes, st.booleans())
def test_it_equals_dense_attention_over_ancestors_and_so_do_its_gradients(shape, share_prefix):
    assert_equals_dense(random_batch(shape, share_prefix=share_prefix))


def forked(shape, *, branches: int = 2) -> Batch:
    """Of each block's prompt and first continuation a tree: after its tokens 0, 1 and its last others go on."""
    items = []
    for group, (prompt, lengths) in enumerate(shape):
        prompt_ids, trunk = list(range(prompt)), list(range(lengths[0]))
        items.append(Item(prompt_ids=prompt_ids, completion_ids=trunk, group=group))
        forks = sorted(fork for fork in {0, 1, lengths[0]} for _ in range(branches))
        more = [
            Item(prompt_ids=prompt_ids, completion_ids=[7] * (1 + fork % 3), group=group, fork=fork) for fork in forks
        ]
        items += [replace(item, member=1 + number) for number, item in enumerate(more)]
    return pack(items)


@settings(max_examples=20)
@given(shapes)
def test_what_forks_from_within_a_sequence_attends_to_all_that_was_ahead_of_it_there(shape):
    batch = forked(shape)
    ancestors = ancestor_mask(batch)
    for (prompt, lengths), block in zip(shape, batch.blocks, strict=True):
        ends = [block.end - 1]  # of the last branch: the whole trunk is ahead of it
        assert ancestors[ends[0]].sum() == prompt + lengths[0] + block.lengths[-1]
    assert_equals_dense(batch, key_heads=2)


@pytest.mark.parametrize("key_heads", [1, 2])
def test_grouped_key_heads_give_what_repeated_ones_give(key_heads):
    assert_equals_dense(random_batch(), key_heads=key_heads)


@pytest.mark.parametrize("shape", [[(1, [1])], [(1, [1] * 6)], [(40, [1, 33, 2])], [(2, [70]), (65, [3, 3])]])
def test_single_tokens_and_spans_longer_than_the_kernels_tiles_are_exact(shape):
    assert_equals_dense(random_batch(shape))


def test_large_scores_do_not_overflow_when_the_two_parts_are_merged():
    """Scores up to 250, each rounded to 1e-5 in float32: that much is the same everywhere, the rest is not."""
    assert_equals_dense(random_batch(), scale=30.0, loosened=100.0)


def test_a_token_of_one_sequence_changes_no_bit_of_any_other():
    batch = random_batch()
    plan = layout(batch.blocks)
    parts = random_parts(batch)
    before = packed_attention(*parts, plan, scale=0.35)
    for sequence in range(batch.num_sequences):
        own = batch.segment == sequence
        garbage = [part.detach().clone() for part in parts]
        for part in garbage:
            part[:, own] = 1e4 * torch.randn(part[:, own].shape, generator=torch.Generator().manual_seed(sequence))
        after = packed_attention(*garbage, plan, scale=0.35)
        assert torch.equal(after[:, ~own], before[:, ~own])


def test_a_prompt_hears_nothing_from_its_continuations_and_all_of_them_hear_it():
    batch = random_batch(SHAPE)
    parts = random_parts(batch)
    block = batch.blocks[0]
    got = packed_attention(*parts, layout(batch.blocks), scale=0.35)
    prompt, rest = slice(block.start, block.start + block.prompt), slice(block.start + block.prompt, block.end)
    of_prompt = torch.autograd.grad(got[:, prompt].sum(), parts, retain_graph=True)
    assert all(not gradient[:, rest].any() for gradient in of_prompt)
    for token in range(rest.start, rest.stop):
        value_gradient = torch.autograd.grad(got[:, token].sum(), parts[2], retain_graph=True)[0]
        assert bool((value_gradient[:, prompt] != 0).all())


@given(shapes)
def test_the_buckets_hold_every_token_once_and_pad_little(shape):
    batch = random_batch(shape)
    plan = layout(batch.blocks)
    held = torch.cat([bucket.flatten() for bucket in plan.buckets])
    real = held[held < batch.num_tokens]
    assert sorted(real.tolist()) == list(range(batch.num_tokens))
    assert held.numel() <= 1.25 * batch.num_tokens


@pytest.mark.parametrize(
    ("spans", "calls"),
    [([(0, 256), (256, 256)], 1), ([(0, 257), (257, 257)], 2), ([(0, 200), (200, 300)], 2), ([(0, 8), (8, 4)], 2)],
)
def test_short_spans_of_like_length_share_a_call_and_long_ones_do_not(spans, calls):
    plan = layout(tuple(Block(start=start, prompt=length - 1, lengths=(1,)) for start, length in spans))
    assert len(plan.buckets) == calls
    assert not plan.crosses, "a prompt with one continuation is one span"
