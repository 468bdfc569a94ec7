"""ArCHer on a chain of two turns whose values are known: critics, actor, offline variant, and the bugs not to inherit.

State 0: `ask` pays -1 and leads to state 1, `guess` ends with 0 one time in four, or -4. State 1: `right` ends with 0,
`wrong` with -4. Discount 0.95. For the uniform policy V(1) = -2, Q(0, ask) = -2.9, Q(0, guess) = -3, V(0) = -2.95.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from alignkit.algorithms.turns import archer, archer_iql
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.train.target import Target
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs

STATES = {0: [10], 1: [10, 1, 11]}
ASK, GUESS, RIGHT, WRONG = 1, 2, 3, 4
TURNS = [(0, ASK, -1.0, [11])] * 4 + [(0, GUESS, paid, []) for paid in (0.0, -4.0, -4.0, -4.0)]
TURNS += [(1, RIGHT, 0.0, [])] * 4 + [(1, WRONG, -4.0, [])] * 4
CHOICES = {0: (ASK, GUESS), 1: (RIGHT, WRONG)}


def transitions(turns=TURNS, *, fresh: bool = True) -> Batch:
    """Each turn as it was and, beside it, one fresh utterance: both choices equally often."""
    items = []
    for number, (state, choice, paid, answer) in enumerate(turns):
        now = CHOICES[state][number % 2]
        common = {"prompt_ids": STATES[state], "group": number}
        items.append(
            Item(completion_ids=[choice, *answer], action=[True] + [False] * len(answer), reward=paid, **common)
        )
        if fresh:
            items.append(Item(completion_ids=[now], member=1, **common))
    return pack(items)


class Table:
    """A critic that keeps five numbers for every prefix, and its slow copy."""

    def __init__(self, batch: Batch):
        paths = [self._path(batch, index) for index in range(batch.num_tokens)]
        known = sorted(set(paths))
        self.index = torch.tensor([known.index(path) for path in paths])
        self.numbers = torch.zeros(len(known), 5, requires_grad=True)
        self.slow = torch.zeros(len(known), 5)
        self.known = known

    def _path(self, batch: Batch, index: int) -> tuple[int, ...]:
        before = int(batch.parent[index])
        return (*(self._path(batch, before) if before >= 0 else ()), int(batch.tokens[index]))

    def at(self, *tokens: int) -> Tensor:
        return self.numbers.detach()[self.known.index(tokens)]

    def fit(self, algorithm, config, batch: Batch) -> Batch:
        """Runs TD until it stands still, which it must; returns the batch with the last targets."""
        for _ in range(1000):
            columns = {"values": self.numbers.detach()[self.index], "target_values": self.slow[self.index]}
            batch = algorithm.estimate(config, batch.replace(**columns))
            loss = algorithm.critic_loss(config, Outputs(values=self.numbers[self.index], entropy=None), batch)
            (gradient,) = torch.autograd.grad(loss.total / loss.count, self.numbers)
            with torch.no_grad():
                self.numbers -= 0.5 * gradient
            apart = (self.numbers.detach() - self.slow).abs().max()
            self.slow.lerp_(self.numbers.detach(), config.target_rate)
            if apart < 1e-5 and gradient.abs().max() < 1e-5:
                break
        else:
            pytest.fail(f"after 1000 steps the slow critic is still {apart} behind")
        return algorithm.estimate(config, batch.replace(values=self.numbers.detach()[self.index]))


@pytest.mark.parametrize("v_target", ["own", "min"])
def test_the_critics_converge_to_the_values_of_the_uniform_policy(v_target):
    batch, config = transitions(), archer.Config(type="archer", v_target=v_target)
    table = Table(batch)
    table.fit(archer, config, batch)
    for number in (0, 1):
        assert table.at(10)[2 + number].item() == pytest.approx(-2.95, abs=1e-3)
        assert table.at(10, ASK, 11)[2 + number].item() == pytest.approx(-2, abs=1e-3)
        assert table.at(10, ASK)[number].item() == pytest.approx(-2.9, abs=1e-3)
        assert table.at(10, GUESS)[number].item() == pytest.approx(-3, abs=1e-3)


def test_old_turns_leave_v_unbiased_because_its_utterance_is_fresh():
    """Nine turns in ten were guesses; V(0) is still the mean over what the policy would say now."""
    turns = [(0, ASK, -1.0, [11])] * 2 + [(0, GUESS, paid, []) for paid in (0.0, -4.0, -4.0, -4.0)] * 4
    turns += [(1, RIGHT, 0.0, []), (1, WRONG, -4.0, [])] * 3
    batch = transitions(turns)
    table = Table(batch)
    table.fit(archer, archer.Config(type="archer"), batch)
    assert table.at(10)[2].item() == pytest.approx(-2.95, abs=2e-3)


def test_the_actors_gradient_is_the_enumerated_policy_gradient():
    """dJ/dlogits in state 0: sum_a p(a) A(a) d log p(a) = 0.25 (A(ask) - A(guess)) (1, -1) = (0.025, -0.025)."""
    batch, config = transitions(TURNS[:8]), archer.Config(type="archer")
    whole = transitions()
    table = Table(whole)
    table.fit(archer, config, whole)
    known = {path: table.numbers.detach()[i] for i, path in enumerate(table.known)}
    here = Table(batch)
    values = torch.stack([known[path] for path in here.known])[here.index]
    batch = archer.estimate(config, batch.replace(values=values, target_values=values))
    logits = torch.zeros(2, requires_grad=True)
    logs = logits.log_softmax(0)
    spoken = torch.where(batch.action_mask, logs[(batch.tokens - 1).clamp(0, 1)], 0.0)
    loss = archer.policy_loss(config, Outputs(logprobs=spoken, entropy=torch.zeros_like(spoken)), batch)
    (gradient,) = torch.autograd.grad(loss.total / loss.count, logits)
    assert (-gradient).tolist() == pytest.approx([0.025, -0.025], abs=1e-3)


def test_the_actor_trains_fresh_utterances_only_and_their_stop_token_too():
    """Bug 5 of the reference code: the stop token never entered the loss. Bug 3: queries from padding."""
    items = [
        Item(prompt_ids=[5, 6], completion_ids=[7, 2, 8], action=[True, True, False], reward=1.0),
        Item(prompt_ids=[5, 6], completion_ids=[9, 9, 2], member=1),
    ]
    batch = pack(items)
    values = torch.arange(batch.num_tokens)[:, None] * torch.tensor([[1.0, 2.0, 0.1, 0.2, 0.0]])
    batch = archer.estimate(archer.Config(type="archer"), batch.replace(values=values, target_values=values))
    assert batch.advantages.tolist() == pytest.approx([0, 0, 0, 0, 0, 6.9, 6.9, 6.9])  # min(7, 14) - min(0.1, 0.2)
    aims = torch.zeros(8, 5)
    aims[3, :2] = torch.tensor([1 + 0.95 * 0.4, 1 + 0.95 * 0.8])  # Vb after the answer, place 4
    aims[7, 2:4] = torch.tensor([7.0, 14.0])
    torch.testing.assert_close(batch.value_targets, aims)
    spoken = torch.zeros(8, requires_grad=True)
    loss = archer.policy_loss(archer.Config(type="archer"), Outputs(logprobs=spoken, entropy=spoken.detach()), batch)
    (gradient,) = torch.autograd.grad(loss.total, spoken)
    assert gradient.tolist() == pytest.approx([0, 0, 0, 0, 0, -6.9, -6.9, -6.9])
    assert loss.count == 1


@pytest.mark.parametrize("ended", [True, False])
def test_the_target_of_q_is_the_lambda_return_of_the_turns_that_followed(ended):
    """Two turns paid 1 and 2, Vb = (10, 20) before them and 30 after the second where the episode did not end.

    Second turn: 2 + 0.9 x 30 = 29 or 2. First one at lambda 0.5: 1 + 0.9 (0.5 x 20 + 0.5 x that of the second).
    """
    answer, on = ([], []) if ended else ([8], [False])
    completion, action, paid = [1, 2, 8, 3, 2, *answer], [True, True, False, True, True, *on], [0.0, 1.0, 0.0, 0.0, 2.0]
    past = Item(prompt_ids=[5], completion_ids=completion, action=action, reward=3.0, rewards=paid + [0.0] * len(on))
    batch = pack([past, Item(prompt_ids=[5], completion_ids=[4], member=1, rewards=[0.0])])
    slow = torch.zeros(batch.num_tokens, 5)
    slow[0, 2:4], slow[3, 2:4], slow[6, 2:4] = 10.0, 20.0, 30.0
    slow[5] = 99.0  # what Vb says of the end of an utterance has no meaning
    config = archer.Config(type="archer", discount=0.9, q_lambda=0.5)
    targets = archer.estimate(config, batch.replace(values=slow, target_values=slow)).value_targets
    second = 2.0 if ended else 29.0
    assert targets[5, :2].tolist() == pytest.approx([second] * 2)
    assert targets[2, :2].tolist() == pytest.approx([1 + 0.9 * (0.5 * 20 + 0.5 * second)] * 2)


def test_every_turn_of_a_replayed_sequence_trains_q_and_together_they_weigh_as_one():
    past = Item(prompt_ids=[5], completion_ids=[1, 8, 3], action=[True, False, True], reward=3.0)
    batch = pack([past, Item(prompt_ids=[5], completion_ids=[4], member=1)])
    values = torch.zeros(batch.num_tokens, 5)
    values[1, 0], values[3, 1], values[0, 2] = 3.0, 5.0, 7.0
    batch = batch.replace(value_targets=torch.zeros_like(values), advantages=torch.zeros(batch.num_tokens))
    loss = archer.critic_loss(archer.Config(type="archer"), Outputs(values=values), batch)
    assert loss.total.item() == pytest.approx((9 + 25) / 2 + 49)
    assert loss.count == 1


def test_the_loss_is_a_mean_over_transitions_however_they_are_accumulated():
    """Bug 2 of the reference code: accumulated means were summed, so the step grew with the accumulation."""
    batch, config = transitions(), archer.Config(type="archer")
    values = torch.randn(batch.num_tokens, 5, generator=torch.Generator().manual_seed(0))
    batch = archer.estimate(config, batch.replace(values=values, target_values=values))
    whole = archer.critic_loss(config, Outputs(values=values * 0.5), batch)
    parts = []
    for half in (range(16), range(16, 32)):
        index = batch.token_index(half)
        parts.append(archer.critic_loss(config, Outputs(values=values[index] * 0.5), batch.select(half)))
    assert sum(part.total for part in parts).item() == pytest.approx(whole.total.item(), rel=1e-6)
    assert sum(part.count for part in parts) == whole.count == 16


def test_the_token_baseline_has_the_same_expected_gradient_and_less_variance():
    """Two tokens, four utterances: the baseline is what A is expected to be after each prefix (exact sums)."""
    advantage = {(1, 1): 2.0, (1, 2): 1.0, (2, 1): 0.5, (2, 2): -1.5}
    expected = {(): 0.5, (1,): 1.5, (2,): -0.5}
    first, second = torch.zeros(2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
    gradients = {}
    for baseline in (False, True):
        each = []
        for spoken, size in advantage.items():
            batch = pack(
                [Item(prompt_ids=[0], completion_ids=[3]), Item(prompt_ids=[0], completion_ids=spoken, member=1)]
            )
            values = torch.zeros(batch.num_tokens, 5)
            values[0, 4], values[2, 4] = expected[()], expected[spoken[:1]]
            batch = batch.replace(values=values, advantages=batch.spread(torch.tensor([0.0, size])))
            a, b = spoken
            logs = torch.stack([first.log_softmax(0)[a - 1], second[a - 1].log_softmax(0)[b - 1]])
            said = torch.zeros(4).index_put((torch.tensor([2, 3]),), logs)
            settings = archer.Config(type="archer", token_baseline=baseline)
            loss = archer.policy_loss(settings, Outputs(logprobs=said, entropy=said.detach()), batch)
            each.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss.total, (first, second))]))
        gradients[baseline] = torch.stack(each)
    torch.testing.assert_close(gradients[True].mean(0), gradients[False].mean(0))
    assert gradients[True].var(0).sum() < 0.5 * gradients[False].var(0).sum()


def test_the_baseline_head_is_fitted_to_the_advantage_as_a_mean_over_tokens():
    batch = pack([Item(prompt_ids=[0], completion_ids=[3]), Item(prompt_ids=[0], completion_ids=[1, 2], member=1)])
    advantages = batch.spread(torch.tensor([0.0, 2.0]))
    batch = batch.replace(value_targets=torch.zeros(batch.num_tokens, 5), advantages=advantages)
    values = torch.zeros(batch.num_tokens, 5)
    values[0, 4], values[2, 4] = 1.0, 5.0
    plain = archer.critic_loss(archer.Config(type="archer"), Outputs(values=values), batch)
    with_baseline = archer.critic_loss(archer.Config(type="archer", token_baseline=True), Outputs(values=values), batch)
    assert (with_baseline.total - plain.total).item() == pytest.approx(((1 - 2) ** 2 + (5 - 2) ** 2) / 2)


def test_the_offline_variant_converges_to_the_expectile_values():
    """Expectile 0.9: V(1) = -0.4, Q(0, ask) = -1.38, V(0) = -1.542."""
    batch = transitions(fresh=False)
    config = archer_iql.Config(type="archer_iql", expectile=0.9, target_rate=0.2)
    table = Table(batch)
    batch = table.fit(archer_iql, config, batch)
    for number in (0, 1):
        assert table.at(10, ASK, 11)[2 + number].item() == pytest.approx(-0.4, abs=2e-3)
        assert table.at(10, ASK)[number].item() == pytest.approx(-1.38, abs=2e-3)
        assert table.at(10)[2 + number].item() == pytest.approx(-1.542, abs=2e-3)


def test_the_offline_actor_weighs_the_datas_utterances_and_a_huge_advantage_is_capped():
    """Bug 7 of the reference code: exp of an unbounded advantage."""
    batch = pack([Item(prompt_ids=[0], completion_ids=[1], group=i) for i in range(2)])
    config = archer_iql.Config(type="archer_iql", sharpness=2.0)
    batch = batch.replace(advantages=batch.spread(torch.tensor([0.5, 1000.0])))
    spoken = torch.zeros(batch.num_tokens, requires_grad=True)
    loss = archer_iql.policy_loss(config, Outputs(logprobs=spoken, entropy=spoken.detach()), batch)
    (gradient,) = torch.autograd.grad(loss.total, spoken)
    assert gradient[batch.action_mask].tolist() == pytest.approx([-2.718282, -100.0])


def test_the_slow_critic_goes_a_tenth_of_the_way_each_time():
    """From 0 to 1 in ten steps of 0.1: 1 - 0.9^10 = 0.651322; nothing in it drops out or trains (bug 6)."""
    from alignkit.models.critic import add_value_head
    from tests.tiny import causal_lm

    model = add_value_head(causal_lm(), 4, seed=0)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    slow = Forward(model=copy.deepcopy(model), dtype=torch.float32, want=("values",))
    target = Target(slow, rate=0.1, group=Group())
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    for _ in range(10):
        target.follow(model)
    assert all(p.flatten()[0].item() == pytest.approx(0.651322, abs=1e-6) for p in target.forward.model.parameters())
    assert not target.forward.model.training
    assert not any(p.requires_grad for p in target.forward.model.parameters())
