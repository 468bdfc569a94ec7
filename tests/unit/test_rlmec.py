"""RLMEC: shortest edits, token rewards, what is trained and by how much, and the rows that it learns from."""

from __future__ import annotations

import json
import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit import ops
from alignkit.algorithms.rollouts.rlmec import Config, estimate, policy_loss
from alignkit.data.generators import generate
from alignkit.data.kinds.rewrites import KIND
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.rows import Row
from alignkit.data.tasks import make_task
from alignkit.errors import DataError
from alignkit.models.tokenizer import character_tokenizer
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data
from alignkit.run.train.train import run as train
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Loss, Outputs

TOKENS = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ("kitten", "sitting", "1000101"),
        ("12", "112", "100"),
        ("35", "35", "00"),
        ("351", "31", "00"),
        ("", "ab", "11"),
        ("ab", "", ""),
    ],
)
def test_what_an_edit_changes_by_hand(before, after, wanted):
    assert ops.edits.changed([*map(ord, before)], [*map(ord, after)]) == [mark == "1" for mark in wanted]


@cache
def shortest(before: tuple, after: tuple) -> tuple[int, frozenset]:
    """The least number of edits, and what any of the edits of that length may change: by trying all."""
    options: list[tuple[int, frozenset]] = [(0, frozenset([()]))] if not before and not after else []
    if before:
        number, masks = shortest(before[:-1], after)
        options.append((number + 1, masks))
    if after:
        number, masks = shortest(before, after[:-1])
        options.append((number + 1, frozenset((*mask, True) for mask in masks)))
    if before and after:
        number, masks = shortest(before[:-1], after[:-1])
        new = before[-1] != after[-1]
        options.append((number + new, frozenset((*mask, new) for mask in masks)))
    least = min(number for number, _ in options)
    return least, frozenset().union(*(masks for number, masks in options if number == least))


@given(TOKENS, TOKENS)
def test_what_is_changed_is_what_some_shortest_edit_changes(before, after):
    assert tuple(ops.edits.changed(before, after)) in shortest(before, after)[1]


def probabilities(batch: Batch, *values: float) -> torch.Tensor:
    """Log of one probability for each action token, in packed order."""
    return batch.scatter(torch.tensor(values, dtype=torch.float64).log())


def batch(*, rewrite: tuple[int, ...] = (5, 8, 9)) -> Batch:
    """A right completion of two tokens; a wrong one of three, and its rewrite."""
    items = [
        Item(prompt_ids=(1,), completion_ids=(5, 6), group=0, side=1),
        Item(prompt_ids=(2,), completion_ids=(5, 7, 9), group=1, side=-1),
        Item(prompt_ids=(2,), completion_ids=rewrite, group=1, member=1),
    ]
    return pack(items)


def estimated(**settings: float) -> Batch:
    given = batch()
    said = probabilities(given, 0.9, 0.3, 0.9, 0.3, 0.45, 0.5, 0.5, 0.5)
    return estimate(Config(type="rlmec", **settings), given.replace(ref_logprobs=said))


def advantages(batch: Batch) -> list[float]:
    return batch.require("advantages")[batch.action_mask].tolist()


def measured(own: Batch, settings: Config) -> tuple[Loss, list[float]]:
    """The loss where the policy gives each token 1/2, and its gradient on the action tokens."""
    logprobs = probabilities(own, *[0.5] * 8).requires_grad_()
    loss = policy_loss(settings, Outputs(logprobs=logprobs, entropy=torch.zeros(own.num_tokens)), own)
    [gradient] = torch.autograd.grad(loss.total / loss.count, logprobs)
    return loss, gradient[own.action_mask].tolist()


def test_rewards_of_the_completions_and_weights_of_the_rewrite():
    """Of the right completion .9 - .5 and nothing for .3; of the wrong one nothing, -.1 at most, .45 - .5.

    Three tokens are rewarded and five imitated, and all will be divided by five.
    """
    wanted = [0.4 * 5 / 3, 0, 0, -0.1 * 5 / 3, -0.05 * 5 / 3, 0.5, 1, 0.5]
    assert advantages(estimated()) == pytest.approx(wanted, abs=1e-6)
    wanted = [0.4 * 5 / 3, 0, 0, -0.2 * 5 / 3, -0.05 * 5 / 3, 0, 1, 0]
    assert advantages(estimated(penalty=0.2, kept_weight=0.0)) == pytest.approx(wanted, abs=1e-6)


