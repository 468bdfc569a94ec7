"""PPO with critics of costs: mixed advantages, the KL's weight, each head's target, and a constrained optimum."""

from __future__ import annotations

import math

import pytest
import torch

from alignkit.algorithms.rollouts import ppo
from alignkit.algorithms.rollouts.ppo_lagrangian import ALGORITHM, Config, critic_loss, estimate
from alignkit.errors import RecipeError
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.lookup.find import find
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Constraint
from alignkit.train.hooks.constraints import Constraints
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from tests.tiny import noise, random_batch, repack

COSTS = ("harm", "length")


def config(**settings) -> Config:
    return Config(type="ppo_lagrangian", **({"costs": COSTS, "whiten_advantages": False} | settings))


def limits(mix: bool, multipliers: tuple[float, float] = (0.7, 0.2)) -> Constraints:
    settings = [
        Constraint(of=name, limit=0.0, delay=9, multiplier=m) for name, m in zip(COSTS, multipliers, strict=True)
    ]
    return Constraints(settings=settings, mix=mix)


def sampled(heads: int = 3) -> Batch:
    """Sequences with holes, rewards, costs, KLs, and values that are constant on the last head."""
    batch = random_batch(holes=True)
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(batch.num_tokens, heads, generator=generator)
    harm = torch.rand(batch.num_sequences, generator=generator)
    old = torch.where(batch.action_mask, noise(batch, 0.5, seed=1), 0.0)
    ref = torch.where(batch.action_mask, noise(batch, 0.5, seed=2), 0.0)
    return batch.replace(
        values=values, old_logprobs=old, ref_logprobs=ref, channels={"harm": harm}, reward=harm.flip(0) * 2
    )


def limited(batch: Batch, constraints: Constraints) -> Batch:
    return constraints.before_estimate(batch, constraints.begin(), 0)[0]


@pytest.mark.parametrize("trace", [0.0, 0.9, 1.0])
def test_it_is_ppo_on_the_mixed_reward_with_the_mixed_value(trace):
    """All is linear: the two differ in what their critics have to learn, and in nothing else."""
    batch, settings = sampled(), {"kl_weight": 0.3, "gae_lambda": trace, "discount": 0.95, "bootstrap_truncated": True}
    got = estimate(config(**settings), limited(batch, limits(mix=False)))
    value = (batch.values[:, 0] - 0.7 * batch.values[:, 1] - 0.2 * batch.values[:, 2]) / 1.9
    one = limited(batch.replace(values=value[:, None]), limits(mix=True))
    wanted = ppo.estimate(ppo.Config(type="ppo", whiten_advantages=False, **settings), one)
    torch.testing.assert_close(got.advantages, wanted.advantages, rtol=1e-4, atol=1e-5)


def test_the_weight_of_the_kl_does_not_depend_on_the_multipliers():
    """Without rewards, costs and values the advantages are the KL's alone."""
    batch = sampled()
    silent = batch.replace(
        values=torch.zeros_like(batch.values), reward=batch.reward * 0, channels={"harm": batch.reward * 0}
    )
    seen = []
    for multipliers in ((1e-3, 1e-3), (0.7, 0.2), (5.0, 5.0)):
        channels = limited(silent, limits(False, multipliers)).channels | {"cost/length": batch.reward * 0}
        seen.append(estimate(config(kl_weight=0.3, gae_lambda=1.0), silent.replace(channels=channels)).advantages)
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[2], seen[0], rtol=1e-4, atol=1e-6)
    assert seen[0].abs().max() > 0.1


def test_a_reward_of_1_and_a_cost_of_a_half_at_multiplier_2_cancel():
    batch = pack([Item(prompt_ids=[1], completion_ids=[2], reward=1.0, channels={"harm": 0.5})])
    batch = batch.replace(values=torch.zeros(2, 2))
    alone = Constraints(settings=[Constraint(of="harm", limit=0.0, delay=9, multiplier=2.0)], mix=False)
    got = estimate(config(costs=("harm",)), limited(batch, alone))
    assert got.advantages.tolist() == [0.0, 0.0]
    assert got.returns.tolist() == [[0.0, 0.0], [1.0, 0.5]]


