"""ArCHer on a chain of two turns whose values are known: critics, actor, offline variant, and the bugs not to inherit.

State 0: `ask` pays -1 and leads to state 1, `guess` ends with 0 one time in four, or -4. State 1: `right` ends with 0,
`wrong` with -4. Discount 0.95. For the uniform policy V(1) = -2, Q(0, ask) = -2.9, Q(0, guess) = -3, V(0) = -2.95.
"""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch import Tensor

from alignkit import ops
from alignkit.algorithms.turns import archer, archer_iql
from alignkit.models.forward import Forward
from alignkit.models.token_scores import TokenScores
from alignkit.parallel.group import Group
from alignkit.train.target import Target
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Outputs
from tests.unit.value_table import Table

STATES = {0: [10], 1: [10, 1, 11]}
ASK, GUESS, RIGHT, WRONG = 1, 2, 3, 4
TURNS = (
    *[(0, ASK, -1.0, (11,))] * 4,
    *[(0, GUESS, paid, ()) for paid in (0.0, -4.0, -4.0, -4.0)],
    *[(1, RIGHT, 0.0, ())] * 4,
    *[(1, WRONG, -4.0, ())] * 4,
)
HEADS = ("scores", "dueling", "last_token")
HOW = [*((head, None) for head in HEADS), *((head, 13) for head in HEADS)]
"""Heads, and the bins of their histograms or none."""
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
    batch = pack(items)
    return batch.replace(sampler_logprobs=torch.where(batch.action_mask, math.log(0.5), 0.0))


def config(**settings) -> archer.Config:
    return archer.Config(type="archer", **settings)


def histograms(bins: int | None) -> dict:
    return {"bins": bins, "support": (-4.0, 4.0)} if bins else {}


def shaped(batch: Batch, values: Tensor, settings: archer.Config, slow: Tensor | None = None, **controls) -> Batch:
    """After `estimate`, in units of the return unless told."""
    controls = {"level": 0.0, "scale": 1.0} | controls
    columns = {"values": values, "target_values": values if slow is None else slow}
    return archer.estimate(settings, batch.replace(**columns, controls=controls))


def descended(table: Table, settings, batch: Batch) -> Batch:
    """110 steps with momentum, longer ones for logits: those of bins that nothing falls into never stand still."""
    rate = torch.full((table.numbers.shape[1],), 6.0)
    rate[:2] = 0.1
    step = torch.zeros_like(table.numbers)
    for _ in range(110):
        now = table.numbers.detach()[table.index]
        batch = archer.estimate(settings, batch.replace(values=now, target_values=now))
        loss = archer.critic_loss(settings, Outputs(values=table.numbers[table.index], entropy=None), batch)
        (gradient,) = torch.autograd.grad(loss.total / loss.count, table.numbers)
        step = 0.8 * step + rate * gradient
        with torch.no_grad():
            table.numbers -= step
    return batch


@functools.cache
def learnt(head: str, turns=TURNS, bins: int | None = None) -> tuple[Table, Batch, dict[str, float]]:
    """A table that has learnt the chain, the batch with its targets, and the unit in which it speaks."""
    batch, settings = transitions(turns), config(head=head, **histograms(bins))
    table = Table(batch, len(archer.ALGORITHM.heads(settings)))
    batch = descended(table, settings, batch) if bins else table.fit(archer, settings, batch)
    return table, batch, batch.controls


def values_of(table: Table, unit: dict[str, float], head: str, bins: int | None = None) -> dict[str, list[float]]:
    """Q and V of both states in units of the return, of both critics."""
    ask, guess = table.at(10, ASK)[:2], table.at(10, GUESS)[:2]
    here, there = (table.at(*state)[2:].view(2, -1) for state in ((10,), (10, ASK, 11)))
    base = here if head != "last_token" else torch.zeros_like(here)
    middles = -4 + 8 * (torch.arange(bins) + 0.5) / bins if bins else torch.ones(1)
    said = {"V(0)": here, "V(1)": there}
    said |= {f"Q(0, {name})": base + q[:, None] * middles for name, q in (("ask", ask), ("guess", guess))}
    numbers = {name: each.softmax(1) @ middles if bins else each[:, 0] for name, each in said.items()}
    return {name: (unit["level"] + unit["scale"] * each).tolist() for name, each in numbers.items()}


