"""An adapter apart from its base: two matrices a layer that say all of it, or a refusal with the cure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from alignkit.engines.vllm.adapter import stale_matrices
from alignkit.errors import RecipeError
from alignkit.models.adapter_matrices import adapter_matrices, adapter_shapes
from alignkit.models.weights import named_policy_weights
from tests.tiny import causal_lm


def adapted(**settings: Any) -> Any:
    model = get_peft_model(
        causal_lm(seed=1), LoraConfig(**{"r": 3, "target_modules": ["q_proj", "up_proj"]} | settings)
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("rslora", [False, True])
def test_base_plus_the_product_of_the_matrices_is_the_merged_model(rslora: bool):
    model = adapted(lora_alpha=7, use_rslora=rslora)
    base, merged = (dict(named_policy_weights(model, part=part)) for part in ("base", "merged"))
    matrices = dict(named_policy_weights(model, part="adapter"))
    assert base.keys() == merged.keys()
    plain = dict(named_policy_weights(causal_lm(seed=1)))
    assert all(torch.equal(base[name], plain[name]) for name in plain)
    layers = {name.rpartition(".lora_")[0] for name in matrices}
    assert len(matrices) == 2 * len(layers) > 2
    for name, weight in merged.items():
        layer = name.removesuffix(".weight")
        change = matrices[f"{layer}.lora_B.weight"] @ matrices[f"{layer}.lora_A.weight"] if layer in layers else 0.0
        assert torch.allclose(weight, base[name] + change, atol=1e-6)
        assert torch.equal(weight, base[name]) == (layer not in layers)


def test_the_shapes_are_those_of_the_matrices():
    model = adapted()
    assert adapter_shapes(model) == {name: tuple(tensor.shape) for name, tensor in adapter_matrices(model)}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"use_dora": True}, r"vLLM has no DoRA, which model\.layers\.0\.self_attn\.q_proj is trained with"),
        (
            {"modules_to_save": ["down_proj"]},
            r"model\.layers\.0\.mlp\.down_proj is trained whole, which no adapter says",
        ),
        ({"target_modules": ["q_proj", "lm_head"]}, r"vLLM takes no adapter of lm_head, the model's words"),
        ({"target_modules": ["embed_tokens"]}, r"vLLM takes no adapter of model\.embed_tokens, the model's words"),
    ],
)
def test_what_two_matrices_a_layer_cannot_say_is_refused_in_one_line(settings: dict[str, Any], problem: str):
    with pytest.raises(RecipeError, match=rf"^engine\.lora: {problem}; set engine\.lora: merged$"):
        adapter_shapes(adapted(**settings))


class Slots:
    """A fused layer of vLLM with places for three adapters of rank 4, one after another."""

    def __init__(self) -> None:
        self.lora_a_stacked = tuple(torch.zeros(1, 1, 4, 5) for _ in range(3))
        self.lora_b_stacked = tuple(torch.zeros(1, 1, rows, 4) for rows in (6, 2, 2))


class Manager:
    def __init__(self) -> None:
        self.modules = {"attn.qkv_proj": Slots()}
        self.packed_modules = {"attn.qkv_proj": ["attn.q_proj", "attn.k_proj", "attn.v_proj"]}


def test_a_matrix_a_padding_or_a_neighbour_that_is_held_otherwise_is_named():
    first, second = torch.randn(3, 5), torch.randn(2, 3)
    sent = {("attn.k_proj", "lora_A"): first, ("attn.k_proj", "lora_B"): second}

    def held() -> tuple[Manager, Slots]:
        manager = Manager()
        slots = manager.modules["attn.qkv_proj"]
        slots.lora_a_stacked[1][0, 0, :3], slots.lora_b_stacked[1][0, 0, :, :3] = first, second
        return manager, slots

    assert stale_matrices(held()[0], sent) == []
    assert stale_matrices(Manager(), sent) == ["attn.k_proj.lora_A", "attn.k_proj.lora_B"]
    manager, slots = held()
    slots.lora_b_stacked[1][0, 0, 1, 2] = torch.nextafter(second[1, 2], torch.tensor(9.0))
    assert stale_matrices(manager, sent) == ["attn.k_proj.lora_B"]
    manager, slots = held()
    slots.lora_a_stacked[1][0, 0, 3, 4] = 1e-30  # of a rank that the adapter has not
    slots.lora_a_stacked[2][0, 0, 0, 0] = 1e-30  # of a layer that got no adapter
    assert stale_matrices(manager, sent) == ["attn.k_proj.lora_A", "attn.v_proj.lora_A"]
