"""Frozen weights in the recipe's dtype, and a reference that is the policy without its adapter: the same numbers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from alignkit.models.experts import follow_autocast
from alignkit.models.forward import Forward, packed, plain
from alignkit.models.frozen import hold_frozen, is_held, without_adapter
from alignkit.models.weights import merged_weights
from alignkit.recipe.read import read_recipe
from alignkit.run.train import build
from alignkit.run.train.train import run as train
from tests.model_families import FAMILIES, tiny
from tests.tiny import causal_lm, flat_gradient, random_batch

BF16 = torch.bfloat16
FAMILY = {family.name: family for family in FAMILIES}


def adapted(base: nn.Module, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, **{"target_modules": "all-linear", **settings}, task_type="CAUSAL_LM")
    return get_peft_model(base, config)


def moved(model: Any) -> Any:
    """With an adapter that does something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or ".lora_embedding_A." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def learnt(model: nn.Module, dtype: torch.dtype = BF16) -> tuple[Tensor, Tensor]:
    outputs = packed(model, random_batch(), dtype=dtype, temperature=0.9)
    (outputs.logprobs.square().sum() + outputs.entropy.sum()).backward()
    return outputs.logprobs.detach(), flat_gradient(model)


MODELS = {
    "llama": lambda: causal_lm("llama"),
    "tied": lambda: causal_lm("llama_tied"),
    "biases": lambda: causal_lm("qwen2"),
    "gpt2": lambda: tiny(FAMILY["GPT-2"]),
    "gemma2": lambda: tiny(FAMILY["Gemma 2 (windows, soft caps)"]),
    "mixtral": lambda: tiny(FAMILY["Mixtral"]),
    "mixtral, whose experts follow": lambda: follow_autocast(tiny(FAMILY["Mixtral"])),
}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_and_gradients_under_autocast_are_those_of_float32_weights_to_the_bit(name, exact):
    """exact: weights that bfloat16 holds without loss, as a checkpoint in it gives; else an embedding stays float32."""
    base = MODELS[name]()
    if exact:
        for parameter in base.parameters():
            parameter.data = parameter.data.bfloat16().float()
    model = moved(adapted(base))
    held = hold_frozen(copy.deepcopy(model), BF16)
    assert is_held(held)
    assert not is_held(model)
    for got, wanted in zip(learnt(held), learnt(model), strict=True):
        assert torch.equal(got, wanted)
    embedding = held.get_input_embeddings().weight
    assert (embedding.dtype is BF16) is (exact and name != "gemma2")  # whose embedding is scaled in its own dtype
    share = sum(p.numel() for p in held.parameters() if p.dtype is BF16) / sum(p.numel() for p in held.parameters())
    assert share > (0.1 if "mixtral" in name else 0.25)  # whose stacked experts have an adapter, and stay float32


@pytest.mark.parametrize("path", [packed, plain])
def test_in_float32_its_log_probs_are_those_of_the_rounded_weights_and_the_weights_stay_narrow(path):
    model = moved(adapted(causal_lm("llama_tied")))
    rounded = copy.deepcopy(model)
    held = hold_frozen(model, BF16)
    layers = dict(held.named_modules())
    with torch.no_grad():
        for name, module in rounded.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                parameter.copy_(getattr(layers[name], key).float())
        how = {"dtype": torch.float32, "temperature": 1.0}
        got, wanted = (path(each, random_batch(), **how).logprobs for each in (held, rounded))
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    narrow = {name for name, p in held.named_parameters() if p.dtype is BF16}
    assert len(narrow) == 14
    assert not any("lora" in name for name in narrow)


def test_merged_weights_are_added_up_in_float32():
    model = moved(adapted(causal_lm()))
    wanted = dict(merged_weights(copy.deepcopy(model)))
    for name, weight in merged_weights(hold_frozen(model, BF16)):
        if "_proj" in name:
            assert weight.dtype is torch.float32
            own = model.get_submodule(f"base_model.model.{name.removesuffix('.weight')}")
            assert (weight - wanted[name]).abs().max() <= 0.005 * wanted[name].abs().max()
            assert torch.equal(weight, own.base_layer.weight.float() + own.get_delta_weight("default"))


