"""DQO: no residual at the known optimum of a tree, training that finds it, horizon one, and rewards along the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignkit.algorithms.preferences import rebel_pairs
from alignkit.algorithms.rollouts import ppo
from alignkit.algorithms.rollouts.dqo import ALGORITHM, Config, critic_loss, estimate, policy_loss
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from tests.tabular import finite_differences, in_float64, on_actions

BETA = 0.5
FIRST = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
"""Paid after the first of two tokens, of which there are three kinds."""
SECOND = torch.tensor([[1.0, 0.0], [0.3, 0.6], [-0.5, 0.1]], dtype=torch.float64)
"""Paid after the second, of two kinds."""
REFERENCE = (
    torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log(),
    torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]], dtype=torch.float64).log(),
)


def config(**settings) -> Config:
    return Config(type="dqo", **({"beta": BETA} | settings))


def optimum() -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """(Log-probs of the best policy, V at the root, V after each first token), by soft backups."""
    later = BETA * (REFERENCE[1] + SECOND / BETA).logsumexp(1)
    first = REFERENCE[0] + (FIRST + later) / BETA
    return (first.log_softmax(0), (REFERENCE[1] + SECOND / BETA).log_softmax(1)), BETA * first.logsumexp(0), later


def tree(paths: list[tuple[int, int]], policy: tuple[Tensor, Tensor], root: Tensor, later: Tensor) -> Batch:
    """One sequence for each path, as if drawn from `policy`, with the reference's log-probs and a critic's values."""
    items = [
        Item(prompt_ids=[9], completion_ids=[a, b], member=i, rewards=rewards, reward=sum(rewards))
        for i, (a, b) in enumerate(paths)
        for rewards in [[float(FIRST[a]), float(SECOND[a, b])]]
    ]
    batch = pack(items).replace(rewards=None)
    paid = torch.stack([torch.stack([FIRST[a], SECOND[a, b]]) for a, b in paths]).flatten()
    own = said(batch, paths, policy).detach()
    columns = {"sampler_logprobs": own, "old_logprobs": own, "ref_logprobs": said(batch, paths, REFERENCE)}
    return batch.replace(**columns, rewards=on_actions(batch, paid), values=values_of(batch, paths, root, later))


def said(batch: Batch, paths: list[tuple[int, int]], policy: tuple[Tensor, Tensor]) -> Tensor:
    return on_actions(batch, torch.stack([torch.stack([policy[0][a], policy[1][a, b]]) for a, b in paths]).flatten())


def values_of(batch: Batch, paths: list[tuple[int, int]], root: Tensor, later: Tensor) -> Tensor:
    """The prompt's value, and after the first token of each path its own; garbage after the end."""
    after = torch.stack([torch.stack([later[a], torch.full_like(later[a], 7.0)]) for a, _ in paths]).flatten()
    return torch.cat([root.reshape(1), after])[:, None]


ALL = [(a, b) for a in range(3) for b in range(2)]


@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
def test_at_the_exact_solution_every_residual_is_0_and_the_returns_are_the_values(trace):
    policy, root, later = optimum()
    batch = estimate(config(value_lambda=trace, policy_lambda=1 - trace), tree(ALL, policy, root, later))
    logprobs = said(batch, ALL, policy)
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs), values=batch.values)
    for loss in (policy_loss, critic_loss):
        assert loss(config(value_lambda=trace), outputs, batch).total.item() < 1e-28
    assert batch.returns[batch.action_mask][::2].tolist() == pytest.approx([float(root)] * 6, abs=1e-14)


def test_away_from_it_the_residual_is_what_q_lacks():
    """At pi = ref and V = 0 it is -r_t: the mean square of all rewards."""
    batch = estimate(config(), tree(ALL, REFERENCE, torch.zeros(1).double(), torch.zeros(3).double()))
    logprobs = batch.ref_logprobs
    loss = policy_loss(config(), Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs)), batch)
    paid = torch.stack([torch.stack([FIRST[a], SECOND[a, b]]) for a, b in ALL]).flatten()
    assert loss.total.item() / loss.count == pytest.approx((paid**2).mean().item(), rel=1e-12)


@pytest.mark.parametrize("trace", [0.0, 0.95])
def test_where_the_batch_was_drawn_the_gradient_is_that_of_a_policy_gradient_with_the_kl_in_the_reward(trace):
    """-2 beta times PPO's advantages at the same trace and kl_weight beta."""
    policy, root, later = optimum()
    batch = tree(ALL, (policy[0].roll(1), policy[1].roll(1, 0)), root - 0.3, later + 0.4)
    batch = batch.replace(old_logprobs=said(batch, ALL, policy), sampler_logprobs=said(batch, ALL, policy))
    live = batch.old_logprobs.clone().requires_grad_()
    outputs = Outputs(logprobs=live, entropy=torch.zeros_like(live))
    policy_loss(config(), outputs, estimate(config(policy_lambda=trace), batch)).total.backward()
    same = ppo.Config(type="ppo", kl_weight=BETA, gae_lambda=trace, whiten_advantages=False)
    torch.testing.assert_close(live.grad, -2 * BETA * ppo.estimate(same, batch).advantages)


