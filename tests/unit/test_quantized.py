"""QLoRA: a base in 4 bits computes what its numbers say, is never changed, and comes out as a whole model."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignkit.engines.hf import HfEngine
from alignkit.errors import ContentError, RecipeError
from alignkit.models.adapted import base_model, effective_weight, numbers
from alignkit.models.forward import packed, plain
from alignkit.models.frozen import hold_frozen, without_adapter
from alignkit.models.load import load_policy, save_pretrained
from alignkit.models.quantized import dequantized, is_quantized
from alignkit.models.tokenizer import character_tokenizer
from alignkit.models.weights import named_policy_weights, policy_shapes
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Lora, Model, Optimizer
from alignkit.run.export.export import export
from alignkit.run.train.train import run as train
from alignkit.train.reference import fingerprint
from alignkit.weights.pieces import pieces
from tests.tiny import causal_lm, random_batch

NF4 = (-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626,
       0.7230, 1)  # fmt: skip
"""QLoRA's levels, of appendix E, to four digits."""
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "whole": {"target_modules": ("q_proj", "down_proj"), "modules_to_save": ("norm", "lm_head")},
}
IDS = [[3, 9, 14, 7, 7, 20]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 (its queries have biases) of two layers."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = character_tokenizer("0123456789+=abcdefgh", context=64)
    save_pretrained(causal_lm("qwen2"), tokenizer, folder, dtype=torch.bfloat16)
    return folder


def qlora(folder: Path, *, moved: bool = True, **settings: Any) -> Any:
    """The model with an adapter around its base in 4 bits, moved away from where it begins."""
    lora = Lora(rank=4, alpha=8, **settings)
    model, _ = load_policy(Model(path=str(folder), lora=lora, quantization="nf4"), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and moved:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def on_plain_base(model: Any, folder: Path, **settings: Any) -> Any:
    """The same adapter around an ordinary base that holds the numbers which the 4 bits stand for."""
    other: Any = load_policy(Model(path=str(folder), lora=Lora(rank=4, alpha=8, **settings)), seed=0)[0]
    said = {name: numbers(p).detach() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(said[name])
    return other


def test_a_block_is_its_largest_weight_times_the_sixteen_levels_of_nf4(tmp_path):
    model: Any = causal_lm()
    rows = torch.tensor(NF4).repeat(2)  # a block of 64 is two rows, each of which begins with its largest weight
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.copy_(rows.expand(32, 32) * 3)
    save_pretrained(model, character_tokenizer("0123456789+=abcdefgh", context=64), tmp_path)
    layer = base_model(qlora(tmp_path, moved=False)).model.layers[0].self_attn.q_proj.base_layer
    assert is_quantized(layer)
    torch.testing.assert_close(dequantized(layer.weight), rows.expand(32, 32) * 3, rtol=0, atol=2e-4)
    assert layer.weight.numel() == 32 * 32 // 2, "two weights in a byte"
    assert layer.weight.quant_state.absmax.dtype == torch.uint8, "the scales are quantised, too"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [packed, plain])
def test_gradients_are_those_around_an_ordinary_base_of_the_same_numbers(path, kind, dtype, folder):
    model = qlora(folder, **KINDS[kind])
    other = on_plain_base(model, folder, **KINDS[kind])
    sides = []
    for each in (hold_frozen(model, dtype), hold_frozen(other, dtype)):
        said = path(each, random_batch(), dtype=dtype, temperature=0.7).logprobs
        said.sum().backward()
        sides.append((said.detach(), {name: p.grad for name, p in each.named_parameters() if p.requires_grad}))
    (got, gradients), (expected, wanted) = sides
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert float(gradient.abs().max()) > 0, f"{name} is not trained"
        torch.testing.assert_close(
            gradients[name], gradient, rtol=tolerance, atol=tolerance * float(gradient.abs().max())
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_samples_from_the_merged_numbers_that_the_trainer_computes_with(kind, folder):
    model = qlora(folder, **KINDS[kind])
    weights = dict(named_policy_weights(model))
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == policy_shapes(model)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    engine = HfEngine(qlora(folder, moved=False, **KINDS[kind]), dtype="float32")
    engine.update(named_policy_weights(model), version=1)
    [scores] = asyncio.run(engine.score(IDS))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(IDS)).logits
    expected = logits[0, :-1].log_softmax(-1).gather(-1, torch.tensor(IDS)[0, 1:, None])[:, 0]
    assert scores == pytest.approx(expected.tolist(), abs=1e-4)


def test_two_ranks_say_each_number_of_the_dequantised_weights_once(folder):
    model = qlora(folder)
    for part in ("merged", "base"):
        said = {name: torch.full(weight.shape, float("nan")).flatten() for name, weight in
                named_policy_weights(model, part=part)}  # fmt: skip
        for rank in range(2):
            for piece in pieces(model, rank=rank, world=2, part=part):
                assert said[piece.name][piece.begin : piece.begin + len(piece.values)].isnan().all()
                said[piece.name][piece.begin : piece.begin + len(piece.values)] = piece.values
        for name, weight in named_policy_weights(model, part=part):
            torch.testing.assert_close(said[name], weight.flatten(), rtol=0, atol=1e-6)


def test_the_base_is_the_same_to_the_bit_at_every_start_whatever_was_trained_around_it(folder):
    model = qlora(folder, moved=False)
    before = fingerprint(model, adapter=False)
    trainer = SingleTrainer(hold_frozen(model, torch.bfloat16), Optimizer(lr=0.1))
    held = fingerprint(model, adapter=False)
    for dtype in (torch.bfloat16, torch.float32):
        plain(model.train(), random_batch(), dtype=dtype, temperature=1.0).logprobs.sum().backward()
        trainer.step(0.1)
        with torch.no_grad():
            plain(model.eval(), random_batch(), dtype=dtype, temperature=1.0)
    assert fingerprint(model, adapter=False) == held
    assert fingerprint(qlora(folder), adapter=False) == before
    assert all(".lora_" in name for name in trainer._trained), "a checkpoint holds the adapter alone"


def test_without_its_adapter_the_policy_is_the_reference_and_a_copy_is_another_model(folder):
    model = qlora(folder)
    fresh = qlora(folder, moved=False)
    copied = copy.deepcopy(model)
    with torch.no_grad(), without_adapter(model):
        torch.testing.assert_close(model(input_ids=torch.tensor(IDS)).logits, fresh(input_ids=torch.tensor(IDS)).logits)
    [layer, other] = [base_model(each).model.layers[0].mlp.down_proj for each in (model, copied)]
    other.base_layer.weight.data.zero_()  # sixteen times the lowest level
    assert not torch.equal(effective_weight(layer), effective_weight(other))
    assert torch.equal(
        effective_weight(layer), effective_weight(base_model(qlora(folder)).model.layers[0].mlp.down_proj)
    )


RECIPE = """
seed: 0
model: {path: MODEL, quantization: nf4, lora: {rank: 4}}
data: {source: ./rows.jsonl, chat: false}
algorithm: {type: sft}
optimizer: {lr: 1e-2}
train: {steps: 6, batch: 3}
checkpoints: {every: 3}
"""


@pytest.fixture
def recipe(folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Reads the recipe with some changes, for a run of a name."""
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(3) for b in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(folder)))
    return lambda *changes, run="run": read_recipe(tmp_path / "recipe.yaml", [*changes, f"run={tmp_path / run}"])


def test_a_run_learns_goes_on_to_the_bit_and_is_exported_as_it_was_trained(recipe, tmp_path):
    train(recipe(), resume=False)
    losses = [json.loads(line)["loss/policy"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    final = tmp_path / "run" / "final"
    assert "quantization_config" not in json.loads((final / "config.json").read_text())
    [told] = [each for each in map(json.loads, (tmp_path / "run" / "events.jsonl").read_text().splitlines())
              if each["kind"] == "saved"]  # fmt: skip
    assert 0 <= told["merged"] < 1e-5
    assert 0 <= told["adapter"] < 1e-5, "peft's reader on a base in 4 bits says what the trainer says"
    train(recipe("train.steps=3", run="half"), resume=False)
    train(recipe(run="half"), resume=True)
    assert torch.equal(*(load_file(tmp_path / run / "final" / "adapter" / "adapter_model.safetensors")[
        "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"] for run in ("run", "half")))  # fmt: skip
    for target in ("merged", "adapter"):
        gaps = export(str(tmp_path / "run"), to=target).gaps
        assert 0 <= gaps["rounded"] < 1e-3
    assert "bnb_4bit_quant_type" in (tmp_path / "run" / "export" / "adapter" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.lora=null"], r"model\.quantization: weights in nf4 cannot be trained; add an adapter"),
        (["model.path=null", "model.scratch={}"], r"model\.quantization: `scratch` weights are drawn at random"),
        (["model.quantization=int3"], r"model\.quantization: "),
    ],
)  # fmt: skip
def test_what_is_no_base_of_an_adapter_is_refused_by_the_recipe(changes, message, recipe):
    with pytest.raises(RecipeError, match=message):
        recipe(*changes)


def test_what_cannot_be_held_in_4_bits_is_one_sentence(folder, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match=r"modules_to_save: 'down_proj' is held in 4 bits .* into target_modules"):
        qlora(folder, modules_to_save=("down_proj",), target_modules=("q_proj",))
    damaged = tmp_path / "damaged"
    save_pretrained(causal_lm("qwen2"), character_tokenizer("0123456789+=abcdefgh", context=64), damaged)
    weights = load_file(damaged / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContentError, match=r"layers\.1\.mlp\.up_proj\.weight holds numbers that are not finite"):
        qlora(damaged)
    settings = json.loads((damaged / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (damaged / "config.json").write_text(json.dumps(settings))
    with pytest.raises(RecipeError, match="were saved quantised, and would be rounded twice"):
        qlora(damaged)
    from bitsandbytes import functional

    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("no kernel\nfor this device")

    with monkeypatch.context() as patch:
        patch.setattr(functional, "quantize_4bit", broken)
        with pytest.raises(RecipeError, match=r"bitsandbytes cannot quantise on cpu here \(no kernel.*\); remove it"):
            qlora(folder)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else sys.modules[name])
    with pytest.raises(RecipeError, match=r"nf4 needs the package bitsandbytes; run: pip install bitsandbytes"):
        qlora(folder)
