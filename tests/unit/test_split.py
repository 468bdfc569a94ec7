"""Splitting a minibatch over micro-batches and ranks, and the step that must not depend on how it was split."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.algorithms.base import Algorithm, AlgorithmConfig
from alignkit.errors import BatchError, HealthError
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.train.split import micro_batches, minibatches
from alignkit.train.step import Step
from alignkit.types.batch import Batch
from alignkit.types.metric import Mean
from alignkit.types.outputs import Loss, Outputs
from tests.tiny import Recorder, causal_lm, noise, on_ranks, random_batch

shapes = st.lists(
    st.tuples(st.integers(1, 20), st.lists(st.integers(1, 20), min_size=1, max_size=5)), min_size=1, max_size=5
)


def tokens_of(batch: Batch, sequences: list[int]) -> int:
    return batch.select(sequences).num_tokens


@given(shapes, st.integers(1, 120), st.integers(1, 4), st.data())
def test_every_sequence_is_computed_once_by_one_rank_and_all_ranks_have_as_many_rounds(shape, max_tokens, world, data):
    batch = random_batch(shape)
    wanted = data.draw(st.sets(st.integers(0, batch.num_sequences - 1), min_size=1))
    rounds = micro_batches(batch, sorted(wanted), max_tokens=max_tokens, world=world)
    assert all(len(plan) == world for plan in rounds)
    assert sorted(chain.from_iterable(chain.from_iterable(rounds))) == sorted(wanted)


@given(shapes, st.integers(1, 120), st.integers(1, 4))
def test_a_micro_batch_exceeds_the_budget_only_when_a_single_sequence_does(shape, max_tokens, world):
    batch = random_batch(shape)
    for plan in micro_batches(batch, range(batch.num_sequences), max_tokens=max_tokens, world=world):
        for sequences in filter(None, plan):
            assert tokens_of(batch, sequences) <= max_tokens or len(sequences) == 1


@given(shapes, st.integers(1, 4))
def test_a_group_that_fits_shares_its_prompt(shape, world):
    """With a budget for everything a block is cut only to give every rank something to do, which needs no cut here."""
    batch = random_batch(shape)
    rounds = micro_batches(batch, range(batch.num_sequences), max_tokens=10_000, world=world)
    held = [tokens_of(batch, sequences) for plan in rounds for sequences in plan if sequences]
    assert sum(held) == batch.num_tokens
    if world == 1:
        assert len(rounds) == 1


def test_two_equal_groups_go_to_two_ranks_and_a_lone_sequence_leaves_one_idle():
    batch = random_batch([(4, [3, 3]), (4, [3, 3])])
    assert micro_batches(batch, range(4), max_tokens=100, world=2) == [[[0, 1], [2, 3]]]
    assert micro_batches(batch, [1], max_tokens=100, world=2) == [[[1], []]]


def test_the_larger_micro_batch_of_a_round_goes_to_each_rank_in_turn():
    """Four groups of 40, 38, 36 and 34 tokens for two ranks: 40 + 34 and 38 + 36, not 40 + 36 and 38 + 34."""
    batch = random_batch([(4, [36]), (4, [34]), (4, [32]), (4, [30])])
    assert micro_batches(batch, range(4), max_tokens=40, world=2) == [[[0], [1]], [[3], [2]]]


def test_a_block_beyond_the_budget_is_cut_and_each_part_has_the_prompt_again():
    batch = random_batch([(4, [3, 3, 3])])  # 13 tokens; two sequences take 10
    plans = micro_batches(batch, range(3), max_tokens=10, world=1)
    assert plans == [[[0, 1]], [[2]]]
    assert [tokens_of(batch, plan[0]) for plan in plans] == [10, 7]


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 9))
def test_minibatches_are_nearly_equal_and_hold_every_sequence_once(total, count, seed):
    batch = random_batch([(1, [1])] * total)
    parts = minibatches(batch, count, unit="sequence", rng=np.random.default_rng(seed))
    assert sorted(sequence for part in parts for sequence in part) == list(range(total))
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1 if total >= count else len(parts) == total


@given(shape=shapes, count=st.integers(1, 4), max_tokens=st.integers(1, 60), seed=st.integers(0, 9))
def test_where_groups_are_the_unit_none_is_cut_by_minibatches_or_micro_batches(shape, count, max_tokens, seed):
    batch = random_batch(shape, share_prefix=seed % 2 == 0)
    for part in minibatches(batch, count, unit="group", rng=np.random.default_rng(seed)):
        for plan in micro_batches(batch, part, max_tokens=max_tokens, world=2, unit="group"):
            for micro in filter(None, plan):
                for group in set(batch.group[micro].tolist()):
                    whole = (batch.group == group).nonzero().squeeze(-1).tolist()
                    assert set(whole) <= set(micro)


class Config(AlgorithmConfig):
    pass


def step_with(loss, model=None, *, group: Group | None = None, max_tokens: int = 20) -> Step:
    """A Step of an algorithm that is nothing but `loss(outputs, batch) -> Loss`."""
    model = causal_lm() if model is None else model
    algorithm = Algorithm(
        config=Config,
        source="sft",
        estimate=lambda config, batch: batch,
        losses={"policy": lambda config, outputs, batch: loss(outputs, batch)},
        requires=lambda config, stage: [],
        explain=lambda config: "",
    )
    return Step(
        algorithm=algorithm,
        config=Config(type="test"),
        trainer=Recorder(model),
        forward=Forward(model=model, dtype=torch.float32),
        group=group or Group(),
        temperature=1.0,
        max_tokens=max_tokens,
    )


def mean_nll(outputs: Outputs, batch: Batch) -> Loss:
    total = -outputs.logprobs[batch.action_mask].sum()
    return Loss(total=total, count=batch.num_actions, metrics={"nll": Mean(float(total.detach()), batch.num_actions)})


def test_the_loss_is_divided_once_by_the_count_of_the_whole_minibatch():
    batch = random_batch()
    step = step_with(mean_nll)
    metrics, _ = step.update(batch, [0, 2, 5, 6], lr=1.0)
    whole = step_with(mean_nll, max_tokens=1000)
    wanted, _ = whole.update(batch, [0, 2, 5, 6], lr=1.0)
    assert step.trainer.loss == pytest.approx(whole.trainer.loss, rel=1e-6)
    assert metrics["nll"].value == pytest.approx(wanted["nll"].value, rel=1e-6)
    assert whole.trainer.loss == pytest.approx(wanted["nll"].value, rel=1e-6)


def test_a_count_that_depends_on_the_outputs_is_refused():
    def above_average_only(outputs: Outputs, batch: Batch) -> Loss:
        logprobs = outputs.logprobs[batch.action_mask]
        chosen = logprobs > -2.0
        return Loss(total=logprobs[chosen].sum(), count=float(chosen.sum()))

    with pytest.raises(BatchError, match="a count must follow from the batch alone"):
        step_with(above_average_only).update(random_batch(), range(10), lr=1.0)


def test_a_minibatch_without_a_trained_token_is_refused():
    batch = random_batch()
    silent = batch.replace(action_mask=torch.zeros_like(batch.action_mask))
    with pytest.raises(BatchError, match="a minibatch of 3 sequences has nothing to train the policy on"):
        step_with(mean_nll).update(silent, [0, 1, 2], lr=1.0)


def test_a_loss_that_is_no_number_stops_before_the_update():
    def broken(outputs: Outputs, batch: Batch) -> Loss:
        return Loss(total=mean_nll(outputs, batch).total * float("nan"), count=batch.num_actions)

    step = step_with(broken)
    with pytest.raises(HealthError, match="the loss is nan: stopped before the update"):
        step.update(random_batch(), range(10), lr=1.0)
    assert step.trainer.gradient.numel() == 0  # Trainer.step was not reached


def test_on_two_ranks_a_bad_count_and_a_bad_loss_on_one_of_them_stop_both():
    batch = random_batch()

    def broken_on_the_second(group: Group, model) -> str:
        def loss(outputs: Outputs, batch: Batch) -> Loss:
            value = mean_nll(outputs, batch)
            factor = float("inf") if group.rank == 1 else 1.0
            return Loss(total=value.total * factor, count=value.count)

        try:
            step_with(loss, model, group=group).update(batch, range(10), lr=1.0)
        except HealthError as error:
            return str(error)
        return "no error"

    said = on_ranks(2, broken_on_the_second, causal_lm())
    assert all("stopped before the update" in sentence for sentence in said)


def test_a_rank_that_sits_out_adds_nothing_to_gradient_or_metrics():
    batch = random_batch([(4, [3])])

    def work(group: Group, model):
        step = step_with(mean_nll, model, group=group)
        metrics, norm = step.update(batch, [0], lr=1.0)
        return metrics["nll"], norm

    (first, norm), (second, idle_norm) = on_ranks(2, work, causal_lm())
    alone, wanted_norm = step_with(mean_nll).update(batch, [0], lr=1.0)
    assert first == second == alone["nll"]
    assert (norm, idle_norm) == (pytest.approx(wanted_norm, rel=1e-6), 0.0)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_log_probs_of_the_whole_batch_are_each_computed_by_one_rank_and_known_to_all(world):
    batch = random_batch(holes=True)
    batch = batch.replace(old_logprobs=noise(batch, 1.0, seed=0))
    wanted = Forward(model=causal_lm(), dtype=torch.float32)(batch, temperature=1.0).logprobs.detach()

    def work(group: Group, model):
        step = step_with(mean_nll, model, group=group)
        return step.read(batch, step.forward, "logprobs")

    for got in on_ranks(world, work, causal_lm()):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        assert not got.requires_grad
