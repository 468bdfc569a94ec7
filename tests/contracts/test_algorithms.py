"""What every algorithm on the shelf owes the trainer; a new file gets these tests without being named here.

Each is tried with its default settings and with every alternative of every enumerated setting that is its own. Loss and
gradient must not depend on how the batch is split, packed, shared, ordered or spread over ranks, nor on anything
outside the mask.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignkit.algorithms.base import Algorithm
from alignkit.models.critic import add_value_head
from alignkit.models.forward import Forward, Want
from alignkit.parallel.group import Group
from alignkit.recipe.lookup.find import list_content, load
from alignkit.recipe.schema import Optimizer, Stage, Train
from alignkit.train.step import Step
from alignkit.types.batch import FLOAT_COLUMNS, STATE_COLUMNS, Batch
from alignkit.types.outputs import Loss, Outputs
from tests.grid import alternatives, laid_over, weighed, words
from tests.tiny import (
    ANNOTATED,
    SHAPE,
    Recorder,
    Shape,
    causal_lm,
    noise,
    on_ranks,
    random_batch,
    relative,
    repack,
    take_columns,
)

PAIRS = ((5, (3, 7)), (2, (6, 2)), (9, (1, 4)))
# float32, in which a log-ratio is a small difference of two log-probs; the most that was seen is 3.4e-6
TOLERANCE = 4e-6


@dataclass(frozen=True)
class Case:
    """is_default: no enumerated setting was changed."""

    algorithm: Algorithm
    config: Any
    is_default: bool

    @property
    def want(self) -> tuple[Want, ...]:
        values: tuple[Want, ...] = ("values",) if self.algorithm.heads(self.config) else ()
        return ("logprobs", *values, *self.algorithm.needs(self.config).outputs)

    def forward(self, model: nn.Module, *, fast: bool = True, reference: nn.Module | None = None) -> Forward:
        reference = (reference or REFERENCE).to(next(model.parameters()).device)
        return Forward(model=model, dtype=torch.float32, fast=fast, want=self.want, reference=reference)

    def losses(self, outputs: Outputs, batch: Batch) -> list[Loss]:
        return [loss(self.config, outputs, batch) for loss in self.algorithm.losses.values()]


def cases() -> Iterator[Any]:
    for found in list_content("algorithms"):
        algorithm = load(found)
        assert isinstance(algorithm, Algorithm)
        for change in ({}, *alternatives(algorithm.config, found.path.read_text())):
            config = algorithm.config(type=found.name, **laid_over(weighed(algorithm.config), change))
            label = "-".join([found.name, *words(change)])
            yield pytest.param(Case(algorithm, config, not change), id=label)


CASES = list(cases())
REFERENCE = causal_lm("llama_grouped", seed=1).requires_grad_(False)
HEADS = max(len(case.values[0].algorithm.heads(case.values[0].config)) for case in CASES)
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def model():
    """A policy with a critic's head, of as many numbers as any algorithm has, on its own layers."""
    return add_value_head(causal_lm("llama_grouped"), HEADS, seed=0)


@functools.lru_cache(maxsize=4)
def read(model: nn.Module, shape: Shape) -> tuple[Batch, Tensor]:
    """A batch of that shape and the model's own log-probs of it."""
    batch = random_batch(shape, holes=True)
    with torch.no_grad():
        return batch, Forward(model=model, dtype=torch.float32)(batch, temperature=1.0).logprobs