ADAPTERS: dict[str, dict[str, Any]] = {
    "all linear": {},
    "head and embedding": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
}


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("kind", ["llama", "llama_tied"])
@pytest.mark.parametrize("settings", ADAPTERS)
def test_without_its_adapter_a_model_says_what_a_separate_base_says_to_the_bit(settings, kind, dtype):
    model, base, batch = moved(adapted(causal_lm(kind), **ADAPTERS[settings])), causal_lm(kind), random_batch()
    with torch.no_grad():
        for parameter in model.parameters():  # what is trained whole has moved, too
            if parameter.requires_grad:
                parameter.add_(0.05)
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        off = Forward(model, dtype, adapter=False)(batch, temperature=0.9).logprobs
        alone = Forward(base, dtype)(batch, temperature=0.9).logprobs
        on = Forward(model, dtype)(batch, temperature=0.9).logprobs
    assert torch.equal(off, alone)
    assert (on - off).abs().max() > 0.01
    assert trained == [name for name, p in model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("path", [packed, plain])
def test_the_divergence_from_itself_without_the_adapter_is_that_from_a_separate_base(path):
    model, base, batch = moved(adapted(causal_lm())), causal_lm().requires_grad_(False), random_batch()
    results = []
    for reference in (model, base):
        options = {"want": ("logprobs", "ref_kl"), "reference": reference}
        outputs = path(model, batch, dtype=torch.float32, temperature=1.0, **options)
        outputs.ref_kl.sum().backward()
        results.append((outputs.ref_kl.detach(), flat_gradient(model)))
    assert all(torch.equal(own, other) for own, other in zip(*results, strict=True))
    assert results[0][0].sum() > 0.01


def test_the_adapter_is_back_after_an_error():
    model = moved(adapted(causal_lm()))
    with pytest.raises(RuntimeError, match="on the way"), without_adapter(model):
        raise RuntimeError("on the way")
    assert not any(layer.disable_adapters for layer in model.modules() if hasattr(layer, "_disable_adapters"))


SCRATCH = {"characters": "0123456789+-*=", "layers": 2, "hidden": 32, "heads": 2, "context": 32}
RECIPE = {
    "seed": 0,
    "model": {"scratch": SCRATCH, "dtype": "bfloat16", "lora": {"rank": 2, "alpha": 4}},
    "data": {"source": "./pairs.jsonl", "chat": False},
    "algorithm": {"type": "dpo"},
    "optimizer": {"lr": 1e-2},
    "train": {"steps": 4, "batch": 2},
    "checkpoints": {"every": None},
}


@pytest.mark.parametrize("algorithm", ["dpo", "tdpo"])
def test_a_run_builds_no_second_model_and_ends_with_the_weights_of_a_run_that_did(algorithm, tmp_path, monkeypatch):
    pairs = [{"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": "99"} for a in range(3) for b in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    built: list[str] = []
    right = build.build_reference
    monkeypatch.setattr(build, "build_reference", lambda *of: built.append("model") or right(*of))

    def final(name: str) -> dict[str, Tensor]:
        changes = [f"algorithm.type={algorithm}", f"run={tmp_path / name}"]
        train(read_recipe(tmp_path / "recipe.yaml", changes), resume=False)
        return load_file(tmp_path / name / "final" / "adapter" / "adapter_model.safetensors")

    weights = final("off")
    assert built == []
    monkeypatch.setattr(build, "begins_as_base", lambda *of: False)
    for name, wanted in final("separate").items():
        assert torch.equal(weights[name], wanted), name
    assert built == ["model"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_such_a_run_saves_is_read_back_and_found_right(dtype, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1=", "completion": "2"}\n' * 4)
    changed = {"data": {"source": "./rows.jsonl", "chat": False}, "algorithm": {"type": "sft"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changed))
    train(read_recipe(tmp_path / "recipe.yaml", [f"model.dtype={dtype}", f"run={tmp_path / 'run'}"]), resume=False)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    told = [event for event in events if event["kind"] == "saved"][-1]
    assert 0 <= told["merged"] < 1e-5
    assert 0 <= told["adapter"] < 1e-5
