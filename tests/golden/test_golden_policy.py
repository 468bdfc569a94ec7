"""Policy-gradient surrogates: tables of clipped losses, importance weights, and the identities between methods."""

import pytest
import torch
from torch import Tensor

from alignkit import ops

ADVANTAGES = torch.tensor([1.5, -0.5, 0.25, -2.0, 0.75], dtype=torch.float64)
LOGPROBS = torch.tensor([-0.3, -2.0, -1.1, -0.01, -5.0], dtype=torch.float64)
LOW, HIGH = 0.8, 1.2


def gradient(loss, at: Tensor) -> Tensor:
    """Gradient of the sum of loss(x) at x = `at`."""
    point = at.clone().requires_grad_()
    return torch.autograd.grad(loss(point).sum(), point)[0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "wanted"),
    [
        (1.3, 1, None, -1.2),
        (1.3, -1, None, 1.3),
        (0.7, 1, None, -0.7),
        (0.7, -1, None, 0.8),
        (5, -1, None, 5),
        (5, -1, 3.0, 3),
        (2, -1, 3.0, 2),
        (5, 1, 3.0, -1.2),
    ],
)
def test_the_clipped_loss_table(ratio, advantage, dual, wanted):
    ratio, advantage = torch.tensor([float(ratio)]), torch.tensor([float(advantage)])
    assert ops.policy.clipped(ratio, advantage, low=LOW, high=HIGH, dual=dual).item() == pytest.approx(wanted)


def test_at_ratio_one_ppo_has_the_gradient_of_reinforce():
    ppo = gradient(
        lambda x: ops.policy.clipped(ops.policy.ratio(x, LOGPROBS), ADVANTAGES, low=LOW, high=HIGH), LOGPROBS
    )
    reinforce = gradient(lambda x: -ADVANTAGES * x, LOGPROBS)
    assert torch.allclose(ppo, reinforce, rtol=0, atol=1e-7)
    assert ppo.tolist() == pytest.approx((-ADVANTAGES).tolist())


def test_at_ratio_one_cispo_has_the_gradient_of_reinforce():
    cispo = gradient(lambda x: ops.policy.cispo(ops.policy.ratio(x, LOGPROBS), x, ADVANTAGES, cap=1.2), LOGPROBS)
    assert cispo.tolist() == pytest.approx((-ADVANTAGES).tolist(), abs=1e-7)


def test_the_soft_gate_of_sapo_by_hand():
    """4 / tau sigmoid(tau (r - 1)): 2 / tau at ratio 1, whatever the advantage; at ratio 2 and tau 1 2.924234."""
    ratio, advantages = torch.tensor([1.0, 2.0, 1.0, 0.5]), torch.tensor([1.0, 1.0, -1.0, 0.0])
    got = ops.policy.soft_gate(ratio, advantages, 1.0, 1.25)
    assert got.tolist() == pytest.approx([-2.0, -2.924234, 1.6, 0.0], abs=1e-6)


def test_at_ratio_one_sapo_has_the_gradient_of_reinforce_and_far_from_it_almost_none():
    def loss(x: Tensor, old: Tensor) -> Tensor:
        return ops.policy.soft_gate(ops.policy.ratio(x, old), ADVANTAGES, 1.0, 1.05)

    at_one = gradient(lambda x: loss(x, LOGPROBS), LOGPROBS)
    assert at_one.tolist() == pytest.approx((-ADVANTAGES).tolist(), abs=1e-7)
    far = gradient(lambda x: loss(x, LOGPROBS - 3), LOGPROBS)  # ratio 20: the gate is open by 4 sigmoid' (19)
    assert (far / at_one).abs().max() < 1e-5
    step = 1e-6
    near = [float(loss(LOGPROBS + 0.3 + h, LOGPROBS).sum()) for h in (step, -step)]
    exact = gradient(lambda x: loss(x, LOGPROBS), LOGPROBS + 0.3).sum()
    assert (near[0] - near[1]) / (2 * step) == pytest.approx(float(exact), rel=1e-6)


def test_cispo_caps_the_weight_but_no_token_loses_its_gradient():
    old = LOGPROBS - torch.tensor([3.0, 0.1, -1.0, 0.5, 0.0], dtype=torch.float64).log1p()  # ratios 4, 1.1, 0, 1.5, 1
    old[2] = LOGPROBS[2] + 0.5
    got = gradient(lambda x: ops.policy.cispo(ops.policy.ratio(x, old), x, ADVANTAGES, cap=1.2), LOGPROBS)
    weights = torch.tensor([1.2, 1.1, 0.606531, 1.2, 1.0], dtype=torch.float64)
    assert got.tolist() == pytest.approx((-weights * ADVANTAGES).tolist(), abs=1e-6)


@pytest.mark.parametrize(("ratio", "moves"), [(1.25, True), (0.75, False)])
def test_dapo_lets_good_tokens_grow_further_than_bad_ones_may_shrink(ratio, moves):
    """clip_low .2, clip_high .28, by central differences: a good token still pulls at 1.25 (ppo's .2 stops it), a bad
    one no longer pushes at .75."""
    sign = torch.tensor([1.0 if ratio > 1 else -1.0], dtype=torch.float64)
    start = torch.tensor([ratio], dtype=torch.float64)

    def slope(high: float) -> float:
        losses = [ops.policy.clipped(start + h, sign, low=0.8, high=high).item() for h in (1e-5, -1e-5)]
        return (losses[0] - losses[1]) / 2e-5

    assert slope(1.28) == pytest.approx(-1.0 if moves else 0.0, abs=1e-6)
    assert slope(1.20) == pytest.approx(0.0, abs=1e-6)


