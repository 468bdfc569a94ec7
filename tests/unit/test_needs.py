"""What algorithms and hooks need: unions, and the models that follow from columns and outputs."""

from __future__ import annotations

import pytest

from alignkit.errors import RecipeError
from alignkit.recipe.read import read_recipe
from alignkit.types.needs import REFERENCE, REFERENCE_KL, Needs


def test_a_column_or_output_of_a_model_needs_the_model():
    assert Needs(columns=("ref_logprobs",)).models == ("reference",)
    assert Needs(outputs=("ref_kl",)).models == ("reference",)
    assert Needs(columns=("values", "target_values")).models == ("target",)
    assert Needs(columns=("sampler_logprobs",)).models == ()


def test_a_union_names_each_thing_once_in_order():
    both = Needs(columns=("rewards", "ref_logprobs")) | REFERENCE_KL
    assert both == Needs(columns=("rewards", "ref_logprobs", "old_logprobs"))
    assert Needs() | REFERENCE == REFERENCE


def test_needs_of_the_old_form_are_named_with_the_line_that_cures(tmp_path):
    (tmp_path / "old.py").write_text(
        "from dataclasses import replace\n"
        "from alignkit.algorithms.rollouts import grpo\n"
        "ALGORITHM = replace(grpo.ALGORITHM, needs=lambda config: ('sampler_logprobs',))\n"
    )
    (tmp_path / "recipe.yaml").write_text(
        "model: {scratch: {}}\n"
        "data: {source: 'generator:arithmetic', options: {digits: 1, style: characters}, chat: false}\n"
        "rewards: [{name: exact_match}]\n"
        "algorithm: {type: ./old.py}\n"
        "rollouts: {engine: hf, max_new_tokens: 4}\n"
        "optimizer: {lr: 1e-3}\n"
        "train: {steps: 1}\n"
    )
    with pytest.raises(RecipeError, match=r"`needs` gives tuple; write `Needs\(columns=\('sampler_logprobs',\)\)`"):
        read_recipe(tmp_path / "recipe.yaml")
