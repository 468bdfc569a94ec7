"""PPO: where the reward is paid, what the critic learns, the KL controller, and that it finds a known optimum."""

from __future__ import annotations

import pytest
import torch

from alignkit.algorithms.rollouts.ppo import ALGORITHM, Config, critic_loss, estimate, policy_loss
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from tests.tiny import noise, random_batch


def config(**settings) -> Config:
    return Config(type="ppo", **settings)


def with_values(batch: Batch, *, seed: int = 0) -> Batch:
    return batch.replace(values=torch.randn(batch.num_tokens, 1, generator=torch.Generator().manual_seed(seed)))


def four_tokens(**changes) -> Batch:
    """A prompt of 2 tokens, 4 tokens chosen; values of the states before them 0.5, 0.4, 0.6, 0.3, after them 2."""
    batch = pack([Item(prompt_ids=[1, 2], completion_ids=[3, 4, 5, 6], sampler_logprobs=[-1.0] * 4, **changes)])
    return batch.replace(values=torch.tensor([[9.0], [0.5], [0.4], [0.6], [0.3], [2.0]]))


def test_values_are_read_before_each_token_and_the_score_is_paid_after_the_last():
    """Paid (0, 0, 0, 1) with the whole trace: A = 1 - V, R = 1 everywhere."""
    batch = estimate(config(gae_lambda=1.0, whiten_advantages=False), four_tokens(reward=1.0))
    assert batch.advantages.tolist() == pytest.approx([0, 0, 0.5, 0.6, 0.4, 0.7])
    assert batch.returns.tolist() == pytest.approx([0, 0, 1, 1, 1, 1])


def test_kl_is_paid_per_token():
    """GAE of r = (-0.1, 0.2, 0, 1), as in the golden table: kl 0.5 x (0.2, -0.4, 0, 0), score 1."""
    old = torch.tensor([0, 0, -1.0, -1.0, -1.0, -1.0])
    ref = torch.tensor([0, 0, -1.2, -0.6, -1.0, -1.0])
    batch = four_tokens(reward=1.0).replace(old_logprobs=old, ref_logprobs=ref)
    got = estimate(config(kl_weight=0.5, gae_lambda=0.95, whiten_advantages=False), batch)
    assert got.advantages[2:].tolist() == pytest.approx([0.5094125, 0.74675, 0.365, 0.7], abs=1e-6)
    adapted = estimate(
        config(kl_weight=9.0, kl_target=1.0, whiten_advantages=False), batch.replace(controls={"kl_weight": 0.5})
    )
    assert adapted.advantages[2:].tolist() == pytest.approx([0.5094125, 0.74675, 0.365, 0.7], abs=1e-6)


def test_a_cut_completion_is_penalised_or_goes_on_with_the_value_of_its_last_state():
    settings = {"gae_lambda": 0.0, "whiten_advantages": False}
    cut = four_tokens(reward=1.0, truncated=True)
    assert estimate(config(**settings), cut).advantages[-1].item() == pytest.approx(0.7)
    assert estimate(config(missing_eos_penalty=1.0, **settings), cut).advantages[-1].item() == pytest.approx(-0.3)
    assert estimate(config(bootstrap_truncated=True, **settings), cut).advantages[-1].item() == pytest.approx(2.7)
    whole = four_tokens(reward=1.0)
    for option in ({"missing_eos_penalty": 1.0}, {"bootstrap_truncated": True}):
        assert estimate(config(**option, **settings), whole).advantages[-1].item() == pytest.approx(0.7)
    assert ALGORITHM.requires(config(missing_eos_penalty=1.0, bootstrap_truncated=True), None)


def test_rewards_per_turn_are_paid_where_they_were_earned():
    batch = four_tokens(reward=3.0, rewards=[0.0, 2.0, 0.0, 1.0], action=[True, True, False, True])
    got = estimate(config(gae_lambda=1.0, whiten_advantages=False), batch)
    assert got.returns.tolist() == pytest.approx([0, 0, 3, 3, 0, 1])


def test_whitened_advantages_do_not_see_a_shift_of_all_values_and_rewards_and_cover_the_whole_batch():
    batch = with_values(random_batch(holes=True))
    got = estimate(config(), batch)
    chosen = got.advantages[got.action_mask]
    assert chosen.mean().item() == pytest.approx(0, abs=1e-6)
    assert chosen.var(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    shifted = estimate(config(gae_lambda=1.0), batch.replace(reward=batch.reward + 5))
    torch.testing.assert_close(
        shifted.advantages, estimate(config(gae_lambda=1.0), batch).advantages, rtol=1e-4, atol=1e-5
    )
    raised = estimate(config(whiten_rewards=True, whiten_advantages=False), batch.replace(reward=batch.reward * 10))
    same = estimate(config(whiten_rewards=True, whiten_advantages=False), batch)
    assert not torch.allclose(raised.returns, same.returns)  # the mean is kept


def test_at_ratio_1_the_gradient_is_that_of_reinforce():
    batch = estimate(config(), with_values(random_batch(holes=True)))
    batch = batch.replace(old_logprobs=noise(batch, 1.0, seed=1), sampler_logprobs=noise(batch, 1.0, seed=1))
    logprobs = batch.old_logprobs.double().requires_grad_()
    loss = policy_loss(config(), Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs)), batch)
    (gradient,) = torch.autograd.grad(loss.total, logprobs)
    torch.testing.assert_close(gradient, -batch.advantages.double(), rtol=0, atol=1e-7)