def test_training_reaches_the_exact_solution():
    """Sampled from the policy itself; at the optimum no sample has a residual, so the noise ends there too."""
    tables = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((3,), (3, 2), (1,), (3,))]
    optimizer = torch.optim.Adam(tables, lr=0.03)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        policy = (tables[0].log_softmax(0), tables[1].log_softmax(1))
        joint = (policy[0][:, None] + policy[1]).exp().flatten().detach()
        paths = [ALL[i] for i in torch.multinomial(joint, 32, replacement=True, generator=generator).tolist()]
        batch = estimate(config(), tree(paths, policy, tables[2].detach(), tables[3].detach()))
        logprobs, values = said(batch, paths, policy), values_of(batch, paths, tables[2], tables[3])
        outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs), values=values)
        losses = [loss(config(), outputs, batch) for loss in (policy_loss, critic_loss)]
        optimizer.zero_grad()
        sum(loss.total / loss.count for loss in losses).backward()
        optimizer.step()
    best, root, later = optimum()
    assert (tables[0].softmax(0) - best[0].exp()).abs().max() < 1e-2
    assert (tables[1].softmax(1) - best[1].exp()).abs().max() < 2e-2
    assert tables[2].item() == pytest.approx(root.item(), abs=1e-2)
    assert tables[3].tolist() == pytest.approx(later.tolist(), abs=2e-2)


def test_with_one_token_and_the_best_constant_as_value_it_is_rebel_with_eta_1_over_beta():
    """Residuals of a pair around their mean are +-(beta h - dr) / 2: beta^2 / 4 times REBEL's square."""
    items = [Item(prompt_ids=[9], completion_ids=[m], member=m, reward=r) for m, r in enumerate((1.0, 0.25))]
    batch = in_float64(pack(items)).replace(side=torch.tensor([1, -1]))
    logprobs, reference = on_actions(batch, torch.tensor([-0.7, -1.9]).double()), on_actions(batch, [-1.2, -0.4])
    columns = {"sampler_logprobs": logprobs, "old_logprobs": logprobs, "ref_logprobs": reference.double()}
    soft = batch.reward - BETA * batch.sum_per_sequence(logprobs - reference)
    batch = batch.replace(**columns, values=soft.mean().expand(batch.num_tokens, 1))
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs))
    loss = policy_loss(config(), outputs, estimate(config(), batch))
    rebel = rebel_pairs.Config(type="rebel_pairs", eta=1 / BETA)
    wanted = rebel_pairs.policy_loss(rebel, outputs, rebel_pairs.estimate(rebel, batch))
    assert loss.total.item() / loss.count == pytest.approx(wanted.total.item() * BETA**2 / 4, rel=1e-12)


@pytest.mark.parametrize("paid", [0, 1, 2])
def test_a_reward_along_the_way_moves_the_token_that_earned_it_and_no_other(paid):
    """With values that are 0 everywhere, the gradient at pi = ref is -2 beta r_t."""
    rewards = [float(t == paid) for t in range(3)]
    batch = pack([Item(prompt_ids=[1], completion_ids=[2, 3, 4], rewards=rewards, reward=1.0)])
    flat = batch.action_mask * -1.0
    columns = {"sampler_logprobs": flat, "old_logprobs": flat, "ref_logprobs": flat}
    batch = estimate(config(), batch.replace(**columns, values=torch.zeros(batch.num_tokens, 1)))
    live = flat.clone().requires_grad_()
    policy_loss(config(), Outputs(logprobs=live, entropy=flat), batch).total.backward()
    assert live.grad[1:].tolist() == pytest.approx([-2 * BETA * reward for reward in rewards])
    assert batch.returns[1:].tolist() == [float(t <= paid) for t in range(3)]


def test_the_gradient_agrees_with_finite_differences_and_the_value_gets_none_of_it():
    policy, root, later = optimum()
    batch = estimate(config(), tree(ALL, REFERENCE, root + 0.3, later - 0.2))
    gradient, differences = finite_differences(ALGORITHM, config(), batch, said(batch, ALL, policy)[batch.action_mask])
    assert gradient == pytest.approx(differences, rel=1e-6, abs=1e-9)


def test_a_completion_that_was_cut_pays_the_penalty_and_ends_there():
    batch = pack([Item(prompt_ids=[1], completion_ids=[2], reward=1.0, truncated=True)])
    flat = batch.action_mask * -1.0
    columns = {"sampler_logprobs": flat, "old_logprobs": flat, "ref_logprobs": flat}
    batch = batch.replace(**columns, values=torch.tensor([[0.25], [9.0]]))
    assert estimate(config(), batch).advantages.tolist() == [0.0, 0.75]
    assert estimate(config(missing_eos_penalty=2.0), batch).advantages.tolist() == [0.0, -1.25]


def test_the_weight_of_a_token_corrects_the_sampler_and_is_capped():
    policy, root, later = optimum()
    batch = estimate(config(), tree(ALL, REFERENCE, root + 1, later))
    logprobs = said(batch, ALL, policy)
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs))
    plain = policy_loss(config(), outputs, batch).total.item()
    for gap, weight in ((0.5, 2.0), (-0.5, 0.5), (3.0, 2.0)):
        shift = batch.action_mask * (gap if abs(gap) > 2 else torch.tensor(weight).double().log())
        moved = batch.replace(sampler_logprobs=batch.old_logprobs - shift)
        assert policy_loss(config(), outputs, moved).total.item() == pytest.approx(weight * plain, rel=1e-6)
