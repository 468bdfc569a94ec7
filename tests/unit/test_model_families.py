"""Every family of docs/models.md: the packed path equals the model's own logits, or is left in one sentence."""

from __future__ import annotations

import runpy
from pathlib import Path

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


SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "models_table.py"))


def test_the_page_has_a_row_for_each_family_with_the_path_that_it_takes():
    table = SCRIPT["DOCS"].read_text().split(SCRIPT["START"])[1].split(SCRIPT["END"])[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [family.name for family in FAMILIES], "run: make models-table"
    for row, family in zip(rows, FAMILIES, strict=True):
        assert (row[2] == "packed") is (family.plain is None), f"{family.name}; run: make models-table"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_rest_of_its_row_is_what_is_found(family: Family):
    """But for the gap, of which the last digit is the machine's."""
    shown = next(line for line in SCRIPT["DOCS"].read_text().splitlines() if line.startswith(f"| {family.name} |"))
    found, shown = SCRIPT["row"](family).split(" | "), shown.split(" | ")
    assert found[:3] + found[4:] == shown[:3] + shown[4:], "run: make models-table"
