"""TDPO: the exact KL through both paths and its gradients, DPO as its limit, and the two variants of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from alignkit.algorithms.preferences import dpo
from alignkit.algorithms.preferences.tdpo import Config, policy_loss
from alignkit.models.forward import Forward, packed, plain
from alignkit.models.own_head import own_head
from alignkit.ops.logprobs import chunked_kl, full_kl
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs
from tests.tiny import causal_lm, flat_gradient, noise, random_batch, relative

PAIRS = [(3, (4, 6)), (2, (1, 5)), (4, (7, 2))]
FIRST = {"kl_weight": 1.0, "chosen_gradient": True}


def config(**settings) -> Config:
    return Config(type="tdpo", **settings)


def pairs() -> tuple[Batch, Tensor, Tensor]:
    """Three pairs with holes in their masks, log-probs, and KLs."""
    batch = random_batch(PAIRS, holes=True)
    blank = torch.zeros(batch.num_tokens, dtype=torch.float64)
    logprobs = torch.where(batch.action_mask, blank - 1.5 + noise(batch, 0.5, seed=1), blank)
    batch = batch.replace(side=1 - 2 * batch.member, ref_logprobs=logprobs + noise(batch, 0.4, seed=2))
    return batch, logprobs, noise(batch, 0.3, seed=3).abs().double()


def total(settings: Config, batch: Batch, logprobs: Tensor, ref_kl: Tensor) -> Tensor:
    entropy = torch.zeros_like(logprobs)
    return policy_loss(settings, Outputs(logprobs=logprobs, entropy=entropy, ref_kl=ref_kl), batch).total


def heads(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and head of a policy, and of a reference that is narrower."""
    generator = torch.Generator().manual_seed(4)
    shapes = ((11, 6), (17, 6), (11, 5), (17, 5))
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)  # ty: ignore[invalid-return-type]


def test_two_words_by_hand():
    """Reference (1/2, 1/2), policy (.8, .2): .5 log(.5 / .8) + .5 log(.5 / .2) = .223144, gradient (.3, -.3)."""
    logits = torch.tensor([[math.log(4.0), 0.0]], dtype=torch.float64, requires_grad=True)
    value = full_kl(logits, torch.zeros(1, 2, dtype=torch.float64))
    assert value.item() == pytest.approx(0.223144, abs=1e-6)
    assert torch.autograd.grad(value, logits)[0].tolist()[0] == pytest.approx([0.3, -0.3], abs=1e-7)


@pytest.mark.parametrize("rows", [1, 4, 10, 11, 300])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tile_by_tile_it_is_the_sum_over_all_words_with_the_same_gradients(rows, temperature):
    hidden, weight, ref_hidden, ref_weight = heads()
    given = (hidden.requires_grad_(), weight.requires_grad_())
    got = chunked_kl(hidden, weight, ref_hidden, ref_weight, temperature=temperature, rows=rows)
    logs = (hidden @ weight.t() / temperature).log_softmax(-1)
    ref_logs = (ref_hidden @ ref_weight.t() / temperature).log_softmax(-1)
    wanted = torch.stack(
        [sum(r.exp() * (r - p) for r, p in zip(*both, strict=True)) for both in zip(ref_logs, logs, strict=True)]
    )
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    scale = torch.linspace(-1, 2, len(got))
    for mine, other in zip(*(torch.autograd.grad((x * scale).sum(), given) for x in (got, wanted)), strict=True):
        assert relative(mine, other) < 2e-6


def test_the_gradient_of_the_kl_agrees_with_finite_differences():
    hidden, weight, ref_hidden, ref_weight = heads(torch.float64)
    logits, ref_logits = (hidden @ weight.t())[:2], (ref_hidden @ ref_weight.t())[:2]
    live = logits.clone().requires_grad_()
    gradient = torch.autograd.grad(full_kl(live, ref_logits, temperature=0.7).sum(), live)[0]
    for index in range(logits.numel()):
        shift = torch.zeros(logits.numel(), dtype=torch.float64).index_fill(0, torch.tensor([index]), 1e-5)
        up, down = (full_kl(logits + s * shift.view_as(logits), ref_logits, temperature=0.7).sum() for s in (1, -1))
        assert gradient.flatten()[index].item() == pytest.approx((up - down).item() / 2e-5, rel=1e-6, abs=1e-9)


def test_words_without_any_probability_and_huge_logits_do_no_harm():
    """Against the even distribution on four words: log-normaliser - mean logit - log 4."""
    weight = torch.tensor([[300.0], [0.0], [-300.0], [299.0]]).requires_grad_()
    got = chunked_kl(torch.ones(2, 1), weight, torch.ones(2, 1), weight.detach(), rows=1)
    assert got.tolist() == [0.0, 0.0]
    got.sum().backward()
    assert not weight.grad.any()
    other = chunked_kl(torch.ones(2, 1), weight, torch.zeros(2, 1), weight.detach(), rows=1)
    assert other.tolist() == pytest.approx([300.313262 - 74.75 - math.log(4)] * 2, rel=1e-6)


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "qwen3"])
def test_both_paths_say_the_same_kl_and_give_it_the_same_gradient_and_the_reference_none(kind):
    model, reference, batch = causal_lm(kind), causal_lm("llama_grouped", seed=1), random_batch(holes=True)
    results = []
    for path in (packed, plain):
        said = path(
            model, batch, dtype=torch.float32, temperature=0.8, want=("logprobs", "ref_kl"), reference=reference
        )
        (said.ref_kl * torch.linspace(0, 1, batch.num_tokens)).sum().backward()
        assert not said.ref_kl[~batch.action_mask].any()
        assert all(p.grad is None for p in reference.parameters())
        results.append((said.ref_kl.detach(), flat_gradient(model)))
    assert results[0][0][batch.action_mask].min() > 1e-3
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    assert relative(results[0][1], results[1][1]) < 5e-6


