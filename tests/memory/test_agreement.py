"""What is counted without weights is what torch's CPU allocator holds in a real step."""

from __future__ import annotations

import pytest

from alignkit.parallel.memory.trace import total
from alignkit.recipe.read import read_recipe
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
