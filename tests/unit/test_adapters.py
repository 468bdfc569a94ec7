"""Adapters anywhere: each is trained, and merged it computes what it computed around its base."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from alignkit.engines.hf import HfEngine
from alignkit.errors import RecipeError
from alignkit.models.adapted import base_model, effective_weight
from alignkit.models.critic import freeze_words
from alignkit.models.forward import packed, plain
from alignkit.models.lora import add_lora
from alignkit.models.merge import merge
from alignkit.models.untied import unties
from alignkit.models.weights import named_policy_weights, policy_shapes
from alignkit.recipe.schema import Lora
from tests.tiny import causal_lm, random_batch

IDS = torch.tensor([[3, 9, 14, 7, 7, 20]])
PLACES = {
    "head": {"target_modules": ("q_proj", "lm_head")},
    "embedding": {"target_modules": ("q_proj", "embed_tokens")},
    "both": {"target_modules": ("embed_tokens", "lm_head")},
    "whole head": {"target_modules": ("q_proj",), "modules_to_save": ("lm_head",)},
    "whole embedding and norms": {"target_modules": ("v_proj",), "modules_to_save": ("embed_tokens", "norm")},
    "linear layers": {},
}
KINDS = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}}


def adapted(kind: str = "llama", *, moved: bool = True, **settings: Any) -> Any:
    """A tiny model with an adapter, moved away from where it begins by numbers that the seed alone decides."""
    base: Any = causal_lm(kind)
    with torch.no_grad():
        base.get_input_embeddings().weight[0] = 0.1  # the pad token's row of zeros has no length for DoRA
    model = add_lora(base, Lora(rank=4, alpha=8, **settings), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and moved:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("tied", ["llama", "llama_tied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_every_weight_of_an_adapter_gets_the_same_gradient_by_the_packed_and_by_the_plain_path(place, kind, tied):
    gradients = []
    for path in (packed, plain):
        model = adapted(tied, **PLACES[place], **KINDS[kind])
        path(model, random_batch(), dtype=torch.float32, temperature=0.7).logprobs.sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, expected in gradients[1].items():
        assert expected is not None, f"{name} is not trained"
        assert float(expected.abs().max()) > 0, f"{name} is not trained"
        torch.testing.assert_close(gradients[0][name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tied", ["llama", "llama_tied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_merged_weights_compute_what_base_and_adapter_compute(place, kind, tied):
    model = adapted(tied, **PLACES[place], **KINDS[kind])
    expected = logits(model)
    assert float((logits(adapted(tied, moved=False, **PLACES[place])) - expected).abs().max()) > 0.05, "it must matter"
    weights = {name: tensor.clone() for name, tensor in named_policy_weights(model)}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == policy_shapes(model)
    apart = tied == "llama_tied" and place != "linear layers"
    assert unties(model) == apart
    assert ("lm_head.weight" in weights) == (apart or tied == "llama")
    torch.testing.assert_close(logits(merge(model)), expected, rtol=0, atol=2e-5)
    other: Any = causal_lm("llama" if apart else tied, seed=7)
    other.load_state_dict(weights, strict=tied != "llama_tied" or apart)
    torch.testing.assert_close(logits(other), expected, rtol=0, atol=2e-5)


def test_effective_weights_are_the_equations_of_lora_rslora_and_dora():
    for kind, scale in {"lora": 8 / 4, "rslora": 8 / 2, "dora": 8 / 4}.items():
        layer = base_model(adapted(target_modules=("lm_head",), **KINDS[kind])).lm_head
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = layer.base_layer.weight + scale * b @ a
        if kind == "dora":
            lengths = expected.square().sum(1, keepdim=True).sqrt()
            expected = layer.lora_magnitude_vector["default"].weight[:, None] * expected / lengths
        torch.testing.assert_close(effective_weight(layer), expected, rtol=1e-5, atol=1e-6)


def test_merging_a_parted_pair_leaves_the_heads_own_values_alone():
    model = adapted("llama_tied", target_modules=("embed_tokens",))
    before = base_model(model).lm_head.weight.clone()
    merged = merge(model)
    assert torch.equal(merged.lm_head.weight, before)
    assert not torch.equal(merged.model.embed_tokens.weight, before)
    assert merged.config.tie_word_embeddings is False
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_the_exact_engine_takes_the_weights_of_a_parted_pair():
    import asyncio

    engine = HfEngine(adapted("llama_tied", moved=False, target_modules=("embed_tokens", "lm_head")), dtype="float32")
    model = adapted("llama_tied", target_modules=("embed_tokens", "lm_head"))
    engine.update(named_policy_weights(model), version=1)
    [scores] = asyncio.run(engine.score(IDS.tolist()))
    expected = logits(model)[0, :-1].log_softmax(-1).gather(-1, IDS[0, 1:, None])[:, 0]
    assert scores == pytest.approx(expected.tolist(), abs=1e-4)


def test_dora_on_an_output_without_weights_is_refused_by_name():
    base: Any = causal_lm("llama_tied")
    with torch.no_grad():
        base.get_input_embeddings().weight[0] = 1  # zeros until here, as the row of a pad token
        base.get_input_embeddings().weight[5] = 0
    with pytest.raises(RecipeError, match=r"model\.lora\.dora: all weights of output 5 of lm_head are 0"):
        add_lora(base, Lora(target_modules=("lm_head",), dora=True), seed=0)


def test_a_module_to_save_that_does_not_exist_is_refused_by_name():
    with pytest.raises(RecipeError, match=r"model\.lora\.modules_to_save: the model has no module 'score'"):
        add_lora(causal_lm(), Lora(modules_to_save=("score",)), seed=0)


@pytest.mark.parametrize("tied", ["llama", "llama_tied"])
def test_a_critic_made_of_the_policy_freezes_the_adapter_of_its_head_and_nothing_that_it_reads_with(tied):
    critic = copy.deepcopy(adapted(tied, target_modules=("embed_tokens", "lm_head")))
    freeze_words(base_model(critic))
    trained = {name.split(".lora_")[0].split(".")[-1] for name, p in critic.named_parameters() if p.requires_grad}
    assert trained == {"embed_tokens"}