@pytest.mark.parametrize(("head", "bins"), HOW)
def test_the_critics_converge_to_the_values_of_the_uniform_policy_whatever_the_head(head, bins):
    table, _, unit = learnt(head, bins=bins)
    assert unit["level"] == pytest.approx(-2.4, abs=0.5)  # they learn standardised numbers, and say returns
    expected = {"V(0)": -2.95, "V(1)": -2.0, "Q(0, ask)": -2.9, "Q(0, guess)": -3.0}
    for name, got in values_of(table, unit, head, bins).items():
        assert got == pytest.approx([expected[name]] * 2, abs=2e-3), name


def test_old_turns_leave_v_unbiased_because_its_utterance_is_fresh():
    """Nine turns in ten were guesses; V(0) is still the mean over what the policy would say now."""
    turns = [(0, ASK, -1.0, (11,))] * 2 + [(0, GUESS, paid, ()) for paid in (0.0, -4.0, -4.0, -4.0)] * 4
    turns += [(1, RIGHT, 0.0, ()), (1, WRONG, -4.0, ())] * 3
    table, _, unit = learnt("scores", tuple(turns))
    assert values_of(table, unit, "scores")["V(0)"] == pytest.approx([-2.95] * 2, abs=2e-3)


@pytest.mark.parametrize(("head", "bins"), HOW)
def test_the_actors_gradient_is_the_enumerated_policy_gradient_whatever_the_head(head, bins):
    """dJ/dlogits in state 0: sum_a p(a) A(a) d log p(a) = 0.25 (A(ask) - A(guess)) (1, -1) = (0.025, -0.025)."""
    table, _, unit = learnt(head, bins=bins)
    known = {path: table.numbers.detach()[i] for i, path in enumerate(table.known)}
    batch = transitions(TURNS[:8])
    here = Table(batch)
    values = torch.stack([known[path] for path in here.known])[here.index]
    settings = config(head=head, played_weight=0.0, **histograms(bins))
    batch = shaped(batch, values, settings, **unit)
    logits = torch.zeros(2, requires_grad=True)
    logs = logits.log_softmax(0)
    spoken = torch.where(batch.action_mask, logs[(batch.tokens - 1).clamp(0, 1)], 0.0)
    loss = archer.policy_loss(settings, Outputs(logprobs=spoken, entropy=torch.zeros_like(spoken)), batch)
    (gradient,) = torch.autograd.grad(loss.total / loss.count, logits)
    assert (-gradient).tolist() == pytest.approx([0.025, -0.025], abs=1e-3)


def test_the_term_on_played_turns_is_the_policy_gradient_of_what_was_really_earned():
    """The four asks and four guesses of state 0, with exact V: 0.25 (A(ask) - A(guess)) = 0.025, as enumerated.

    At lambda 0 an ask earns -1 + 0.95 V(1) - V(0) = 0.05, the guesses -3 - V(0) = -0.05 in the mean.
    """
    batch = transitions(TURNS[:8])
    values = torch.zeros(batch.num_tokens, 4)
    values[batch.tokens == 10, 2:], values[batch.tokens == 11, 2:] = -2.95, -2.0
    batch = shaped(batch, values, config(), ranking=0.0)
    played = (batch.member == 0)[batch.segment] & batch.action_mask
    assert batch.advantages[played].tolist() == pytest.approx([0.05] * 4 + [2.95, -1.05, -1.05, -1.05])
    logits = torch.zeros(2, requires_grad=True)
    logs = logits.log_softmax(0)
    spoken = torch.where(batch.action_mask, logs[(batch.tokens - 1).clamp(0, 1)], 0.0)
    settings = config(least_ranking=0.5)  # the critics do not rank, so that what they say of u' is not followed
    batch = shaped(batch, values, settings, ranking=0.0)
    loss = archer.policy_loss(settings, Outputs(logprobs=spoken, entropy=torch.zeros_like(spoken)), batch)
    (gradient,) = torch.autograd.grad(loss.total / loss.count, logits)
    assert (-gradient).tolist() == pytest.approx([0.025, -0.025], abs=1e-6)


