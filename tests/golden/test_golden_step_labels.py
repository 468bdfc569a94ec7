"""Step labels and process losses: the sheet's numbers, limits, the soft Bellman equation, finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from alignkit.ops import step_labels

quarter = torch.tensor(0.25, dtype=torch.float64)
rates = st.integers(0, 16).map(lambda hits: torch.tensor(hits / 16, dtype=torch.float64))


@pytest.mark.parametrize(
    ("eta", "wanted"),
    [(0, 0.25), (1e-6, 0.25), (1, 0.357374), (2, 0.477229), (5, 0.726744), (10, 0.861384), (50, 0.972274), (1e9, 1)],
)
def test_labels_of_a_step_that_succeeds_every_fourth_time(eta, wanted):
    assert step_labels.entropy_label(quarter, eta).item() == pytest.approx(wanted, abs=1e-6)


def test_eta_infinite_is_any_success_and_negative_is_refused():
    assert step_labels.entropy_label(torch.tensor([0, 1 / 64, 1]), math.inf).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="got eta -1; wanted 0"):
        step_labels.entropy_label(quarter, -1)


@given(rates, st.sampled_from([0, 1e-8, 0.5, 1, 1.0000001, 3, 20, 900, math.inf]))
def test_sure_steps_keep_0_and_1_and_all_labels_stay_between_the_rate_and_1(rate, eta):
    label = step_labels.entropy_label(rate, eta).item()
    assert rate.item() - 1e-12 <= label <= 1 + 1e-12
    if rate in (0, 1):
        assert label == pytest.approx(rate.item())


@given(rates, rates, st.floats(0.01, 30), st.floats(0.01, 30))
def test_labels_rise_with_the_rate_and_with_eta(one, other, eta, more):
    (low, high), (soft, hard) = sorted((one, other)), sorted((eta, more))
    assert step_labels.entropy_label(low, soft) <= step_labels.entropy_label(high, soft) + 1e-12
    assert step_labels.entropy_label(one, soft) <= step_labels.entropy_label(one, hard) + 1e-12


def test_both_forms_agree_where_they_meet():
    below, above = (step_labels.entropy_label(quarter, eta).item() for eta in (1.0, 1.0 + 1e-12))
    assert below == pytest.approx(above, abs=1e-10)


def test_the_label_is_the_soft_minimum_over_the_tilted_policy():
    tilted = quarter * math.exp(2) / (1 - quarter + quarter * math.exp(2))
    assert tilted.item() == pytest.approx(0.711235, abs=1e-6)
    soft_minimum = -math.log(1 - tilted + tilted * math.exp(-2)) / 2
    assert soft_minimum == pytest.approx(0.477229, abs=1e-6)


def test_labels_obey_the_soft_bellman_equation_on_a_tree_of_two_levels():
    """V(s) = (1 / eta) log E exp(eta V(s')): a step's label is what its children's labels say, not their mean."""
    eta, chances, leaves = 3.0, torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.9, 0.1, 0.4]).double()
    root = step_labels.entropy_label((chances * leaves).sum(), eta)
    below = step_labels.entropy_label(leaves, eta)
    assert root.item() == pytest.approx(((chances.log() + eta * below).logsumexp(0) / eta).item())
    assert (chances * below).sum().item() < root.item()


def test_sixteen_roll_outs_put_the_label_a_little_low():
    """The log of a mean is low on average; docs/rewards.md gives these biases."""
    wanted = {1: -0.00846, 2: -0.01871, 5: -0.02448}
    for eta, bias in wanted.items():
        hits = torch.arange(17).double()
        chance = torch.distributions.Binomial(16, quarter).log_prob(hits).exp()
        expected = (chance * step_labels.entropy_label(hits / 16, eta)).sum()
        assert (expected - step_labels.entropy_label(quarter, eta)).item() == pytest.approx(bias, abs=1e-5)


def test_steps_count_up_to_the_first_wrong_one():
    kept = step_labels.up_to_first_error(torch.tensor([0.9, 0.6, 0.2, 0.8, 0.1]))
    assert kept.tolist() == [True, True, True, False, False]
    assert step_labels.up_to_first_error(torch.tensor([0.9, 0.6])).tolist() == [True, True]
    assert step_labels.up_to_first_error(torch.tensor([0.2, 0.6]), threshold=0.1).tolist() == [True, True]


def test_a_soft_label_of_04_against_a_score_of_03():
    logit = torch.tensor([0.3]).double().logit()
    assert step_labels.step_loss(logit, torch.tensor([0.4]).double()).item() == pytest.approx(0.695594, abs=1e-6)


def test_two_token_logits_are_a_softmax_of_the_two():
    good, bad, label = 1.3, -0.4, 0.7
    two = torch.tensor([good, bad]).double().log_softmax(0)
    wanted = -(label * two[0] + (1 - label) * two[1])
    loss = step_labels.step_loss(torch.tensor([good - bad]).double(), torch.tensor([label]).double())
    assert loss.item() == pytest.approx(wanted.item())


def test_slopes_are_those_of_finite_differences():
    rate = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    for eta in (0.5, 4.0):
        assert gradcheck(lambda p, eta=eta: step_labels.entropy_label(p, eta), (rate,))
    assert gradcheck(lambda r: step_labels.step_loss(r, torch.tensor([0.2, 0.9, 1]).double()), (rate,))


def test_a_step_at_the_threshold_is_not_wrong():
    labels = torch.tensor([0.5, 0.25, 1.0])
    assert step_labels.up_to_first_error(labels).tolist() == [True, True, False]
    everything = torch.tensor([True, True, True])
    assert step_labels.before_errors(labels, everything, torch.zeros(3, dtype=torch.long)).tolist() == [
        True,
        True,
        False,
    ]
