"""The gradient noise scale: by hand, on Gaussian gradients of known noise, and on a real step."""

from __future__ import annotations

import pytest
import torch

from alignkit import ops
from alignkit.algorithms.sft import ALGORITHM, Config
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Optimizer
from alignkit.train.hooks.noise import NoiseScale
from alignkit.train.step import Step
from tests.tiny import causal_lm, random_batch


def test_squared_norms_3_over_4_units_and_1_5_over_16():
    assert ops.noise.estimate(3.0, 1.5, units=4, all_units=16) == pytest.approx((1.0, 8.0))


def test_gaussian_gradients_give_back_their_signal_and_noise():
    """True gradient of squared norm 4, noise of variance 0.5 in each of 40 directions: trace 20, scale 5."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.full((40,), (4 / 40) ** 0.5)
    found = []
    for _ in range(4000):
        units = truth + 0.5**0.5 * torch.randn(16, 40, generator=generator)
        small, big = units[:4].mean(0).square().sum(), units.mean(0).square().sum()
        found.append(ops.noise.estimate(float(small), float(big), units=4, all_units=16))
    signal, noise = torch.tensor(found).mean(0).tolist()
    assert signal == pytest.approx(4, rel=0.03)
    assert noise == pytest.approx(20, rel=0.03)


def step(*, max_tokens: int, watch: bool = True) -> Step:
    model = causal_lm()
    return Step(
        algorithm=ALGORITHM,
        config=Config(type="sft"),
        trainer=SingleTrainer(model, Optimizer(lr=1e-3)),
        forward=Forward(model=model, dtype=torch.float32),
        group=Group(),
        temperature=1.0,
        max_tokens=max_tokens,
        watch_noise=watch,
    )


def test_a_step_of_several_micro_batches_measures_it_and_trains_as_without():
    batch = random_batch()
    metrics, norm = step(max_tokens=20).update(batch, range(batch.num_sequences), lr=1e-3)
    _, plain = step(max_tokens=20, watch=False).update(batch, range(batch.num_sequences), lr=1e-3)
    assert norm == pytest.approx(plain, rel=1e-5)
    assert metrics["noise/variance"].value > 0
    whole, _ = step(max_tokens=10_000).update(batch, range(batch.num_sequences), lr=1e-3)
    assert "noise/variance" not in whole  # one micro-batch has nothing to compare with


def test_noise_and_signal_are_averaged_before_they_are_divided():
    memory, said = NoiseScale().at_end({}, {})
    assert (memory, said) == ({}, {})
    memory, said = NoiseScale().at_end({"noise/signal": 1.0, "noise/variance": 8.0}, memory)
    assert said == {"noise/scale": pytest.approx(8.0)}
    memory, said = NoiseScale().at_end({"noise/signal": 3.0, "noise/variance": 8.0}, memory)
    assert said == {"noise/scale": pytest.approx(8.0 / (0.95 * 1 + 0.05 * 3))}
    assert NoiseScale().at_end({"noise/signal": -99.0, "noise/variance": 8.0}, memory)[1] == {}
