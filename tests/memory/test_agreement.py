"""What is counted without weights is what torch's CPU allocator holds in a real step."""

from __future__ import annotations

import json

import pytest

from alignkit.parallel.memory.trace import total
from alignkit.recipe.read import read_recipe
from alignkit.run.memory.config_of import SHIPPED
from alignkit.run.memory.measure import count_stage
from tests.memory.real_step import allocated_in_update


def gap(recipe, **options) -> float:
    counted = total(count_stage(recipe, 0, device="cpu", **options).phases["update"])
    return counted / allocated_in_update(recipe) - 1


@pytest.mark.parametrize("moments", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_tiny_models_update_takes_what_was_counted_within_a_tenth(moments):
    assert abs(gap(read_recipe("recipes/smoke/char-addition.yaml", [f"optimizer.moments={moments}"]))) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_smollm2s_update_takes_what_was_counted_within_a_tenth(moments):
    own = ["train.micro_batch_tokens=1024", "rollouts.prompts=4", f"optimizer.moments={moments}"]
    assert abs(gap(read_recipe("recipes/quickstart.yaml", own))) < 0.1


@pytest.mark.slow
def test_all_thirty_layers_hold_what_is_continued_from_two_and_three():
    recipe = read_recipe("recipes/quickstart.yaml", ["train.micro_batch_tokens=1024", "rollouts.prompts=4"])
    few, whole = count_stage(recipe, 0), count_stage(recipe, 0, whole=True)
    assert (few.trained, few.policy) == (whole.trained, whole.policy)
    for phase, held in whole.phases.items():
        assert total(few.phases[phase]) == pytest.approx(total(held), rel=1e-3), phase


@pytest.mark.slow
def test_layers_of_two_kinds_hold_what_is_continued_by_whole_periods_of_them(tmp_path):
    """Six of Gemma 3's, every second of which sees everything, from two and from four of them."""
    config = json.loads((SHIPPED / "google/gemma-3-1b-it.json").read_text())
    kinds = ["sliding_attention", "full_attention"] * 3
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6, "layer_types": kinds}))
    own = [f"model.path={tmp_path}", "data.source=hub:any/rows", "train.micro_batch_tokens=2048"]
    recipe = read_recipe("sft/gemma-3-1b", own)
    few, whole = count_stage(recipe, 0), count_stage(recipe, 0, whole=True)
    assert (few.trained, few.policy, few.token) == (whole.trained, whole.policy, whole.token)
    for phase, held in whole.phases.items():
        assert total(few.phases[phase]) == pytest.approx(total(held), rel=5e-3), phase
