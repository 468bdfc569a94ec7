"""FixPO's second phase on a real step: it takes back what moved too far, and does nothing where nothing did."""

from __future__ import annotations

import pytest
import torch

from alignkit.algorithms.rollouts.grpo import ALGORITHM, Config
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Fixup, Optimizer
from alignkit.train.hooks.fixup import FixUp, divergence
from alignkit.train.step import Step
from tests.tiny import causal_lm, random_batch


def prepared():
    model = causal_lm()
    step = Step(
        algorithm=ALGORITHM,
        config=Config(type="grpo"),
        trainer=SingleTrainer(model, Optimizer(lr=1e-2)),
        forward=Forward(model=model, dtype=torch.float32),
        group=Group(),
        temperature=1.0,
        max_tokens=1000,
    )
    batch = random_batch()
    return step, batch.replace(old_logprobs=step.read(batch, step.forward, "logprobs"))


def moved(step: Step, batch) -> float:
    return float(divergence(batch, step.read(batch, step.forward, "logprobs")).max())


def test_every_token_is_within_the_limit_afterwards():
    step, batch = prepared()
    advantages = batch.spread(torch.linspace(-1, 1, batch.num_sequences))
    step.update(batch.replace(advantages=advantages), range(batch.num_sequences), lr=0.02)
    assert moved(step, batch) > 0.05
    metrics, taken = FixUp(settings=Fixup(kl=0.05, max_steps=100)).after_updates(step, batch, 2e-3)
    assert 0 < taken < 100
    assert metrics == {"fixup/steps": taken, "fixup/kl_max": pytest.approx(moved(step, batch))}
    assert metrics["fixup/kl_max"] <= 0.05


def test_nothing_is_done_where_nothing_moved():
    step, batch = prepared()
    before = {name: p.clone() for name, p in step.trainer.model.named_parameters()}
    metrics, taken = FixUp(settings=Fixup(kl=0.05)).after_updates(step, batch, 1e-2)
    assert taken == 0
    assert metrics["fixup/kl_max"] < 1e-6
    assert all(torch.equal(p, before[name]) for name, p in step.trainer.model.named_parameters())


def test_it_stops_after_the_allowed_steps():
    step, batch = prepared()
    far = batch.replace(old_logprobs=batch.old_logprobs - batch.action_mask * 3.0)
    metrics, taken = FixUp(settings=Fixup(kl=1e-9, max_steps=3)).after_updates(step, far, 1e-6)
    assert taken == 3
    assert metrics["fixup/kl_max"] > 1e-9