def test_only_the_latest_collection_is_learnt_from_by_that_term_and_far_ratios_are_clipped():
    common = {"prompt_ids": [5], "sampler_logprobs": [-1.0]}
    ages = enumerate((9.0, 1.0, 1.0))
    items = [Item(completion_ids=[7], reward=1.0, group=g, channels={"age": age}, **common) for g, age in ages]
    items += [Item(completion_ids=[8], member=1, group=2, **common)]
    batch = pack(items)
    batch = shaped(batch, torch.zeros(batch.num_tokens, 4), config(played_weight=3.0))
    assert batch.advantages[batch.action_mask].tolist() == [0.0, 1.0, 1.0, 0.0]
    spoken = torch.zeros(batch.num_tokens)
    spoken[batch.action_mask] = torch.tensor([-1.0, -1.0, math.log(1.5) - 1, -1.0])
    spoken.requires_grad_()
    loss = archer.policy_loss(config(played_weight=3.0), Outputs(logprobs=spoken, entropy=spoken.detach()), batch)
    (gradient,) = torch.autograd.grad(loss.total, spoken)
    assert gradient[batch.action_mask].tolist() == pytest.approx([0.0, -3.0, 0.0, 0.0])
    assert loss.total.item() == pytest.approx(-3.0 - 3.0 * 1.2)


def test_the_actor_climbs_the_critics_on_fresh_utterances_and_their_stop_token_too():
    """Bug 5 of the reference code: the stop token never entered the loss. Bug 3: queries from padding."""
    items = [
        Item(prompt_ids=[5, 6], completion_ids=[7, 2, 8], action=[True, True, False], reward=1.0),
        Item(prompt_ids=[5, 6], completion_ids=[9, 9, 2], member=1),
    ]
    batch = pack(items)
    batch = batch.replace(sampler_logprobs=torch.zeros(8))
    values = torch.arange(8)[:, None] * torch.tensor([[1.0, 2.0, 0.1, 0.2]])
    settings = config(head="last_token", played_weight=0.0)
    batch = shaped(batch, values, settings)
    assert batch.advantages[5:].tolist() == pytest.approx([6.9] * 3)  # min(7, 14) - min(0.1, 0.2)
    aims = torch.zeros(8, 2)
    aims[3] = torch.tensor([1 + 0.95 * 0.4, 1 + 0.95 * 0.8])  # Vb after the answer, place 4
    aims[7] = torch.tensor([7.0, 14.0])
    torch.testing.assert_close(batch.value_targets, aims)
    spoken = torch.zeros(8, requires_grad=True)
    loss = archer.policy_loss(settings, Outputs(logprobs=spoken, entropy=spoken.detach()), batch)
    (gradient,) = torch.autograd.grad(loss.total, spoken)
    assert gradient.tolist() == pytest.approx([0, 0, 0, 0, 0, -6.9, -6.9, -6.9])
    assert loss.count == 1


def test_a_score_is_of_its_token_and_q_is_v_and_the_scores_of_the_utterance_alone():
    """V 1, scores 2 4 of the utterance's tokens and 100 of what was answered: Q 7; what follows has V 3 and score 5."""
    past = Item(prompt_ids=[5], completion_ids=[1, 2, 8, 3], action=[True, True, False, True], reward=0.0)
    batch = pack([past, Item(prompt_ids=[5], completion_ids=[4], member=1)])
    values = torch.zeros(batch.num_tokens, 4)
    values[:5, :2] = torch.tensor([100.0, 2.0, 4.0, 100.0, 5.0])[:, None]
    values[0, 2:], values[3, 2:] = 1.0, 3.0
    said = {head: ops.turns.critics(values, batch, ops.turns.turns(batch), head=head, unit={"level": 0.0, "scale": 1.0})
            for head in HEADS}  # fmt: skip
    assert said["scores"].q[:2, 0].tolist() == [7.0, 8.0]
    assert said["dueling"].q[:2, 0].tolist() == [5.0, 8.0]
    assert said["last_token"].q[:2, 0].tolist() == [4.0, 5.0]


def test_the_score_head_reads_the_state_before_each_token_and_its_gradient_goes_there():
    """<h_t-1, e[token t]> by hand, of a prompt's first token 0; two scores and two numbers of states."""
    batch = pack([Item(prompt_ids=[1, 0], completion_ids=[2, 1])])
    head = TokenScores(2, 4, scored=2, vocabulary=3)
    with torch.no_grad():
        head.scores.weight.copy_(torch.arange(12.0).view(3, 4))
    hidden = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0], [9.0, 9.0]], requires_grad=True)
    said = head(hidden, batch)
    # token 0 after (1, 2): <., (0 1)> = 2, <., (2 3)> = 8; token 2 after (3, -1): 24 - 9, 30 - 11; token 1 last
    torch.testing.assert_close(said[:, :2], torch.tensor([[0.0, 0.0], [2.0, 8.0], [15.0, 19.0], [2.0, 3.0]]))
    torch.testing.assert_close(said[:, 2:], head.states(hidden))
    (gradient,) = torch.autograd.grad(said[3, 1], hidden)
    assert gradient.tolist() == [[0, 0], [0, 0], [6, 7], [0, 0]]