@pytest.mark.parametrize("path", [packed, plain, own_head])
def test_where_the_reference_is_the_model_itself_its_adapter_is_off_on_every_path(path):
    """The adapter is on the head, too; the kl is that from the model that the adapter was put on."""
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    model, base, batch = get_peft_model(causal_lm(), settings), causal_lm(), random_batch()
    how = {"dtype": torch.float32, "temperature": 0.8, "want": ("logprobs", "ref_kl")}
    itself, other = (path(model, batch, reference=reference, **how).ref_kl for reference in (model, base))
    assert float(other.detach().max()) > 0.1
    torch.testing.assert_close(itself, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("settings", [{}, FIRST])
def test_at_the_reference_the_kl_is_0_and_the_gradient_that_of_dpo(fast, settings):
    model, batch = causal_lm(), random_batch(PAIRS)
    want = ("logprobs", "ref_kl")
    forward = Forward(model=model, dtype=torch.float32, fast=fast, want=want, reference=causal_lm())
    outputs = forward(batch, temperature=1.0)
    batch = batch.replace(side=1 - 2 * batch.member, ref_logprobs=outputs.logprobs.detach())
    assert outputs.ref_kl.abs().max() < 1e-6
    gradients = []
    for loss in (
        policy_loss(config(**settings), outputs, batch),
        dpo.policy_loss(dpo.Config(type="dpo"), outputs, batch),
    ):
        assert loss.total.item() == pytest.approx(3 * math.log(2), rel=1e-6)
        loss.total.backward(retain_graph=True)
        gradients.append(flat_gradient(model))
    assert relative(*gradients) < 1e-5


def test_without_weight_on_the_kl_it_is_dpo_and_near_it_close_to_dpo():
    batch, logprobs, ref_kl = pairs()
    outputs = Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs))
    wanted = dpo.policy_loss(dpo.Config(type="dpo", nll_weight=0.3), outputs, batch).total.item()
    gaps = [
        total(config(kl_weight=w, nll_weight=0.3), batch, logprobs, ref_kl).item() - wanted for w in (0, 1e-4, 1e-3)
    ]
    assert gaps[0] == pytest.approx(0, abs=1e-12)
    assert gaps[2] == pytest.approx(10 * gaps[1], rel=1e-3)
    assert gaps[1] != 0


@pytest.mark.parametrize(("settings", "wanted"), [({}, 0.607192), (FIRST, 0.593650)])
def test_the_losses_of_a_pair_by_hand(settings, wanted):
    """beta .1, h = 1.5, K_w = .8 and K_l = .2: h + alpha (K_w - K_l) is 1.8 for alpha .5 and 2.1 for alpha 1."""
    batch = random_batch([(2, (1, 1))]).replace(side=torch.tensor([1, -1]))
    column = batch.action_mask.double()
    values = {"logprobs": [-10.0, -12.0], "ref_logprobs": [-11.0, -11.5], "ref_kl": [0.8, 0.2]}
    columns = {name: column.masked_scatter(batch.action_mask, torch.tensor(v).double()) for name, v in values.items()}
    batch = batch.replace(ref_logprobs=columns.pop("ref_logprobs"))
    assert total(config(**settings), batch, **columns).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("settings", [{"nll_weight": 0.3}, FIRST])
def test_gradients_agree_with_finite_differences_where_there_is_one(settings):
    """By log-probs and by KLs; the chosen side's KL has none in the second variant of the paper."""
    batch, logprobs, ref_kl = pairs()
    settings, given = config(beta=0.7, **settings), [logprobs.clone(), ref_kl.clone()]
    live = [column.clone().requires_grad_() for column in given]
    gradients = torch.autograd.grad(total(settings, batch, *live), live)
    chosen = (batch.side == 1)[batch.segment]
    for which, gradient in enumerate(gradients):
        for index in batch.action_mask.nonzero().squeeze(-1).tolist():
            values = []
            for step in (1e-5, -1e-5):
                moved = [column.clone() for column in given]
                moved[which][index] += step
                values.append(total(settings, batch, *moved).item())
            slope = (values[0] - values[1]) / 2e-5
            held = which == 1 and bool(chosen[index]) and not settings.chosen_gradient
            assert abs(slope) > 1e-4
            assert gradient[index].item() == pytest.approx(0.0 if held else slope, rel=1e-6, abs=1e-9)


def test_a_rejected_side_that_drifts_is_pulled_back_to_the_reference():
    """The KL of the rejected side grows with the loss, that of the chosen side against it."""
    batch, logprobs, ref_kl = pairs()
    live = ref_kl.clone().requires_grad_()
    gradient = torch.autograd.grad(total(config(**FIRST), batch, logprobs, live), live)[0]
    assert (gradient[batch.action_mask & (batch.side == -1)[batch.segment]] > 0).all()
    assert (gradient[batch.action_mask & (batch.side == 1)[batch.segment]] < 0).all()
