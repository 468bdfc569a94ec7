"""The chunked head against full logits: values, entropy and both gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignkit.ops.logprobs import chunked_kl, chunked_logprobs, full_kl, full_logprobs


def random_head(rows: int = 37, width: int = 16, vocabulary: int = 29) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 7, 36, 37, 38, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_it_equals_the_full_head_for_every_chunk_size(chunk, temperature):
    hidden, weight, targets = random_head()
    got, *others = chunked_logprobs(hidden, weight, targets, temperature=temperature, rows=chunk)
    wanted, *full = full_logprobs(hidden @ weight.t(), targets, temperature=temperature)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(others, full, rtol=1e-5, atol=1e-5)
    downstream = torch.linspace(-1, 2, len(targets))
    gradients = torch.autograd.grad((got * downstream).sum(), (hidden, weight))
    for gradient, expected in zip(
        gradients, torch.autograd.grad((wanted * downstream).sum(), (hidden, weight)), strict=True
    ):
        assert (gradient - expected).norm() <= 1e-6 * expected.norm()


def test_two_logits_by_hand():
    """Logits (2, 0) at temperature 2: log sigmoid(1) = -0.313262, entropy 0.582203, log(e + 1) = 1.313262."""
    got, entropy, normaliser = chunked_logprobs(
        torch.tensor([[2.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0]), temperature=2.0
    )
    assert got.item() == pytest.approx(-0.313262, abs=1e-6)
    assert entropy.item() == pytest.approx(0.582203, abs=1e-6)
    assert normaliser.item() == pytest.approx(1.313262, abs=1e-6)


def test_a_slice_of_the_vocabulary_without_any_probability_changes_nothing():
    """Logits (300, 0, -300, 299), one to a tile: the second and third underflow to exactly 0."""
    weight = torch.tensor([[300.0], [0.0], [-300.0], [299.0]]).requires_grad_()
    got, entropy, _ = chunked_logprobs(torch.ones(4, 1), weight, torch.tensor([3, 2, 0, 1]), rows=1)
    assert got.tolist() == pytest.approx([-1.313262, -600.313262, -0.313262, -300.313262], rel=1e-5)
    assert entropy.tolist() == pytest.approx([0.582203] * 4, abs=1e-4)
    got[1].backward()
    assert weight.grad is not None
    assert weight.grad.squeeze(-1).tolist() == pytest.approx([-0.731059, 0.0, 1.0, -0.268941], abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("weights", [(0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1)], ids=str)
def test_entropy_and_normaliser_have_the_gradients_of_the_full_head_in_every_combination(temperature, weights):
    hidden, weight, targets = random_head()
    scales = [each * torch.linspace(-1, 2, len(targets)).roll(i) for i, each in enumerate(weights)]
    both = (
        chunked_logprobs(hidden, weight, targets, rows=3, temperature=temperature),
        full_logprobs(hidden @ weight.t(), targets, temperature=temperature),
    )
    # what is not asked for stays out of the sum, so that its gradient is None and not zeros
    sums = [sum((s * x).sum() for s, x in zip(scales, said, strict=True) if s.any()) for said in both]
    for mine, wanted in zip(*(torch.autograd.grad(total, (hidden, weight)) for total in sums), strict=True):
        assert mine.norm() > 0
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets = random_head()
    got, *_ = chunked_logprobs(hidden, weight.detach(), targets, rows=8)
    got.sum().backward()
    wanted = torch.autograd.grad(full_logprobs(hidden @ weight.detach().t(), targets)[0].sum(), hidden)[0]
    torch.testing.assert_close(hidden.grad, wanted, rtol=1e-5, atol=1e-5)


def test_a_frozen_trunk_still_trains_the_head():
    hidden, weight, targets = random_head()
    chunked_logprobs(hidden.detach(), weight, targets, rows=8)[0].sum().backward()
    wanted = torch.autograd.grad(full_logprobs(hidden.detach() @ weight.t(), targets)[0].sum(), weight)[0]
    torch.testing.assert_close(weight.grad, wanted, rtol=1e-5, atol=1e-5)


def test_no_rows_at_all_are_no_error():
    hidden, weight, targets = random_head()
    got, entropy, _ = chunked_logprobs(hidden[:0], weight, targets[:0])
    assert got.shape == entropy.shape == (0,)
    got.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_bfloat16_inputs_give_float32_logprobs_and_gradients_of_their_own_dtype():
    hidden, weight, targets = random_head()
    low_hidden, low_weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    got, *_ = chunked_logprobs(low_hidden, low_weight, targets, rows=8)
    wanted, *_ = full_logprobs(low_hidden.float() @ low_weight.float().t(), targets)
    assert got.dtype is torch.float32
    assert (got - wanted).abs().mean() < 0.03
    got.sum().backward()
    assert low_hidden.grad is not None
    assert low_hidden.grad.dtype is torch.bfloat16


def test_huge_logits_stay_finite():
    hidden, weight, targets = random_head()
    got, entropy, _ = chunked_logprobs(hidden * 1e4, weight, targets, rows=8)
    assert torch.isfinite(got).all()
    assert torch.isfinite(entropy).all()
    assert torch.isfinite(torch.autograd.grad(got.sum(), weight)[0]).all()


def test_logits_of_half_precision_are_normalised_in_float32():
    """Of logits 8 and 0 in bfloat16, whose softmax there would be off by a thousandth."""
    logprob, entropy, normaliser = full_logprobs(torch.tensor([[8.0, 0.0]], dtype=torch.bfloat16), torch.tensor([1]))
    assert logprob.item() == pytest.approx(-8.000335406, abs=1e-6)
    assert normaliser.item() == pytest.approx(8.000335406, abs=1e-6)
    assert entropy.dtype == torch.float32


def test_the_reference_of_a_kl_gets_no_gradient():
    logits, reference = (torch.tensor([[1.0, 0.0]], requires_grad=True) for _ in range(2))
    full_kl(2 * logits, reference).sum().backward()
    assert logits.grad is not None
    assert reference.grad is None


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_soft_cap_has_the_gradients_that_autograd_finds_for_it(temperature):
    """Logits c tanh(x / c) with c = 2: half of them lie where the slope 1 - tanh^2 is below 0.5."""
    hidden, weight, targets = random_head()

    def gradients(logprobs: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((logprobs * torch.linspace(-1, 2, len(targets))).sum(), (hidden, weight)))

    capped = 2.0 * ((hidden @ weight.t()) / 2.0).tanh()
    assert ((capped / 2.0).square() > 0.5).float().mean() > 0.5
    got, *_ = chunked_logprobs(hidden, weight, targets, temperature=temperature, softcap=2.0, rows=5)
    wanted, *_ = full_logprobs(capped, targets, temperature=temperature)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(got), gradients(wanted), rtol=1e-4, atol=1e-5)
    reference = (hidden.detach().roll(1, 0), weight.detach().roll(1, 0))
    ref_logits = 2.0 * ((reference[0] @ reference[1].t()) / 2.0).tanh()
    capped = 2.0 * ((hidden @ weight.t()) / 2.0).tanh()
    divergence = chunked_kl(hidden, weight, *reference, temperature=temperature, softcap=2.0, rows=5)
    full = full_kl(capped, ref_logits, temperature=temperature)
    torch.testing.assert_close(divergence, full, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(divergence), gradients(full), rtol=1e-4, atol=1e-5)


def test_a_full_kl_divides_both_sides_by_the_temperature():
    """Logits (0, 2 log 3) against (0, 0) at temperature 2: policy (1/4, 3/4), reference (1/2, 1/2)."""
    policy, reference = torch.tensor([[0.0, 2 * 1.0986123]]), torch.zeros(1, 2)
    assert full_kl(policy, reference, temperature=2.0).item() == pytest.approx(0.143841, abs=1e-6)
    assert full_kl(reference, policy, temperature=2.0).item() == pytest.approx(0.130812, abs=1e-6)
