"""Methods that choose among their samples: online_dpo, raft, filtered_bc. What they choose, what they then learn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from alignkit import ops
from alignkit.algorithms.preferences import dpo
from alignkit.algorithms.rollouts import online_dpo, raft
from alignkit.algorithms.turns import filtered_bc
from alignkit.recipe.schema import Optimizer, Rollouts, Stage, Train
from alignkit.types.batch import Batch
from tests.tabular import completions, loss_and_gradient, on_actions, one_token_each


def stage(group: int) -> Stage:
    return Stage.model_validate(
        {"data": {"source": "generator:addition"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1), "rollouts": Rollouts(group=group)}
    )


def places(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.group.tolist(), batch.member.tolist(), strict=True))


# --- the best of a group -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, [1, 0, 0, 0, 0, 0, 1]), (2, [1, 0, 1, 0, 0, 0, 1]), (9, [1, 0, 1, 1, 0, 0, 1])]
)
def test_the_best_of_a_group_are_its_largest_values_and_never_its_smallest(count, wanted):
    """Group 0: 3, 1, 2, 2 (the first of the equal ones goes first); group 1: 5, 5, without spread; group 2: 0."""
    values = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0, 5.0, 7.0])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    got = ops.choices.best(values, group, count)
    assert got.tolist() == [bool(each) for each in wanted[:6]] + [False]


def test_groups_may_lie_anywhere_in_the_batch():
    values, group = torch.tensor([1.0, 9.0, 4.0, 2.0, 8.0, 3.0]), torch.tensor([7, 2, 7, 2, 2, 7])
    assert ops.choices.best(values, group, 1).tolist() == [False, True, True, False, False, False]
    assert ops.choices.best(values, group, 2).tolist() == [False, True, True, False, True, True]


# --- online dpo --------------------------------------------------------------------------------------------------


def test_online_dpo_pairs_the_best_with_the_worst_and_drops_prompts_without_a_difference():
    batch = one_token_each([0.5, 1, 0, 1, 2, 2, 0, 3], groups=[0, 0, 0, 0, 1, 1, 2, 2])
    kept = online_dpo.estimate(online_dpo.Config(type="online_dpo"), batch)
    assert places(kept) == [(0, 1), (0, 2), (2, 6), (2, 7)]
    assert kept.side.tolist() == [1, -1, -1, 1]


def test_cut_completions_are_penalised_before_they_are_ranked():
    batch = one_token_each([1, 0.5, 0]).replace(truncated=torch.tensor([True, False, False]))
    plain = online_dpo.estimate(online_dpo.Config(type="online_dpo"), batch)
    punished = online_dpo.estimate(online_dpo.Config(type="online_dpo", missing_eos_penalty=2.0), batch)
    assert (plain.member.tolist(), plain.side.tolist()) == ([0, 2], [1, -1])
    assert (punished.member.tolist(), punished.side.tolist()) == ([0, 1], [-1, 1])


def test_its_loss_is_that_of_dpo_on_the_chosen_pair():
    """Log-ratios to the reference 1 (chosen, two tokens) and -.5: -log sigmoid(.1 x 1.5) = .620957."""
    batch = completions(2, 1, 3, rewards=[1, 0, 0.5])
    batch = batch.replace(ref_logprobs=on_actions(batch, [-1.0] * 6))
    settings = online_dpo.Config(type="online_dpo")
    kept = online_dpo.estimate(settings, batch)
    value, gradient, loss = loss_and_gradient(online_dpo.ALGORITHM, settings, kept, [-0.5, -0.5, -1.5])
    assert value == pytest.approx(0.620957, abs=1e-6)
    pull = 0.1 / (1 + math.exp(0.15))
    assert gradient == pytest.approx([-pull, -pull, pull], abs=1e-6)
    assert loss.count == 1
    assert loss.metrics["pairs/accuracy"].value == 1.0


def test_all_ties_leave_nothing_and_a_group_of_one_is_refused_with_the_cure():
    settings = online_dpo.Config(type="online_dpo")
    assert online_dpo.estimate(settings, one_token_each([1, 1, 1])).num_sequences == 0
    assert online_dpo.ALGORITHM.requires(settings, stage(1))[0].endswith("set rollouts.group to at least 2")
    assert online_dpo.ALGORITHM.requires(settings, stage(2)) == []


def test_the_settings_of_dpo_are_its_settings():
    settings = online_dpo.Config(type="online_dpo", loss_type="robust")
    assert online_dpo.ALGORITHM.requires(settings, stage(2)) == dpo.ALGORITHM.requires(
        dpo.Config(type="dpo", loss_type="robust"), stage(2)
    )
    assert "ties dropped" in online_dpo.ALGORITHM.explain(settings)


# --- raft --------------------------------------------------------------------------------------------------------


def raft_config(**settings: Any) -> raft.Config:
    return raft.Config(type="raft", **settings)


def test_raft_keeps_the_best_of_each_prompt():
    batch = one_token_each([0.5, 1, 0, 1, 2, 2, 0, 3], groups=[0, 0, 0, 0, 1, 1, 2, 2])
    assert places(raft.estimate(raft_config(), batch)) == [(0, 1), (2, 7)]
    assert places(raft.estimate(raft_config(keep=2), batch)) == [(0, 1), (0, 3), (2, 7)]
    assert places(raft.estimate(raft_config(keep=3, min_reward=1.0), batch)) == [(0, 1), (0, 3), (2, 7)]
    assert places(raft.estimate(raft_config(min_reward=2.0), batch)) == [(2, 7)]


def test_raft_imitates_what_it_kept():
    """Two completions of 2 and 1 tokens with log-probs -1, -2 and -3: 2 per token, (1.5 + 3) / 2 per completion."""
    batch = raft.estimate(raft_config(keep=2), completions(2, 3, 1, rewards=[1, 0, 0.5]))
    logprobs = [-1.0, -2.0, -3.0]
    assert loss_and_gradient(raft.ALGORITHM, raft_config(), batch, logprobs)[0] == pytest.approx(2.0)
    value, gradient, _ = loss_and_gradient(
        raft.ALGORITHM, raft_config(aggregate="sequence_mean_token_mean"), batch, logprobs
    )
    assert value == pytest.approx(2.25)
    assert gradient == pytest.approx([-0.25, -0.25, -0.5])


def test_raft_without_a_choice_is_refused_and_without_spread_keeps_nothing():
    assert "set rollouts.group above keep" in raft.ALGORITHM.requires(raft_config(keep=4), stage(4))[0]
    assert raft.ALGORITHM.requires(raft_config(keep=3), stage(4)) == []
    assert raft.estimate(raft_config(), one_token_each([1, 1, 0, 0], groups=[0, 0, 1, 1])).num_sequences == 0


def test_repeated_imitation_of_the_better_sample_finds_the_best_arm():
    """Best of two by reward on three arms, rewards (1, 0, .5), over all pairs; ties are not imitated. From (1/3, 1/3,
    1/3) the kept are 4 to 0 to 2, and from (2/3, 0, 1/3) only the first arm is."""
    policy = torch.full((3,), 1 / 3, dtype=torch.float64)
    rewards = [1.0, 0.0, 0.5]
    for wanted in ([2 / 3, 0, 1 / 3], [1, 0, 0]):
        kept = torch.zeros(3, dtype=torch.float64)
        for a in range(3):
            for b in range(3):
                batch = raft.estimate(raft_config(), one_token_each([rewards[a], rewards[b]]))
                if batch.num_sequences:
                    kept[(a, b)[int(batch.member[0])]] += policy[a] * policy[b]
        policy = kept / kept.sum()  # what minimises the negative log-likelihood of the kept ones
        assert policy.tolist() == pytest.approx(wanted)


# --- filtered behaviour cloning ----------------------------------------------------------------------------------


def bc(**settings: Any) -> filtered_bc.Config:
    return filtered_bc.Config(type="filtered_bc", **settings)


def test_filtered_bc_compares_over_prompts_and_keeps_ties_at_the_threshold():
    batch = one_token_each([5, 4, 4, 1, 4, 0, 0, 2], groups=[0, 0, 1, 1, 2, 2, 3, 3])
    assert filtered_bc.estimate(bc(fraction=0.1), batch).member.tolist() == [0]
    assert filtered_bc.estimate(bc(fraction=0.25), batch).member.tolist() == [0, 1, 2, 4]
    assert filtered_bc.estimate(bc(fraction=0.5), batch).member.tolist() == [0, 1, 2, 4]
    assert filtered_bc.estimate(bc(fraction=0.6), batch).member.tolist() == [0, 1, 2, 4, 7]


def test_the_lowest_return_is_never_imitated():
    batch = one_token_each([1, 0, 0, 0, 0, 0, 0, 0])
    assert filtered_bc.estimate(bc(fraction=1.0), batch).member.tolist() == [0]
    assert filtered_bc.estimate(bc(), one_token_each([0.3] * 8)).num_sequences == 0


def test_it_says_what_it_imitates():
    assert "best 25%" in filtered_bc.ALGORITHM.explain(bc(fraction=0.25))
    assert "2 best of a prompt's completions with a reward of at least 0.5" in raft.ALGORITHM.explain(
        raft_config(keep=2, min_reward=0.5)
    )
