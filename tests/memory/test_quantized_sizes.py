"""A base in 4 bits is counted as bitsandbytes holds it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch import nn

from alignkit.errors import RecipeError
from alignkit.models.load import load_policy, save_pretrained
from alignkit.models.tokenizer import character_tokenizer
from alignkit.parallel.memory.device import Device
from alignkit.parallel.memory.sharding import Sharding
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Lora, Model
from alignkit.run.memory.measure import count_stage
from alignkit.run.memory.need import needs
from alignkit.run.memory.quantized_sizes import parts
from tests.tiny import causal_lm

RECIPE = """
model: {path: MODEL, dtype: float32, quantization: nf4, lora: {rank: 2}}
data: {source: ./rows.jsonl, chat: false}
algorithm: {type: sft}
optimizer: {lr: 1e-2}
train: {steps: 2, batch: 2, micro_batch_tokens: 64}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sized")
    save_pretrained(causal_lm(), character_tokenizer("0123456789+=abcdefgh", context=64), folder / "model")
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": "1+1=", "completion": "2"}) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(folder / "model")))
    return read_recipe(folder / "recipe.yaml")


def test_numbers_take_half_a_byte_and_their_scales_a_64th_and_a_fourth_of_a_256th_of_that(recipe):
    counted = count_stage(recipe, 0, device="cpu", whole=True)
    layers = 2 * [*[32 * 32] * 4, *[32 * 48] * 3]
    codes = 4 * (16 + 256 + 1)
    quantised = sum(n // 2 + n // 64 + 4 * -(-n // 64 // 256) + codes for n in layers)
    plain = 2 * 23 * 32 + 5 * 32 + 8  # head, embedding, norms, rotary frequencies twice
    adapters = 2 * 2 * (4 * (32 + 32) + 3 * (32 + 48))
    assert counted.phases["start"]["weights"] == quantised + 4 * (plain + adapters)
    assert counted.trained == adapters
    assert counted.policy == sum(layers) + 2 * 23 * 32 + 5 * 32 + adapters, "an engine has ordinary weights"


def test_what_is_counted_is_what_a_model_that_was_read_holds(recipe):
    model, _ = load_policy(Model(path=recipe.model.path, lora=Lora(rank=2), quantization="nf4"), seed=0)
    held = {id(t): t for p in model.parameters() for t in (p, *parts(p).values())} | {id(b): b for b in model.buffers()}
    codes = [t for t in held.values() if t.shape == (256,) and not isinstance(t, nn.Parameter)]
    shared = (2 * 7 - len(codes)) * 4 * 256  # those of the scales' scales may be one for all layers
    counted = count_stage(recipe, 0, device="cpu", whole=True).phases["start"]["weights"]
    assert counted == sum(t.untyped_storage().nbytes() for t in held.values()) + shared


def test_zero_3_cannot_cut_them_and_says_what_can(recipe):
    with pytest.raises(
        RecipeError, match=r"model\.quantization: ZeRO-3 cuts weights .* nf4 cannot be; use --launch zero2"
    ):
        needs(recipe, Device.parse("80GB"), Sharding(stage=3, world=2))