@pytest.mark.parametrize("ended", [True, False])
def test_the_target_of_q_is_the_lambda_return_of_the_turns_that_followed(ended):
    """Two turns paid 1 and 2, Vb = (10, 20) before them and 30 after the second where the episode did not end.

    Second turn: 2 + 0.9 x 30 = 29 or 2. First one at lambda 0.5: 1 + 0.9 (0.5 x 20 + 0.5 x that of the second).
    """
    answer, on = ([], []) if ended else ([8], [False])
    completion, action, paid = [1, 2, 8, 3, 2, *answer], [True, True, False, True, True, *on], [0.0, 1.0, 0.0, 0.0, 2.0]
    past = Item(prompt_ids=[5], completion_ids=completion, action=action, reward=3.0, rewards=paid + [0.0] * len(on))
    batch = pack([past, Item(prompt_ids=[5], completion_ids=[4], member=1, rewards=[0.0])])
    slow = torch.zeros(batch.num_tokens, 4)
    slow[0, 2:4], slow[3, 2:4], slow[6, 2:4] = 10.0, 20.0, 30.0
    slow[5] = 99.0  # what Vb says of the end of an utterance has no meaning
    targets = shaped(batch, slow, config(discount=0.9, q_lambda=0.5)).value_targets
    second = 2.0 if ended else 29.0
    assert targets[5].tolist() == pytest.approx([second] * 2)
    assert targets[2].tolist() == pytest.approx([1 + 0.9 * (0.5 * 20 + 0.5 * second)] * 2)


def test_returns_are_standardised_once_and_for_all():
    """Returns 1 + 0.5 x 3 and 3: level 2.75, scale 0.25; what the controls say already is kept."""
    past = Item(prompt_ids=[5], completion_ids=[1, 8, 3], action=[True, False, True], reward=4.0, rewards=[1.0, 0, 3.0])
    batch = pack([past, Item(prompt_ids=[5], completion_ids=[4], member=1, rewards=[0.0])])
    values = torch.zeros(batch.num_tokens, 4)
    first = shaped(batch, values, config(discount=0.5), scale=0.0)
    assert (first.controls["level"], first.controls["scale"]) == pytest.approx((2.75, 0.25))
    later = shaped(batch, values, config(discount=0.5), level=7.0, scale=2.0)
    assert (later.controls["level"], later.controls["scale"]) == (7.0, 2.0)
    alike = pack([Item(prompt_ids=[5], completion_ids=[1], reward=1.0, group=g) for g in range(2)])
    assert shaped(alike, torch.zeros(alike.num_tokens, 4), config(), scale=0.0).controls["scale"] == 1.0


def test_the_ranking_is_the_correlation_of_advantages_on_turns_that_were_never_trained_on():
    """Scores 1 2 3 and returns 1 2 4 of unseen turns: r = 3 / sqrt(2 x 14/3) = 0.98198; a seen turn does not count."""
    rows = [(1.0, 1.0, 0.0), (2.0, 2.0, 0.0), (3.0, 4.0, 0.0), (50.0, -9.0, 8.0)]
    batch = pack(
        [
            Item(prompt_ids=[5], completion_ids=[7], reward=paid, group=g, channels={"age": age})
            for g, (_, paid, age) in enumerate(rows)
        ]
    )
    values = torch.zeros(batch.num_tokens, 4)
    values[batch.action_mask, :2] = torch.tensor([[score] * 2 for score, _, _ in rows])
    assert shaped(batch, values, config()).controls["ranking"] == pytest.approx(0.98198, abs=1e-5)
    blind = values * 0
    assert shaped(batch, blind, config()).controls["ranking"] == 0.0
    seen = batch.replace(channels={"age": torch.full((4,), 3.0)})
    assert (
        shaped(seen, values, config(), ranking=0.25).controls["ranking"] == 0.25
    )  # none is unseen: the last one holds


