"""Activation checkpointing: the same gradients from a fraction of the memory, by every path."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from alignkit.models import attention
from alignkit.models.critic import add_value_head
from alignkit.models.forward import packed, plain
from alignkit.models.recompute import set_recompute
from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run as train
from tests.flash_kernels import flash_on_cpu
from tests.live_bytes import held
from tests.model_families import FAMILIES, tiny
from tests.tiny import causal_lm, flat_gradient, random_batch, relative

FAMILY = {family.name: family for family in FAMILIES}


def gradient(model: nn.Module, path: Any, on: bool, *, dtype: torch.dtype = torch.float32, **options: Any):
    set_recompute(model, on)
    outputs = path(model.train(), random_batch(), dtype=dtype, temperature=0.9, **options)
    total = outputs.logprobs.square().sum() + outputs.entropy.sum()
    (total + (outputs.values.sum() if outputs.values is not None else 0.0)).backward()
    return flat_gradient(model)


@pytest.mark.parametrize("path", [packed, plain])
@pytest.mark.parametrize("kind", ["llama_grouped", "llama_tied", "qwen3"])
def test_gradients_are_those_without_to_the_bit(kind, path):
    model = causal_lm(kind)
    assert torch.equal(gradient(model, path, True), gradient(model, path, False))


@pytest.mark.parametrize("name", ["Gemma 2 (windows, soft caps)", "gpt-oss (window, sinks)", "DeepSeek V3, Kimi K2"])
def test_they_are_with_windows_caps_sinks_and_latent_attention(name):
    model = tiny(FAMILY[name])
    assert relative(gradient(model, packed, True), gradient(model, packed, False)) < 1e-6


def test_they_are_with_an_adapter_which_alone_gets_a_gradient():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(causal_lm(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    got = gradient(model, packed, True)
    assert torch.equal(got, gradient(model, packed, False))
    packed(model, random_batch(), dtype=torch.float32, temperature=1.0).logprobs.sum().backward()
    assert {".lora_" in name for name, p in model.named_parameters() if p.grad is not None} == {True}


def test_they_are_under_autocast_by_cudas_kernels_and_with_a_value_head():
    model = add_value_head(causal_lm("qwen3"), 1, seed=0)
    options = {"dtype": torch.bfloat16, "want": ("logprobs", "values")}
    with flash_on_cpu():
        assert relative(gradient(model, packed, True, **options), gradient(model, packed, False, **options)) < 1e-6


def test_the_backward_pass_runs_the_packed_attention_again_and_leaves_the_model_its_own(monkeypatch):
    calls, right = [], attention.packed_attention
    monkeypatch.setattr(attention, "packed_attention", lambda *a, **k: calls.append(1) or right(*a, **k))
    model = causal_lm()
    set_recompute(model, True)
    outputs = packed(model.train(), random_batch(), dtype=torch.float32, temperature=1.0)
    assert (len(calls), model.config._attn_implementation) == (2, "sdpa")
    plain(model, random_batch(), dtype=torch.float32, temperature=1.0)
    outputs.logprobs.sum().backward()
    assert (len(calls), model.config._attn_implementation) == (4, "sdpa")


def test_a_token_keeps_its_layers_inputs_only():
    """4 layers, width 64, 3 x wider inside, 400 tokens: without, a token keeps 20 times what goes in and out."""
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width = 4, 64
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, "vocab_size": 23}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, attn_implementation="sdpa", **sizes)).train()
    kept = {}
    for on in (True, False):
        set_recompute(model, on)
        rows = [
            held(lambda n=n: packed(model, random_batch([(8, [n] * 8)]), dtype=torch.float32, temperature=1.0))
            for n in (25, 50)
        ]
        kept[on] = (rows[1] - rows[0]) / (25 * 8)
    inputs = layers * width * 4  # bytes in float32
    assert inputs <= kept[True] < 3.5 * inputs
    assert kept[False] > 5 * kept[True]


def test_an_architecture_that_cannot_is_named():
    model = causal_lm()
    type(model).supports_gradient_checkpointing = False
    try:
        with pytest.raises(ValueError, match="does not support gradient checkpointing"):
            set_recompute(model, True)
    finally:
        type(model).supports_gradient_checkpointing = True


ROWS = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(3) for b in range(3)]
GIVEN = "data: {source: ./rows.jsonl, chat: false}\n"
SAMPLED = """
data: {source: "generator:arithmetic", options: {digits: 1, style: characters}, chat: false, max_prompt_tokens: 8}
rewards: [{name: exact_match}, {name: ends_with_stop}]
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 4, canary_tolerance: 0.001}
"""
STAGES = {
    "sft": GIVEN + "algorithm: {type: sft}\ntrain: {steps: 3, batch: 2}\n",
    "sft with lora": GIVEN
    + "algorithm: {type: sft}\ntrain: {steps: 3, batch: 2}\nmodel: {lora: {rank: 2, alpha: 4}}\n",
    "grpo": SAMPLED + "algorithm: {type: grpo}\ntrain: {steps: 3}\n",
    "ppo with a critic": SAMPLED + "algorithm: {type: ppo}\ntrain: {steps: 3}\n",
    "dpo": "data: {source: ./pairs.jsonl, chat: false}\nalgorithm: {type: dpo}\ntrain: {steps: 3, batch: 2}\n",
}
SCRATCH = {"characters": "0123456789+-*=", "layers": 2, "hidden": 32, "heads": 2, "context": 32}


@pytest.mark.parametrize("name", STAGES)
def test_runs_end_with_the_weights_of_runs_without_to_the_bit(name, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "99"} for row in ROWS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    stage = yaml.safe_load(STAGES[name])
    model = {"scratch": SCRATCH, "dtype": "float32", **stage.pop("model", {})}
    rest = {"seed": 0, "model": model, "optimizer": {"lr": 1e-2}, "checkpoints": {"every": None}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(rest | stage))
    weights = []
    for on in ("true", "false"):
        changes = [f"train.recompute={on}", f"run={tmp_path / on}"]
        train(read_recipe(tmp_path / "recipe.yaml", changes), resume=False)
        weights.append(load_file(tmp_path / on / "final" / "model.safetensors"))
    for key, weight in weights[0].items():
        assert torch.equal(weight, weights[1][key]), key
