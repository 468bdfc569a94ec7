"""IPL: rewards implied by logits, the policy that a chain's preferences lead to, and what the other terms are for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from alignkit import ops
from alignkit.algorithms.preferences import cpl
from alignkit.algorithms.preferences.ipl import Config, policy_loss, requires
from alignkit.recipe.lookup.find import find
from alignkit.recipe.read import read_recipe
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from tests.tiny import noise, random_batch

PAIRS = [(3, (4, 6)), (2, (1, 5)), (4, (7, 2))]


def config(**settings) -> Config:
    return Config(type="ipl", **settings)


def pairs() -> tuple[Batch, Tensor, Tensor]:
    """Three pairs with holes in their masks, log-probs, and logsumexps of logits."""
    batch = random_batch(PAIRS, holes=True)
    logprobs = torch.where(batch.action_mask, -1.5 + noise(batch, 0.5, seed=1).double(), 0.0)
    return batch.replace(side=1 - 2 * batch.member), logprobs, noise(batch, 2.0, seed=3).double()


def total(settings: Config, batch: Batch, logprobs: Tensor, normaliser: Tensor) -> Tensor:
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs), normaliser=normaliser)
    return policy_loss(settings, outputs, batch).total


def rewards(batch: Batch, logprobs: Tensor, normaliser: Tensor, discount: float) -> Tensor:
    return ops.preference.implied_rewards(logprobs, normaliser, batch, discount=discount)


def test_rewards_by_hand_over_a_hole_in_the_mask():
    """Log-probs -1, -2, -3, values 5, 6, 7, the second token an observation: -1 + 5 - .9 x 7, and -3 + 7 at the end."""
    batch = pack([Item(prompt_ids=(1,), completion_ids=(2, 3, 4), action=(True, False, True), group=0)])
    said = torch.tensor([0.0, -1.0, -2.0, -3.0]), torch.tensor([0.0, 5.0, 6.0, 7.0])
    assert rewards(batch, *said, 0.9).tolist() == pytest.approx([0.0, -2.3, 0.0, 4.0], abs=1e-6)


def test_without_a_discount_rewards_are_the_logits_less_the_next_value_and_with_discount_0_the_logits():
    batch, logprobs, normaliser = pairs()
    mask = batch.action_mask
    assert torch.equal(rewards(batch, logprobs, normaliser, 0.0)[mask], (logprobs + normaliser)[mask])
    returns = batch.sum_per_sequence(rewards(batch, logprobs, normaliser, 1.0))
    first = normaliser[batch.first_action()]
    torch.testing.assert_close(returns, batch.sum_per_sequence(logprobs) + first)


def test_without_regulariser_and_discount_it_is_cpl_on_plain_sums():
    """Both sides of a pair share the state before their first token, so its value is the same and cancels."""
    batch = random_batch(PAIRS).replace(side=torch.tensor([1, -1] * 3))
    logprobs, normaliser = noise(batch, 0.5, seed=1).double(), noise(batch, 2.0, seed=3).double()
    normaliser[batch.first_action()] = torch.tensor([4.0, 4, 1, 1, -2, -2]).double()
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs))
    wanted = cpl.policy_loss(cpl.Config(type="cpl", scale=0.7, bias=1.0), outputs, batch).total.item()
    plain = config(scale=0.7, weight=0.0, nll_weight=0.0)
    assert total(plain, batch, logprobs, normaliser).item() == pytest.approx(wanted, rel=1e-12)


def test_a_pair_by_hand():
    """Rewards (2, -1) and (-2): gap 3, log(1 + e^-3) = .048587; squares 9 / 3 tokens x .5; likelihood (1 + 1) / 2."""
    batch = random_batch([(2, (2, 1))]).replace(side=torch.tensor([1, -1]))
    column = batch.action_mask.double()
    values = {"logprobs": [-1.0, -1.0, -2.0], "normaliser": [3.0, 0.0, 0.0]}
    columns = {name: column.masked_scatter(batch.action_mask, torch.tensor(v).double()) for name, v in values.items()}
    assert total(config(), batch, **columns).item() == pytest.approx(0.048587 + 0.5 * 3 + 1, abs=1e-6)
    assert total(config(weight=0.2, nll_weight=0), batch, **columns).item() == pytest.approx(0.648587, abs=1e-6)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_gradients_agree_with_finite_differences(discount):
    batch, *given = pairs()
    settings = config(discount=discount, scale=0.7)
    live = [column.clone().requires_grad_() for column in given]
    gradients = torch.autograd.grad(total(settings, batch, *live), live)
    for which, gradient in enumerate(gradients):
        for index in batch.action_mask.nonzero().squeeze(-1).tolist():
            moved = [[column.clone() for column in given] for _ in range(2)]
            moved[0][which][index] += 1e-5
            moved[1][which][index] -= 1e-5
            slope = (total(settings, batch, *moved[0]) - total(settings, batch, *moved[1])).item() / 2e-5
            assert gradient[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


CHAIN = list(itertools.product(range(3), range(3)))  # answers of two tokens, three words


def learnt(returns: Tensor, **settings) -> tuple[Tensor, Tensor]:
    """Log-probs and implied rewards (answer, token) after learning from Bradley-Terry preferences, all in expectation.

    A table of logits: one row for the first token, one after each first word.
    """
    table = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    sides = [(a, b) for a in range(len(CHAIN)) for b in (a - 1, a + 1) if 0 <= b < len(CHAIN)]
    items = [
        Item(prompt_ids=(0,), completion_ids=CHAIN[each], group=number, member=member, side=1 - 2 * member)
        for number, pair in enumerate(sides)
        for member, each in enumerate(pair)
    ]
    batch = pack(items)
    shares = torch.stack([(returns[a] - returns[b]).sigmoid() for a, b in sides])
    rows = torch.tensor([[0, 1 + CHAIN[each][0]] for pair in sides for each in pair]).flatten()
    words = torch.tensor([CHAIN[each] for pair in sides for each in pair]).flatten()
    optimizer = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def said() -> tuple[Tensor, Tensor]:
        logs = table.log_softmax(-1)[rows, words]
        return batch.scatter(logs), batch.scatter(table.logsumexp(-1)[rows])

    def objective() -> Tensor:
        optimizer.zero_grad()
        # every pair is there both ways round: its loss counts as often as that way round is preferred
        losses = torch.stack([each.sum() for each in pair_losses(batch, *said(), shares, **settings)])
        losses.sum().backward()
        return losses.sum()

    optimizer.step(objective)
    logprobs, normaliser = said()
    index = torch.tensor([2 * next(n for n, pair in enumerate(sides) if pair[0] == a) for a in range(len(CHAIN))])
    paid = rewards(batch, logprobs, normaliser, settings.get("discount", 1.0))
    each = [paid[batch.action_mask & (batch.segment == i)] for i in index.tolist()]
    return batch.sum_per_sequence(logprobs)[index].detach(), torch.stack(each).detach()


def pair_losses(batch: Batch, logprobs: Tensor, normaliser: Tensor, shares: Tensor, **settings) -> list[Tensor]:
    losses = []
    for number, share in enumerate(shares):
        pair = batch.select([2 * number, 2 * number + 1])
        index = batch.token_index([2 * number, 2 * number + 1])
        losses.append(share * total(config(**settings), pair, logprobs[index], normaliser[index]))
    return losses


RETURNS = torch.tensor([1.0, 0.0, -1, 0.5, 2, 0, -0.5, 1, 0.3], dtype=torch.float64)


@pytest.fixture(scope="module")
def unheld() -> tuple[Tensor, Tensor]:
    return learnt(RETURNS, weight=0.0, nll_weight=0.0)


def test_preferences_over_whole_answers_lead_to_the_softmax_of_their_returns(unheld):
    """Without the regulariser: the maximum-entropy policy of the rewards that explain the preferences, exactly."""
    logprobs, implied = unheld
    torch.testing.assert_close(logprobs, RETURNS.log_softmax(0), rtol=0, atol=1e-4)
    gaps = implied.sum(1) - RETURNS
    assert (gaps - gaps[0]).abs().max() < 1e-4


def test_the_regulariser_shrinks_rewards_keeps_their_order_and_flattens_the_policy(unheld):
    free, _ = unheld
    held, implied = learnt(RETURNS, weight=0.5, nll_weight=0.0)
    assert implied.abs().mean() < 0.6 * RETURNS.abs().mean()
    assert implied.sum(1).argsort()[[0, -1]].tolist() == RETURNS.argsort()[[0, -1]].tolist()
    entropy = [float(-(each.exp() * each).sum()) for each in (free, held)]
    assert entropy[0] < entropy[1] < math.log(9)


def test_answers_that_are_cut_are_refused():
    path = find("recipes", "smoke/ipl").path
    stage = read_recipe(path).stages[0]
    assert requires(config(), stage) == []
    cut = stage.model_copy(update={"data": stage.data.model_copy(update={"long_completions": "truncate"})})
    assert requires(config(), cut) == [
        "an answer that is cut has no end and no next value: set data.long_completions to filter or error"
    ]