def test_every_turn_trains_q_where_it_was_played_and_v_where_its_utterance_is_fresh():
    past = Item(prompt_ids=[5], completion_ids=[1, 8, 3], action=[True, False, True], reward=3.0)
    fresh = [Item(prompt_ids=[5], completion_ids=[4], member=1 + n, fork=2 * n) for n in range(2)]
    batch = pack([past, *fresh])
    values = torch.zeros(batch.num_tokens, 4)
    values[1, 0], values[3, 1], values[0, 2], values[2, 3] = 3.0, 5.0, 7.0, 2.0
    batch = batch.replace(value_targets=torch.zeros(batch.num_tokens, 2), controls={"level": 0.0, "scale": 2.0})
    loss = archer.critic_loss(config(head="last_token"), Outputs(values=values), batch)
    # in units of 2: Q = 6 and 10 of the two turns, V = 14 before the first and 4 before the second
    assert loss.total.item() == pytest.approx(3**2 + 5**2 + 7**2 + 2**2)
    assert loss.count == 2


def test_the_loss_is_a_mean_over_turns_however_they_are_accumulated():
    """Bug 2 of the reference code: accumulated means were summed, so the step grew with the accumulation."""
    batch = transitions()
    values = torch.randn(batch.num_tokens, 4, generator=torch.Generator().manual_seed(0))
    batch = shaped(batch, values, config())
    whole = archer.critic_loss(config(), Outputs(values=values * 0.5), batch)
    parts = []
    for half in (range(16), range(16, 32)):
        index = batch.token_index(half)
        parts.append(archer.critic_loss(config(), Outputs(values=values[index] * 0.5), batch.select(half)))
    assert sum(part.total for part in parts).item() == pytest.approx(whole.total.item(), rel=1e-6)
    assert sum(part.count for part in parts) == whole.count == 16


def test_the_kl_to_the_first_policy_pulls_fresh_utterances_alone():
    batch = transitions(TURNS[:2])
    batch = batch.replace(ref_logprobs=torch.where(batch.action_mask, -2.0, 0.0))
    settings = config(kl_weight=0.5)
    batch = shaped(batch, torch.zeros(batch.num_tokens, 4), settings).replace(advantages=torch.zeros(batch.num_tokens))
    spoken = torch.where(batch.action_mask, -1.0, 0.0).requires_grad_()
    loss = archer.policy_loss(settings, Outputs(logprobs=spoken, entropy=spoken.detach()), batch)
    (gradient,) = torch.autograd.grad(loss.total, spoken)
    fresh = (batch.member == 1)[batch.segment] & batch.action_mask
    assert gradient[fresh].tolist() == pytest.approx([0.5] * 2)  # weight x (l - l_ref)
    assert gradient[~fresh].abs().max() == 0
    assert loss.metrics["policy/kl_reference"].value == pytest.approx(1.0)


def test_the_offline_variant_converges_to_the_expectile_values():
    """Expectile 0.9: V(1) = -0.4, Q(0, ask) = -1.38, V(0) = -1.542."""
    batch = transitions(fresh=False)
    settings = archer_iql.Config(type="archer_iql", expectile=0.9, target_rate=0.2)
    table = Table(batch)
    batch = table.fit(archer_iql, settings, batch)
    for number in (0, 1):
        assert table.at(10, ASK, 11)[2 + number].item() == pytest.approx(-0.4, abs=2e-3)
        assert table.at(10, ASK)[number].item() == pytest.approx(-1.38, abs=2e-3)
        assert table.at(10)[2 + number].item() == pytest.approx(-1.542, abs=2e-3)


def test_the_offline_actor_weighs_the_datas_utterances_and_a_huge_advantage_is_capped():
    """Bug 7 of the reference code: exp of an unbounded advantage."""
    batch = pack([Item(prompt_ids=[0], completion_ids=[1], group=i) for i in range(2)])
    settings = archer_iql.Config(type="archer_iql", sharpness=2.0)
    batch = batch.replace(advantages=batch.spread(torch.tensor([0.5, 1000.0])))
    spoken = torch.zeros(batch.num_tokens, requires_grad=True)
    loss = archer_iql.policy_loss(settings, Outputs(logprobs=spoken, entropy=spoken.detach()), batch)
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