def test_the_loss_is_a_mean_over_rewarded_and_one_over_imitated_tokens():
    loss, gradient = measured(estimated(), Config(type="rlmec"))
    rewarded = [0.4, 0, 0, -0.1, -0.05, 0, 0, 0]
    imitated = [0.5, 0.5, 0, 0, 0, 0.5, 1, 0.5]
    assert loss.count == 5
    assert loss.total.item() / 5 == pytest.approx((sum(rewarded) / 3 + sum(imitated) / 5) * math.log(2), abs=1e-6)
    assert gradient == pytest.approx([-r / 3 - w / 5 for r, w in zip(rewarded, imitated, strict=True)], abs=1e-6)
    said = {name: metric.value for name, metric in loss.metrics.items()}
    assert said["loss/nll"] == pytest.approx(math.log(2))
    assert said["edits/rewarded_frac"] == 0.5
    assert said["edits/penalised_frac"] == pytest.approx(2 / 3)


def test_without_weight_nothing_is_imitated():
    _, gradient = measured(estimated(), Config(type="rlmec", nll_weight=0.0))
    assert gradient == pytest.approx([-0.4 / 3, 0, 0, 0.1 / 3, 0.05 / 3, 0, 0, 0], abs=1e-6)


def test_completions_of_which_no_token_is_rewarded_are_still_imitated():
    """A rewriting model that is sure of nothing that is right, and a wrong completion that it would say itself."""
    given = batch()
    said = probabilities(given, 0.5, 0.3, 0.9, 0.8, 0.7, 0.5, 0.5, 0.5)
    own = estimate(Config(type="rlmec"), given.replace(ref_logprobs=said))
    _, gradient = measured(own, Config(type="rlmec", nll_weight=2.0))
    assert gradient == pytest.approx([-0.2, -0.2, 0, 0, 0, -0.2, -0.4, -0.2], abs=1e-6)


def rows(*columns: dict) -> tuple[list, RowFilter]:
    tokenizer, data = character_tokenizer("0123456789+= ", context=16), Data(source="rows.jsonl", chat=False)
    row_filter = RowFilter(tokenizer=tokenizer, data=data, context=16, unit="completions")
    found = [Row(f"row {at}", {"prompt": "1+2=", **each}) for at, each in enumerate(columns)]
    tasks = [make_task(row, data, source="rows.jsonl", number=at) for at, row in enumerate(found)]
    return KIND.rows(tasks, row_filter), row_filter


def test_rows_become_completions_with_sides_and_the_rewrites_of_wrong_ones():
    made, row_filter = rows(
        {"completion": "3", "label": True, "rewrite": "4"},  # a right one needs none
        {"completion": "13", "label": "false", "rewrite": "3"},
        {"completion": "5", "label": False},
        {"completion": "5", "label": False, "rewrite": "5"},
        {"completion": "5", "label": False, "rewrite": " "},
    )
    items = KIND.items_of(made)
    assert [(item.group, item.member, item.side) for item in items] == [(0, None, 1), (1, None, -1), (1, 1, 0)]
    assert [len(item.completion_ids) for item in items] == [2, 3, 2]  # with the stop token
    assert dict(row_filter.reasons) == {
        "a wrong completion without a rewrite": 1,
        "a rewrite that changes nothing": 1,
        "an empty completion": 1,
    }


def test_a_label_that_is_none_and_data_without_a_usable_row_are_refused():
    with pytest.raises(DataError, match="label is 'perhaps'; wanted true or false"):
        rows({"completion": "3", "label": "perhaps"})
    with pytest.raises(DataError, match="1 of 1 completions left out, 1 with a wrong completion without a rewrite"):
        rows({"completion": "4", "label": False})


def test_generated_rewrites_are_the_right_answers_of_the_same_judgements():
    options = {"digits": 2, "style": "characters"}
    rewritten = generate("arithmetic", options | {"answers": "rewritten"}, split="train", seed=0)
    judged = generate("arithmetic", options | {"answers": "unpaired_feedback"}, split="train", seed=0)
    assert all(row["rewrite"] == row["reference"] for row in rewritten)
    assert [{name: row[name] for name in judged[0]} for row in rewritten] == judged


RECIPE = """
seed: 3
model:
  scratch: {characters: "0123456789+=", layers: 1, hidden: 32, heads: 2, context: 16}
  dtype: float32
data: {source: "generator:arithmetic", chat: false, options: {style: characters, answers: rewritten}}
optimizer: {lr: 1e-2}
algorithm: {type: rlmec}
train: {steps: 40, batch: 16}
checkpoints: {every: null}
health: {dead_steps: 100}
"""


def test_a_run_makes_rewrites_likely_with_the_start_itself_as_rewriting_model(tmp_path):
    (tmp_path / "edits.yaml").write_text(RECIPE)
    train(read_recipe(tmp_path / "edits.yaml", [f"run={tmp_path / 'run'}"]), resume=False)
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps[0]["edits/rewarded_frac"] == 0  # an untaught model is sure of nothing
    assert steps[0]["edits/penalised_frac"] == 1
    assert steps[0]["loss/nll"] > 2.3 > 1.5 > steps[-1]["loss/nll"]