def test_the_sequence_ratio_of_single_tokens_is_the_token_ratio():
    old, segment = LOGPROBS + torch.tensor([0.3, -0.2, 0.1, 0.0, -0.5]).double(), torch.arange(5)
    assert torch.allclose(ops.policy.sequence_ratio(LOGPROBS, old, segment, 5), ops.policy.ratio(LOGPROBS, old))
    for ratio in (ops.policy.ratio, lambda x, o: ops.policy.sequence_ratio(x, o, segment, 5)):
        got = gradient(
            lambda x, ratio=ratio: ops.policy.clipped(ratio(x, old), ADVANTAGES, low=LOW, high=HIGH), LOGPROBS
        )
        # ratios .740818, 1.221403, .904837, 1, 1.648721: the last is clipped, the rest pull with -r A
        assert got.tolist() == pytest.approx([-1.111227, 0.610701, -0.226209, 2.0, 0.0], abs=1e-6)


def test_the_token_form_of_gspo_has_the_value_and_gradient_of_the_sequence_form():
    segment = torch.tensor([0, 0, 1, 1, 1])
    length = torch.tensor([2, 2, 3, 3, 3])
    old = LOGPROBS + torch.tensor([0.3, -0.2, 0.1, 0.0, -0.25]).double()
    advantages = torch.tensor([1.5, 1.5, -0.5, -0.5, -0.5], dtype=torch.float64)

    def direct(x: Tensor) -> Tensor:
        """exp(mean over the sequence), clipped once per sequence, then a mean over sequences."""
        shares = (x - old) / length
        ratios = torch.stack([shares[:2].sum(), shares[2:].sum()]).exp()
        return ops.policy.clipped(ratios, advantages[[0, 2]], low=LOW, high=HIGH)

    def token(x: Tensor) -> Tensor:
        ratios = ops.policy.sequence_ratio(x, old, segment, 2)
        return ops.policy.clipped(ratios, advantages, low=LOW, high=HIGH) / length

    assert token(LOGPROBS).sum().item() == pytest.approx(direct(LOGPROBS).sum().item(), rel=1e-12)
    assert torch.allclose(gradient(token, LOGPROBS), gradient(direct, LOGPROBS), rtol=1e-12)
    # sequence ratios exp(-.05), exp(.05): gradient -A s_i / n_i on each token
    wanted = [-1.5 * 0.951229 / 2] * 2 + [0.5 * 1.051271 / 3] * 3
    assert gradient(token, LOGPROBS).tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_ratio_that_would_overflow_is_finite():
    ratio = ops.policy.ratio(torch.tensor([0.0, -1e4]), torch.tensor([-1e4, 0.0]))
    assert ratio.tolist() == pytest.approx([4.851652e8, 2.061154e-9], rel=1e-5)


WEIGHTS = torch.tensor([0.5, 1, 3, 8], dtype=torch.float64)


@pytest.mark.parametrize(
    ("how", "cap", "wanted"),
    [
        ("none", 2.0, [1, 1, 1, 1]),
        ("truncate", 2.0, [0.5, 1, 2, 2]),
        ("mask", 5.0, [0.5, 1, 3, 0]),
        ("mask", 2.0, [0.5, 1, 0, 0]),
    ],
)
def test_the_table_of_sampler_corrections(how, cap, wanted):
    sampler = torch.tensor([-1.0, -2, -3, -4], dtype=torch.float64)
    weights = ops.policy.correction(sampler + WEIGHTS.log(), sampler, how=how, floor=0.5 - 1e-12, cap=cap)
    assert weights.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("how", ["none", "truncate", "mask"])
def test_a_correction_is_never_differentiated(how):
    """Even when the old log-probs are the live ones: the gradient is w A grad l, not w (1 + ...) A grad l."""
    sampler = LOGPROBS - torch.tensor([0.5, 1, 3, 8, 0.2], dtype=torch.float64).log()
    weights = {"none": [1] * 5, "truncate": [0.5, 1, 2, 2, 0.2], "mask": [0.5, 1, 0, 0, 0]}[how]

    def loss(x: Tensor) -> Tensor:
        weight = ops.policy.correction(x, sampler, how=how, floor=0.5 - 1e-12, cap=2.0)
        return -ADVANTAGES * x * weight

    got = gradient(loss, LOGPROBS)
    assert got.tolist() == pytest.approx((-ADVANTAGES * torch.tensor(weights, dtype=torch.float64)).tolist(), abs=1e-12)


@pytest.mark.parametrize("how", ["truncate", "mask"])
def test_where_sampler_and_trainer_agree_the_correction_changes_no_bit(how):
    loss = ADVANTAGES.float() * LOGPROBS.float()
    weights = ops.policy.correction(LOGPROBS.float(), LOGPROBS.float(), how=how, floor=0.5, cap=2.0)
    assert torch.equal(loss * weights, loss)


def test_a_weight_on_the_bound_of_the_mask_is_within_it():
    same = torch.zeros(1)
    for floor, cap, wanted in ((1.0, 2.0, 1.0), (0.5, 1.0, 1.0), (1.1, 2.0, 0.0), (0.5, 0.9, 0.0)):
        assert ops.policy.correction(same, same, how="mask", floor=floor, cap=cap).item() == wanted


def test_the_ratio_of_a_sequence_is_clamped_like_that_of_a_token():
    """Mean log-ratios of 100 and -100 count as 20 and -20."""
    far = torch.tensor([150.0, 50.0, -100.0])
    got = ops.policy.sequence_ratio(far, torch.zeros(3), torch.tensor([0, 0, 1]), 2)
    assert got.log().tolist() == pytest.approx([20.0, 20.0, -20.0])