def test_the_entropy_bonus_pushes_the_entropy_up():
    batch = estimate(config(), with_values(random_batch()))
    entropy = torch.rand(batch.num_tokens).requires_grad_()
    outputs = Outputs(logprobs=batch.sampler_logprobs, entropy=entropy)
    (gradient,) = torch.autograd.grad(policy_loss(config(entropy_weight=0.3), outputs, batch).total, entropy)
    torch.testing.assert_close(gradient, -0.3 * batch.action_mask.float())


def test_the_critic_learns_the_returns_of_states_before_action_tokens_and_nothing_else():
    batch = estimate(config(), with_values(random_batch(holes=True)))
    values = torch.randn(batch.num_tokens, 1, requires_grad=True)
    loss = critic_loss(config(clip_value=None, value_weight=2.0), Outputs(values=values), batch)
    (gradient,) = torch.autograd.grad(loss.total, values)
    before = batch.parent[batch.action_mask]
    wanted = torch.zeros(batch.num_tokens).index_add(
        0, before, 2 * (values[before, 0] - batch.returns[batch.action_mask])
    )
    torch.testing.assert_close(gradient[:, 0], wanted.detach())
    assert loss.count == batch.num_actions


@pytest.mark.parametrize(("divergence", "wanted"), [(9.0, 0.151536), (6.0, 0.15), (3.0, 0.148464), (6.3, 0.150384)])
def test_the_kl_weight_follows_the_target(divergence, wanted):
    """512 sequences of one token, target 6, first weight 0.15."""
    items = [Item(prompt_ids=[1], completion_ids=[2], group=i) for i in range(512)]
    batch = pack(items).replace(controls={"kl_weight": 0.15})
    batch = batch.replace(old_logprobs=batch.action_mask * divergence, ref_logprobs=batch.action_mask * 0.0)
    settings = config(kl_weight=0.15, kl_target=6.0)
    assert ALGORITHM.adapt(settings, batch)["kl_weight"] == pytest.approx(wanted, abs=1e-6)
    for _ in range(10):
        far = batch.replace(old_logprobs=batch.action_mask * 7.2)
        batch = batch.replace(controls=ALGORITHM.adapt(settings, far.replace(controls=batch.controls)))
    assert batch.controls["kl_weight"] == pytest.approx(0.1660875, abs=1e-6)


def test_the_controller_is_there_only_with_a_target_and_a_weight_to_adapt():
    assert ALGORITHM.controls(config(kl_weight=0.1)) == {}
    assert ALGORITHM.controls(config(kl_weight=0.1, kl_target=6.0)) == {"kl_weight": 0.1}
    (sentence,) = ALGORITHM.requires(config(kl_target=6.0), None)
    assert sentence == "kl_target adapts kl_weight, which is 0: give it a first value, e.g. 0.05"


def test_it_finds_the_best_policy_of_a_bandit_with_kl_in_the_reward():
    """Rewards (1, 0, 0.5), reference (0.2, 0.5, 0.3), weight 0.5: pi* = ref exp(r / 0.5) / Z."""
    paid, reference = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0.2, 0.5, 0.3]).log()
    logits = torch.zeros(3, requires_grad=True)
    value = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([logits, value], lr=0.02)
    settings = config(kl_weight=0.5, whiten_advantages=False, clip_value=None, value_weight=1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        old = logits.detach().log_softmax(0)
        arms = torch.multinomial(old.exp(), 64, replacement=True, generator=generator)
        items = [Item(prompt_ids=[0], completion_ids=[arm], reward=float(paid[arm])) for arm in arms.tolist()]
        batch = pack(items)
        columns = {
            name: batch.scatter(logs[arms]) for name, logs in (("old_logprobs", old), ("ref_logprobs", reference))
        }
        columns |= {"sampler_logprobs": columns["old_logprobs"], "values": value.detach().expand(batch.num_tokens, 1)}
        batch = estimate(settings, batch.replace(**columns))
        for _ in range(2):
            said = batch.scatter(logits.log_softmax(0)[arms])
            outputs = Outputs(logprobs=said, entropy=torch.zeros_like(said), values=value.expand(batch.num_tokens, 1))
            losses = [loss(settings, outputs, batch) for loss in (policy_loss, critic_loss)]
            optimizer.zero_grad()
            sum(loss.total / loss.count for loss in losses).backward()
            optimizer.step()
    wanted = torch.tensor([0.529056, 0.179000, 0.291944])
    assert (logits.softmax(0) - wanted).abs().sum() / 2 < 0.002
    assert value.item() == pytest.approx(0.513611, abs=0.002)  # J* = 0.5 log Z
