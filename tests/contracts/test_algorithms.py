"""What every algorithm on the shelf owes the trainer; a new file gets these tests without being named here.

Each is tried with its default settings and with every alternative of every enumerated setting. Loss and gradient must
not depend on how the batch is split, packed, shared, ordered or spread over ranks, nor on anything outside the mask.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import torch
from torch import Tensor

from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Outputs
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.recipe.find import list_content, load
from alignkit.recipe.schema import Optimizer, Stage, Train
from alignkit.train.step import Step
from alignkit.types.batch import FLOAT_COLUMNS, Batch, pack
from tests.tiny import (
    SHAPE,
    Recorder,
    causal_lm,
    noise,
    on_ranks,
    put_columns,
    random_batch,
    random_items,
    relative,
    take_columns,
)

PAIRS = ((5, (3, 7)), (2, (6, 2)), (9, (1, 4)))
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Case:
    algorithm: Algorithm
    config: Any


def alternatives(config: type[AlgorithmConfig]) -> Iterator[dict[str, Any]]:
    """Each value of each enumerated or boolean setting, one setting at a time."""
    for name, field in config.model_fields.items():
        kind = field.annotation
        kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        for one in kinds:
            values = get_args(one) if get_origin(one) is Literal else (True, False) if one is bool else ()
            yield from ({name: value} for value in values if value != field.default)


def cases() -> Iterator[Any]:
    for found in list_content("algorithms"):
        algorithm = load(found)
        assert isinstance(algorithm, Algorithm)
        # coefficients that are off by default are on, so that the terms they weigh are tested too
        weights = {name: 0.1 for name, field in algorithm.config.model_fields.items() if field.default == 0.0}
        for change in ({}, *alternatives(algorithm.config)):
            config = algorithm.config(type=found.name, **(weights | change))
            label = "-".join([found.name, *map(str, (*change, *change.values()))])
            yield pytest.param(Case(algorithm, config), id=label)


CASES = list(cases())
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def model():
    return causal_lm("llama_grouped")


def prepared(case: Case, model, *, holes: bool = True) -> Batch:
    """A batch with everything the algorithm needs, near the model's own log-probs, after `estimate`."""
    batch = random_batch(PAIRS if case.algorithm.source == "pairs" else SHAPE, holes=holes)
    with torch.no_grad():
        logprobs = Forward(model=model, dtype=torch.float32)(batch, temperature=1.0).logprobs
    near = {"sampler_logprobs": 0.4, "old_logprobs": 0.2, "ref_logprobs": 0.6}
    columns = {name: logprobs + noise(batch, scale, seed=i) for i, (name, scale) in enumerate(near.items())}
    return case.algorithm.estimate(case.config, batch.replace(**columns).validate()).validate()


def measure(
    case: Case, model, batch: Batch, *, max_tokens: int = 10_000, fast: bool = True, group: Group | None = None
) -> tuple[float, Tensor]:
    """Loss and gradient of one optimizer step on the whole batch (of this rank's share of it)."""
    recorder = Recorder(model)
    step = Step(
        algorithm=case.algorithm,
        config=case.config,
        trainer=recorder,
        forward=Forward(model=model, dtype=torch.float32, fast=fast),
        group=group or Group(),
        temperature=1.0,
        max_tokens=max_tokens,
    )
    step.update(batch, range(batch.num_sequences), lr=1.0)
    return recorder.loss, recorder.gradient


def assert_same(got: tuple[float, Tensor], wanted: tuple[float, Tensor]) -> None:
    assert wanted[1].norm() > 0
    assert got[0] == pytest.approx(wanted[0], rel=TOLERANCE, abs=TOLERANCE * 0.1)
    assert relative(got[1], wanted[1]) < TOLERANCE


@every_case
@pytest.mark.parametrize("max_tokens", [1, 13, 40])
def test_the_micro_batch_split_changes_nothing(case, model, max_tokens):
    batch = prepared(case, model)
    assert_same(measure(case, model, batch, max_tokens=max_tokens), measure(case, model, batch))


@every_case
@pytest.mark.parametrize("world", [2, 3])
def test_the_split_over_ranks_changes_nothing(case, model, world):
    batch = prepared(case, model)
    shares = on_ranks(world, lambda group, own: measure(case, own, batch, max_tokens=30, group=group), model)
    total = (sum(loss for loss, _ in shares), torch.stack([gradient for _, gradient in shares]).sum(0))
    assert_same(total, measure(case, model, batch))


