"""A mixture's experts follow autocast: their products, gradients and frozen weights, beside those of dense models."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignkit.engines.hf import HfEngine
from alignkit.errors import RecipeError
from alignkit.models.adapter_matrices import adapter_shapes
from alignkit.models.experts import follow_autocast, follows
from alignkit.models.forward import packed
from alignkit.models.frozen import hold_frozen
from alignkit.models.lora import add_lora
from alignkit.models.weights import named_policy_weights
from alignkit.recipe.schema import Lora
from tests.flash_kernels import flash_on_cpu
from tests.mock_cuda import CUDA, mock_cuda, model_on_mock
from tests.model_families import FAMILIES, tiny
from tests.tiny import random_batch

BF16 = torch.bfloat16
FAMILY = {family.name: family for family in FAMILIES}
PAIRS = [("Mixtral", "Llama 2, 3"), ("Qwen3-MoE", "Qwen3")]  # a mixture and a dense model that is built alike


def learnt(model: nn.Module, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs, and the gradient of each parameter."""
    model.zero_grad()
    outputs = packed(model, random_batch(), dtype=dtype, temperature=0.9)
    outputs.logprobs.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return outputs.logprobs.detach(), gradients


def distance(one: dict[str, Tensor], other: dict[str, Tensor], *words: str) -> float:
    """Relative distance of the gradients of all parameters whose names hold one of the words."""
    names = [name for name in other if any(word in name for word in words)]
    assert names
    flat = [torch.cat([part[name].flatten() for name in names]) for part in (one, other)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, torch.dtype]]:
    """The dtypes of what every grouped product multiplies."""
    told: list[tuple[torch.dtype, torch.dtype]] = []
    grouped = torch.nn.functional.grouped_mm

    def note(input: Tensor, weight: Tensor, **options: Any) -> Tensor:
        told.append((input.dtype, weight.dtype))
        return grouped(input, weight, **options)

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", note)
    return told


@pytest.mark.parametrize(("mixture", "dense"), PAIRS)
def test_experts_multiply_in_half_precision_and_are_as_far_from_float32_as_a_dense_model(
    mixture: str, dense: str, products: list
):
    """By log-probs, by the gradients of experts and router against those of the dense model's linear layers.

    Of weights by which no token's expert changes when the router is rounded, as linear layers are, experts or not.
    """
    gaps = []
    for name, words in ((mixture, ("experts", "mlp.gate.")), (dense, ("mlp",))):
        model = follow_autocast(tiny(FAMILY[name], seed=2))
        exact, gradients = learnt(model, torch.float32)
        products.clear()
        near, rounded = learnt(model, BF16)
        assert all(gradient.dtype == torch.float32 for gradient in rounded.values())
        assert set(products) == ({(BF16, BF16)} if name == mixture else set())
        gaps.append((float((near - exact).abs().mean()), distance(rounded, gradients, *words)))
    (said, learns), (dense_said, dense_learns) = gaps
    assert 0 < said < 1.5 * dense_said
    assert 0 < learns < 1.5 * dense_learns


def test_left_to_themselves_experts_would_multiply_in_float32(products: list):
    """What the whole is for: the test above could fail."""
    learnt(tiny(FAMILY["Qwen3-MoE"]), BF16)
    assert set(products) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("name", ["Mixtral", "gpt-oss (window, sinks)"])
def test_in_float32_nothing_changes_to_the_bit(name: str):
    model = tiny(FAMILY[name])
    ids = torch.tensor([[3, 9, 27, 50, 11]])
    before = model(input_ids=ids).logits
    assert torch.equal(follow_autocast(model)(input_ids=ids).logits, before)


def test_a_dense_model_is_left_alone():
    model = tiny(FAMILY["Qwen3"])
    before = model.config._experts_implementation
    assert follow_autocast(model).config._experts_implementation == before != "alignkit"


def test_frozen_experts_are_held_in_half_and_compute_the_same():
    """Under autocast to the bit; in float32 what a float32 model with the rounded weights computes."""
    model = follow_autocast(tiny(FAMILY["Mixtral"])).requires_grad_(False)
    rounded = copy.deepcopy(model)
    before = packed(model, random_batch(), dtype=BF16, temperature=0.9).logprobs
    hold_frozen(model, BF16)
    held = [p for module in model.modules() if follows(module) for p in module.parameters()]
    assert {p.dtype for p in held} == {BF16}
    assert torch.equal(packed(model, random_batch(), dtype=BF16, temperature=0.9).logprobs, before)
    hold_frozen(rounded, BF16)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.float()
    exact = [packed(each, random_batch(), dtype=torch.float32, temperature=0.9).logprobs for each in (model, rounded)]
    assert torch.allclose(*exact, atol=1e-6)


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3-MoE", "DeepSeek V2"])
def test_an_adapter_of_stacked_experts_is_merged_sent_and_learns(name: str, products: list):
    """peft puts an adapter around each of their two parameters where all linear layers are meant."""
    model = add_lora(follow_autocast(tiny(FAMILY[name])), Lora(rank=2, alpha=3), 0)
    matrices = {key: p for key, p in model.named_parameters() if "experts" in key and "lora_B" in key}
    assert len(matrices) == 2 * sum(map(follows, model.modules()))
    for parameter in matrices.values():
        nn.init.normal_(parameter, std=0.1)
    engine = HfEngine(tiny(FAMILY[name]), dtype="float32")
    probe = [[3, 9, 27, 50, 11, 4]]
    plain = asyncio.run(engine.score(probe))[0]
    engine.update(named_policy_weights(model), version=1)
    said = asyncio.run(engine.score(probe))[0]
    ids = torch.tensor(probe)
    own = model.eval()(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].tolist()
    assert said == pytest.approx(own, abs=1e-5)
    assert said == pytest.approx(asyncio.run(HfEngine(model, dtype="float32").score(probe))[0], abs=1e-6)
    assert said != pytest.approx(plain, abs=1e-2)
    products.clear()
    _, gradients = learnt(model, BF16)
    assert set(products) == {(BF16, BF16)}
    assert all(gradients[key].abs().sum() > 0 for key in matrices)
    with pytest.raises(RecipeError, match=r"no adapter of .*mlp\.(gate|experts), which is no linear layer; set engine"):
        adapter_shapes(model)


def test_on_a_card_experts_multiply_in_half_on_it_and_the_host_waits_for_none_of_it(
    products: list, monkeypatch: pytest.MonkeyPatch
):
    """The mock's linear layers do not follow autocast, so that half precision here is the experts' own doing."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    histogram = torch.histc  # of whole numbers, which CUDA has and the CPU under the mock has not
    monkeypatch.setattr(torch, "histc", lambda x, **options: histogram(x.float(), **options))
    with flash_on_cpu(), mock_cuda() as waits:
        model = model_on_mock(follow_autocast(tiny(FAMILY["Qwen3-MoE"])))
        batch = random_batch().to(CUDA)
        waits.clear()
        with torch.autocast("cuda", BF16):
            hidden = torch.randn(12, 32).to(CUDA)
            model.model.layers[0].mlp(hidden[None]).sum().backward()
        assert not waits
        outputs = packed(model, batch, dtype=BF16, temperature=0.9)
        outputs.logprobs.sum().backward()
    assert set(products) == {(BF16, BF16)}
    for layer in model.model.layers:
        for parameter in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj, layer.mlp.gate.weight):
            assert parameter.grad.device == CUDA
            assert parameter.grad.held.dtype == torch.float32
            assert parameter.grad.held.abs().sum() > 0
