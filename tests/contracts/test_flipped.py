"""With the sign of its advantages turned, every algorithm that has any fails twice: its examples and the bandit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from alignkit.algorithms.base import Algorithm
from alignkit.models.critic import add_value_head
from alignkit.types.batch import Batch
from tests.contracts import test_examples as examples
from tests.contracts import test_meaning as meaning
from tests.tiny import causal_lm


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    widest = max(len(meaning.heads_of(one.values[0])) for one in meaning.updates())
    return add_value_head(causal_lm("llama_grouped"), widest, seed=0)


def has_advantages(case: examples.Worked) -> bool:
    torch.set_default_dtype(torch.float64)
    try:
        return examples.estimated(case, examples.built(case)).advantages is not None
    finally:
        torch.set_default_dtype(torch.float32)


def flipped(algorithm: Algorithm) -> Algorithm:
    """The algorithm with an `estimate` that writes the advantages with the other sign."""

    def estimate(config: Any, batch: Batch) -> Batch:
        batch = algorithm.estimate(config, batch)
        return batch.replace(advantages=-batch.require("advantages"))

    return replace(algorithm, estimate=estimate)


WORKED = [one for one in examples.worked() if has_advantages(one.values[0])]
NAMES = sorted({one.values[0].config.type for one in WORKED})


def test_no_algorithm_that_writes_advantages_is_left_out():
    assert {found.name for found in examples.FOUND if "advantages=" in found.path.read_text()} <= set(NAMES)


@pytest.mark.parametrize("case", WORKED)
def test_an_example_fails_when_the_advantages_are_flipped(case: examples.Worked, float64):
    turned = replace(case, algorithm=flipped(case.algorithm))
    with pytest.raises(AssertionError):
        examples.test_an_algorithm_makes_of_its_examples_what_was_computed_by_hand(turned)


@pytest.mark.parametrize("name", NAMES)
def test_the_bandit_fails_when_the_advantages_are_flipped(name: str, model: nn.Module):
    [update] = [one.values[0] for one in meaning.updates() if one.id == f"{name}-policy"]
    turned = replace(update, algorithm=flipped(update.algorithm))
    with pytest.raises(AssertionError):
        meaning.test_one_update_prefers_the_better_arm_and_with_its_sign_turned_the_worse_one(turned, model)