@every_case
def test_sharing_the_prompt_and_packing_change_nothing(case, model):
    batch = prepared(case, model)
    repeated = put_columns(
        random_batch([(b.prompt, b.lengths) for b in batch.blocks], holes=True, share_prefix=False), take_columns(batch)
    )
    assert repeated.num_tokens > batch.num_tokens
    wanted = measure(case, model, batch)
    assert_same(measure(case, model, repeated), wanted)
    assert_same(measure(case, model, batch, fast=False), wanted)
    assert_same(measure(case, model, repeated, fast=False, max_tokens=20), wanted)


@every_case
def test_the_order_of_the_groups_changes_nothing(case, model):
    batch = prepared(case, model)
    items = random_items([(b.prompt, b.lengths) for b in batch.blocks], holes=True)
    by_group = [[item for item in items if item.group == group] for group in range(len(batch.blocks))]
    turned = pack([item for group in reversed(by_group) for item in group])
    assert_same(measure(case, model, put_columns(turned, take_columns(batch))), measure(case, model, batch))


@every_case
def test_estimating_does_not_depend_on_the_order_or_the_sharing_either(case, model):
    batch = prepared(case, model)
    items = random_items([(b.prompt, b.lengths) for b in batch.blocks], holes=True)
    by_group = [[item for item in items if item.group == group] for group in range(len(batch.blocks))]
    order = reversed(by_group) if case.algorithm.source == "pairs" else [by_group[i] for i in (2, 0, 3, 1)]
    turned = put_columns(pack([item for group in order for item in group], share_prefix=False), take_columns(batch))
    again = take_columns(case.algorithm.estimate(case.config, turned))
    for key, columns in take_columns(batch).items():
        for name, values in columns.items():
            torch.testing.assert_close(again[key][name], values, rtol=1e-5, atol=1e-6)


@every_case
def test_nothing_outside_the_mask_is_read(case, model):
    batch = prepared(case, model)
    outside = ~batch.action_mask
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.where(
        outside, 0.0, batch.require("old_logprobs") + 0.1 * torch.randn(len(outside), generator=generator)
    )
    entropy = torch.where(outside, 0.0, torch.rand(len(outside), generator=generator))
    results = []
    for garbage in (0.0, float("nan")):
        columns = {name: getattr(batch, name) for name in FLOAT_COLUMNS if getattr(batch, name) is not None}
        dirty = batch.replace(**{name: torch.where(outside, garbage, column) for name, column in columns.items()})
        dirty = case.algorithm.estimate(case.config, dirty)
        given = torch.where(outside, garbage, logprobs).requires_grad_()
        outputs = Outputs(logprobs=given, entropy=torch.where(outside, garbage, entropy))
        loss = case.algorithm.losses["policy"](case.config, outputs, dirty)
        loss.total.backward()
        results.append((loss.total.item(), loss.count, given.grad, {n: m.value for n, m in loss.metrics.items()}))
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])
    assert results[0][3] == results[1][3]
    assert not results[0][2][outside].any()


@every_case
def test_the_count_follows_from_the_batch_alone_and_metrics_are_plain_numbers(case, model):
    batch = prepared(case, model)
    zeros = torch.zeros(batch.num_tokens)
    count = case.algorithm.losses["policy"](case.config, Outputs(logprobs=zeros, entropy=zeros), batch).count
    live = Forward(model=model, dtype=torch.float32)(batch, temperature=1.0)
    loss = case.algorithm.losses["policy"](case.config, live, batch)
    assert loss.count == count > 0
    assert loss.total.shape == ()
    assert all(isinstance(metric.value, float | int) for metric in loss.metrics.values())


@every_case
def test_what_it_needs_is_all_it_reads(case, model):
    """With only the columns that `needs` names (and those that every batch of its source has) nothing is missing."""
    batch = prepared(case, model)
    given = {"advantages", *case.algorithm.needs(case.config)}
    bare = batch.replace(**{name: None for name in FLOAT_COLUMNS if name not in given})
    bare = case.algorithm.estimate(case.config, bare)
    outputs = Forward(model=model, dtype=torch.float32)(bare, temperature=1.0)
    assert torch.isfinite(case.algorithm.losses["policy"](case.config, outputs, bare).total)


def stage(**changes: Any) -> Stage:
    return Stage.model_validate(
        {"data": {"source": "generator:addition"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1)}
        | changes
    )


@every_case
def test_it_explains_itself_and_its_objections_end_with_a_cure(case):
    text = case.algorithm.explain(case.config)
    assert text.startswith(("minimise", "maximise"))
    for sentence in case.algorithm.requires(case.config, stage(rollouts={"group": 1}, rewards=[{"name": "x"}])):
        assert ": " in sentence
        assert sentence == sentence.strip(". ")
