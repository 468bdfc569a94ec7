"""The filter for completions that the policy was sure of: which leave, and that what was estimated before stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.algorithms.rollouts import rloo
from alignkit.errors import RecipeError
from alignkit.recipe.read import read_recipe
from alignkit.train.hooks.confidence import ConfidenceFilter
from tests.tabular import completions, on_actions

RECIPE = """
model: {scratch: {}}
data: {source: "generator:arithmetic", options: {digits: 1, operations: "+", style: characters}, chat: false}
rewards: [{name: exact_match}]
algorithm: {type: %s}
optimizer: {lr: 1e-3}
rollouts: {engine: hf, max_new_tokens: 8}
train: {steps: 1, drop_confident: 0.3}
"""


def test_the_surest_by_mean_log_prob_leave_and_the_number_is_rounded_down():
    """Means -1, -.5, -2, -.1 and -.5: of five, .4 takes out two, -.1 and the first -.5; not by their sums."""
    batch = completions(1, 4, 1, 2, 1)
    batch = batch.replace(sampler_logprobs=on_actions(batch, [-1.0, *[-0.5] * 4, -2.0, -0.1, -0.1, -0.5]))
    assert ConfidenceFilter(share=0.4).after_estimate(batch).member.tolist() == [0, 2, 4]
    assert ConfidenceFilter(share=0.59).after_estimate(batch).member.tolist() == [0, 2, 4]
    assert ConfidenceFilter(share=0.19).after_estimate(batch) is batch


def test_advantages_that_were_estimated_with_all_of_them_stay():
    batch = completions(1, 1, 1, rewards=[1, 0, 0])
    batch = batch.replace(sampler_logprobs=on_actions(batch, [-0.1, -1.0, -2.0]))
    kept = ConfidenceFilter(share=0.34).after_estimate(rloo.estimate(rloo.Config(type="rloo"), batch))
    assert kept.require("advantages")[kept.action_mask].tolist() == pytest.approx([-0.5, -0.5])


@pytest.mark.parametrize(("algorithm", "problem"), [("rebel", "groups that rebel compares; remove it"), ("rloo", None)])
def test_methods_that_compare_whole_groups_refuse_it(tmp_path: Path, algorithm, problem):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE % algorithm)
    if problem is None:
        assert read_recipe(file).stages[0].train.drop_confident == 0.3
    else:
        with pytest.raises(RecipeError, match=problem):
            read_recipe(file)
