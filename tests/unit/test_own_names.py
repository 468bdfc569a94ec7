"""The hf engine takes a mixture's weights by their checkpoint's names, one matrix an expert, and fuses them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from alignkit.engines.hf import HfEngine
from alignkit.errors import EngineError
from alignkit.models.own_names import own_names
from alignkit.models.weights import named_policy_weights
from tests.model_families import FAMILIES, tiny

FAMILY = {family.name: family for family in FAMILIES}
NAMES = ["Mixtral", "Qwen2-MoE", "Qwen3-MoE", "OLMoE", "DeepSeek V2", "DeepSeek V3, Kimi K2", "GLM-4.7 lite",
         "GPT-NeoX, Pythia", "Qwen3-Next", "Jamba"]  # fmt: skip  # all that transformers renames or fuses
PROBE = [[3, 9, 27, 50, 11, 4], [8, 8, 2]]


def scores(engine: HfEngine) -> list[list[float]]:
    return asyncio.run(engine.score(PROBE))


@pytest.mark.parametrize("name", NAMES)
def test_an_updated_engine_says_what_the_model_says_to_the_bit(name: str):
    other = tiny(FAMILY[name], seed=1)
    engine, wanted = HfEngine(tiny(FAMILY[name]), dtype="float32"), scores(HfEngine(other, dtype="float32"))
    assert scores(engine) != wanted
    sent = dict(named_policy_weights(other))
    assert sent.keys() != dict(other.named_parameters()).keys(), "the names must differ for this to mean anything"
    engine.update(sent.items(), version=3)
    assert scores(engine) == wanted


def test_all_other_families_have_one_kind_of_names():
    """So that a new one which transformers renames is noticed here, and put into the list above."""
    renamed = []
    for family in FAMILIES:
        model = tiny(family)
        kept = dict(model.named_parameters()) | dict(model.named_buffers())
        if not dict(named_policy_weights(model)).keys() <= kept.keys():
            renamed.append(family.name)
    assert renamed == NAMES


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "lacks",
            r"experts\.gate_up_proj has shape \(3, 32, 32\), wanted \(4, 32, 32\)|misses .*experts\.gate_up_proj",
        ),
        ("extra", r"does not know model\.extra \(1 names differ\)"),
        ("misses", r"misses model\.norm\.weight \(1 names differ\)"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_changes_nothing(change: str, problem: str):
    engine, weights = HfEngine(tiny(FAMILY["Qwen3-MoE"]), dtype="float32"), {}
    weights |= named_policy_weights(tiny(FAMILY["Qwen3-MoE"], seed=1))
    before = scores(engine)
    match change:
        case "lacks":
            del weights["model.layers.0.mlp.experts.2.gate_proj.weight"]
        case "extra":
            weights["model.extra"] = torch.zeros(2)
        case "misses":
            del weights["model.norm.weight"]
    with pytest.raises(EngineError, match=problem):
        engine.update(weights.items(), version=1)
    assert scores(engine) == before


def test_a_models_own_weights_come_back_under_their_own_names_and_the_model_is_left_alone(capsys: Any):
    model = tiny(FAMILY["DeepSeek V3, Kimi K2"])
    before = {name: p.clone() for name, p in model.named_parameters()}
    back = own_names(model, dict(named_policy_weights(tiny(FAMILY["DeepSeek V3, Kimi K2"], seed=1))))
    other = dict(tiny(FAMILY["DeepSeek V3, Kimi K2"], seed=1).named_parameters())
    assert all(torch.equal(back[name], other[name]) for name in other)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert "Loading" not in "".join(capsys.readouterr()), "no bar a step"