def test_each_head_learns_its_own_return_of_states_before_action_tokens():
    apart = repack(sampled(), share_prefix=False)  # a shared prompt has one value for answers of different returns
    batch = estimate(config(gae_lambda=1.0), limited(apart, limits(False)))
    before = batch.parent[batch.action_mask]
    harm = batch.channels["harm"][batch.segment[batch.action_mask]]
    torch.testing.assert_close(batch.returns[batch.action_mask][:, 1], harm)
    torch.testing.assert_close(
        batch.returns[batch.action_mask][:, 2], batch.actions_per_sequence()[batch.segment[batch.action_mask]].float()
    )
    said = batch.values.clone()
    said[before] = batch.returns[batch.action_mask]
    loss = critic_loss(config(clip_value=None), Outputs(values=said), batch)
    assert loss.total.item() == 0.0
    assert loss.count == batch.num_actions
    off = critic_loss(config(clip_value=None, value_weight=0.5), Outputs(values=said + 1.0), batch)
    assert off.total.item() == pytest.approx(3 * 0.5 * 0.5 * batch.num_actions, rel=1e-5)
    assert off.metrics["critic/cost_error"].value == pytest.approx(1.0, rel=1e-5)


def test_without_costs_it_is_ppo():
    batch = sampled(heads=1)
    got, wanted = (
        estimate(config(costs=(), kl_weight=0.1, whiten_rewards=True), batch),
        ppo.estimate(ppo.Config(type="ppo", kl_weight=0.1, whiten_rewards=True, whiten_advantages=False), batch),
    )
    assert torch.equal(got.advantages, wanted.advantages)
    assert torch.equal(got.returns[:, 0], wanted.returns)


def test_a_bandit_with_a_costly_best_arm_goes_to_the_saddle_point_of_its_kl():
    """Arm 0 pays 1 and costs 1; mean cost at most 0.3, KL to the even policy weighs 0.2: logit -0.8473, m = 1.408."""
    constraints = Constraints(settings=[Constraint(of="harm", limit=0.3, lr=0.2, multiplier=0.5, cap=50.0)], mix=False)
    logit, memory, settings = 0.0, constraints.begin(), config(costs=("harm",), kl_weight=0.2)
    for step in range(80):  # it stands still from the 50th
        share = 1 / (1 + math.exp(-logit))
        draws = round(share * 200)
        arms = [1.0] * draws + [0.0] * (200 - draws)
        items = [
            Item(prompt_ids=[1], completion_ids=[2], reward=a, channels={"harm": a}, group=0, member=m)
            for m, a in enumerate(arms)
        ]
        batch = pack(items, share_prefix=True)
        chosen = torch.tensor([share if a else 1 - share for a in arms]).log()
        column = batch.scatter(chosen)
        batch = batch.replace(
            values=torch.zeros(batch.num_tokens, 2),
            old_logprobs=column,
            ref_logprobs=batch.scatter(torch.full((200,), math.log(0.5))),
        )
        batch, memory, metrics = constraints.before_estimate(batch, memory, step)
        advantages = estimate(settings, batch).advantages[batch.action_mask]
        costly = torch.tensor(arms) == 1
        logit += 1.5 * float(advantages[costly].mean() - advantages[~costly].mean())
    assert share == pytest.approx(0.3, abs=0.01)
    assert metrics["constraint/multiplier/harm"] == pytest.approx(1.408, abs=0.03)


def test_costs_and_constraints_must_name_the_same():
    path = find("recipes", "smoke/ppo_lagrangian").path
    stage = read_recipe(path).stages[0]
    assert ALGORITHM.requires(config(costs=("kl",)), stage) == []
    assert "set algorithm.costs to ['kl']" in ALGORITHM.requires(config(costs=("harm",)), stage)[0]
    free = stage.model_copy(update={"constraints": ()})
    assert "there are none: add `constraints`, or take ppo" in ALGORITHM.requires(config(), free)[0]
    assert ALGORITHM.heads(config()) == ("value", "harm", "length")
    explained = explain_recipe(read_recipe(path))["stages"][0]
    assert explained["besides"][0] == "constraint: mean kl at most 0.4; m begins at 1 and rises to 5 at most"
    assert explained["models"] == ["policy", "reference", "critic (of its own)"]


def test_a_limit_on_kl_asks_for_a_reference_which_may_then_be_named():
    path = find("recipes", "smoke/ppo_lagrangian").path
    named = read_recipe(path, ["reference.path=some/model"])
    assert named.reference.path == "some/model"
    with pytest.raises(RecipeError, match="no stage uses a reference model"):
        read_recipe(path, ["reference.path=some/model", "algorithm.costs=[length]", "constraints.0.of=length"])