def annotated(case: Case, model) -> Batch:
    """A batch with everything the algorithm needs, near the model's own log-probs, before `estimate`."""
    sided = case.algorithm.source in ("paired_preference", "paired_episodes", "pairwise")
    in_pairs = sided or case.algorithm.source in ("ranked", "rewrites", "replay", "resets")
    batch, logprobs = read(model, PAIRS if in_pairs else SHAPE)
    if sided:
        batch = batch.replace(side=1 - 2 * batch.member)
    if case.algorithm.source == "stepwise_supervision":  # labels
        label = torch.rand(batch.num_tokens, generator=torch.Generator().manual_seed(3))
        batch = batch.replace(rewards=label.where(batch.action_mask, 0.0))
    if names := case.algorithm.columns(case.config):
        generator = torch.Generator().manual_seed(4)
        ratings = torch.rand(len(names), batch.num_sequences, generator=generator)
        if classes := getattr(case.config, "classes", None):
            ratings = torch.tensor(classes, dtype=torch.float32)[(ratings * len(classes)).long()]
        batch = batch.replace(channels=dict(zip(names, ratings, strict=True)))
    if case.algorithm.source == "unpaired_feedback":  # every other member answers another prompt
        batch = batch.replace(side=(1 - 2 * (batch.group % 2)) * (batch.member % 2 == 0))
    if case.algorithm.source == "rewrites":  # of right and of wrong completions
        batch = batch.replace(side=(1 - 2 * (batch.group % 2)) * (batch.member == 0))
    near = {"sampler_logprobs": 0.4, "old_logprobs": 0.2, "ref_logprobs": 0.6}
    columns = {name: logprobs + noise(batch, scale, seed=i) for i, (name, scale) in enumerate(near.items())}
    generator = torch.Generator().manual_seed(9)
    columns |= {name: torch.randn(batch.num_tokens, HEADS, generator=generator) for name in STATE_COLUMNS}
    return batch.replace(**columns, controls=case.algorithm.controls(case.config)).validate()


def prepared(case: Case, model) -> Batch:
    """The same after `estimate`, which may have kept only some of the sequences."""
    return case.algorithm.estimate(case.config, annotated(case, model)).validate()


def measure(
    case: Case, model, batch: Batch, *, max_tokens: int = 10_000, fast: bool = True, group: Group | None = None
) -> tuple[float, Tensor]:
    """Loss and gradient of one optimizer step on the whole batch (of this rank's share of it)."""
    recorder = Recorder(model)
    step = Step(
        algorithm=case.algorithm,
        config=case.config,
        trainer=recorder,
        # a copy: a forward sets its models' attention while it runs, and ranks are threads here
        forward=case.forward(model, fast=fast, reference=copy.deepcopy(REFERENCE) if group else None),
        group=group or Group(),
        temperature=1.0,
        max_tokens=max_tokens,
        roles=tuple(case.algorithm.losses),
    )
    step.update(batch, range(batch.num_sequences), lr=1.0)
    return recorder.loss, recorder.gradient


@every_case
def test_loss_and_gradient_are_the_same_however_the_batch_is_cut_spread_packed_and_ordered(case, model):
    """One test, because all of it is compared with the same step on the whole batch."""
    batch = prepared(case, model)
    repeated = repack(batch, share_prefix=False)
    shared = sum(block.prompt * (len(block.lengths) - 1) for block in batch.blocks)
    assert repeated.num_tokens == batch.num_tokens + shared
    turned = repack(batch, blocks=range(len(batch.blocks))[::-1])
    ways = {
        "micro-batches as small as can be": measure(case, model, batch, max_tokens=1),
        "the plain forward on a prompt for each": measure(case, model, repeated, fast=False, max_tokens=20),
        "groups in reverse": measure(case, model, turned),
    }
    if case.is_default:  # how a batch is cut is not the settings' business; that a loss can be cut at all is
        ways |= {f"micro-batches of {size} tokens": measure(case, model, batch, max_tokens=size) for size in (13, 40)}
        ways |= {
            "two ranks": over_ranks(case, model, batch, 2),
            "three ranks": over_ranks(case, model, batch, 3),
            "a prompt for each sequence": measure(case, model, repeated),
            "the plain forward": measure(case, model, batch, fast=False),
        }
    wanted = measure(case, model, batch)
    assert wanted[1].norm() > 0
    apart = {way: max(relative(got[1], wanted[1]), distance(got[0], wanted[0])) for way, got in ways.items()}
    assert {way: by for way, by in apart.items() if by > TOLERANCE} == {}


def over_ranks(case: Case, model, batch: Batch, world: int) -> tuple[float, Tensor]:
    shares = on_ranks(world, lambda group, own: measure(case, own, batch, max_tokens=30, group=group), model)
    return sum(loss for loss, _ in shares), torch.stack([gradient for _, gradient in shares]).sum(0)


def distance(got: float, wanted: float) -> float:
    """Of two losses, which are sums of terms of order 1."""
    return abs(got - wanted) / max(1.0, abs(wanted))


