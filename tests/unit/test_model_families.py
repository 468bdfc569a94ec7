"""Every family of docs/models.md: the packed path equals the model's own logits, or is left in one sentence."""

from __future__ import annotations

import pytest
import torch

from alignkit.models.forward import Forward
from alignkit.models.own_head import own_head
from tests.model_families import FAMILIES, Family, tiny
from tests.tiny import flat_gradient, random_batch, relative

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_log_probs_and_gradients_are_the_models_own_and_the_packed_path_is_kept_where_the_table_says(family: Family):
    model, batch, said = tiny(family), random_batch(), []
    forward = Forward(model, torch.float32, report=said.append)
    forward.verify(batch, temperature=0.8)
    assert len(said) == (0 if family.plain is None else 1)
    assert all(family.plain in line and "\n" not in line for line in said)
    assert forward.fast is (family.plain is None)
    results = []
    for said_of in (forward, lambda *args, **how: own_head(model, *args, dtype=torch.float32, **how)):
        logprobs = said_of(batch, temperature=0.8).logprobs
        logprobs.square().sum().backward()
        results.append((logprobs.detach(), flat_gradient(model)))
    (logprobs, gradient), (wanted, exact) = results
    assert float((logprobs - wanted)[batch.action_mask].abs().mean()) < family.gap
    assert relative(gradient, exact) < 2e-5


def test_the_table_has_40_families_of_which_most_are_packed():
    assert len(FAMILIES) >= 40
    assert sum(family.plain is None for family in FAMILIES) >= 40