@every_case
def test_estimating_does_not_depend_on_the_order_or_the_sharing_either(case, model):
    batch = annotated(case, model)
    wanted = take_columns(case.algorithm.estimate(case.config, batch))
    turned = repack(batch, blocks=range(len(batch.blocks))[::-1], share_prefix=False)
    again = take_columns(case.algorithm.estimate(case.config, turned))
    assert again.keys() == wanted.keys()
    for key, columns in wanted.items():
        for name, values in columns.items():
            torch.testing.assert_close(again[key][name], values, rtol=1e-5, atol=1e-6)


def may_be_read(batch: Batch) -> Tensor:
    """Where a reward model says something: after each action, after the whole answer and after its prompt."""
    places = batch.action_mask.clone()
    places[batch.last_token()] = True
    own = (batch.segment >= 0).nonzero().squeeze(-1)
    first = torch.full_like(batch.group, len(places)).scatter_reduce(0, batch.segment[own], own, "amin")
    places[batch.parent[first]] = True
    return places


@every_case
def test_nothing_outside_the_mask_is_read(case, model):
    batch = annotated(case, model)
    results = []
    for garbage in (0.0, float("nan")):
        outside = ~batch.action_mask
        columns = {name: getattr(batch, name) for name in FLOAT_COLUMNS if getattr(batch, name) is not None}
        dirty = batch.replace(**{name: torch.where(outside, garbage, column) for name, column in columns.items()})
        dirty = case.algorithm.estimate(case.config, dirty)
        outside, generator = ~dirty.action_mask, torch.Generator().manual_seed(0)
        logprobs = dirty.require("old_logprobs") + 0.1 * torch.randn(len(outside), generator=generator)
        given = torch.where(outside, garbage, logprobs).requires_grad_()
        entropy = torch.where(outside, garbage, torch.rand(len(outside), generator=generator))
        drift = torch.where(outside, garbage, torch.rand(len(outside), generator=generator))
        normaliser = torch.where(outside, garbage, torch.rand(len(outside), generator=generator))
        outputs = Outputs(logprobs=given, entropy=entropy, normaliser=normaliser, ref_kl=drift)
        if case.algorithm.trains_reward and case.algorithm.heads(case.config):
            outside = ~may_be_read(dirty)
            values = torch.randn(len(outside), HEADS, generator=generator)
            given = torch.where(outside[:, None], garbage, values).requires_grad_()
            outputs = Outputs(values=given)
        [loss, *_] = (case.algorithm.losses[role] for role in ("policy", "reward") if role in case.algorithm.losses)
        loss = loss(case.config, outputs, dirty)
        gradient = torch.autograd.grad(loss.total, given)[0]
        assert not gradient[outside].any()
        results.append((loss.total.item(), loss.count, gradient, {n: m.value for n, m in loss.metrics.items()}))
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])
    assert results[0][3] == results[1][3]


@every_case
def test_the_count_follows_from_the_batch_alone_and_metrics_are_plain_numbers(case, model):
    batch = prepared(case, model)
    zeros = torch.zeros(batch.num_tokens)
    values = torch.zeros(batch.num_tokens, HEADS)
    blank = Outputs(logprobs=zeros, entropy=zeros, normaliser=zeros, values=values, ref_kl=zeros)
    live = case.forward(model)(batch, temperature=1.0)
    for without, loss in zip(case.losses(blank, batch), case.losses(live, batch), strict=True):
        assert loss.count == without.count > 0
        assert loss.total.shape == ()
        assert all(isinstance(metric.value, float | int) for metric in loss.metrics.values())


@every_case
def test_what_it_needs_is_all_it_reads(case, model):
    """With only the columns that `needs` names (and those that every batch of its source has) nothing is missing."""
    batch = annotated(case, model)
    needs = case.algorithm.needs(case.config)
    given = needs.columns
    given = (*given, "rewards") if case.algorithm.source == "stepwise_supervision" else given  # the labels
    bare = batch.replace(**{name: None for name in ANNOTATED if name not in given})
    bare = case.algorithm.estimate(case.config, bare)
    outputs = case.forward(model)(bare, temperature=1.0)
    assert all(torch.isfinite(loss.total) for loss in case.losses(outputs, bare))


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
