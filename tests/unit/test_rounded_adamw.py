"""Adam's moments in bfloat16: the same equation, the same optimum, and averages that do not stand still."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from alignkit.errors import RecipeError
from alignkit.parallel.group import Group
from alignkit.parallel.rounded_adamw import RoundedAdamW
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Optimizer
from alignkit.run.train.build import build_trainer

BETAS, EPS = (0.9, 0.999), 1e-8
KINDS = {
    "float32": lambda given, lr: torch.optim.AdamW(given, lr=lr, betas=BETAS, eps=EPS, weight_decay=0.1),
    "bfloat16": lambda given, lr: RoundedAdamW(given, lr=lr, betas=BETAS, eps=EPS, weight_decay=0.1),
}


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_first_step_is_adamws_and_the_second_differs_by_the_rounding_of_its_moments_only():
    moved = {}
    for kind, optimizer_of in KINDS.items():
        weight = nn.Parameter(numbers(300, seed=0))
        optimizer = optimizer_of([weight], 0.1)
        for seed in (1, 2):
            weight.grad = numbers(300, seed=seed)
            optimizer.step()
            moved[kind, seed] = weight.detach().clone()
    assert (moved["bfloat16", 1] - moved["float32", 1]).abs().max() < 1e-6  # of steps of 0.1
    second = (moved["bfloat16", 2] - moved["float32", 2]).abs()
    assert 1e-5 < second.mean() < 0.1 * 2**-7  # bfloat16's neighbours are 2^-7 of a number apart


def test_a_regression_ends_at_the_same_optimum():
    """100 noisy measurements of 20 numbers; minibatches of 10; the step falls to 0. Held against the exact optimum."""
    inputs, truth = numbers(100, 20, seed=0), numbers(20, seed=1)
    targets = inputs @ truth + 0.1 * numbers(100, seed=2)
    best = torch.linalg.lstsq(inputs, targets).solution
    apart, steps = {}, 1500
    for kind in KINDS:
        weight = nn.Parameter(torch.zeros(20))
        optimizer = KINDS[kind]([{"params": [weight], "weight_decay": 0.0}], 0.0)
        for step in range(steps):
            rows = torch.randint(100, (10,), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            ((inputs[rows] @ weight - targets[rows]) ** 2).mean().backward()
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
            optimizer.step()
        apart[kind] = float((weight.detach() - best).norm() / best.norm())
    assert apart["float32"] < 0.01
    assert apart["bfloat16"] < 0.01


def test_an_average_falls_as_its_coefficient_says_though_each_step_is_less_than_half_a_bfloat16():
    """One gradient of 1, then none: v = 0.001 x 0.999^n, of which a step takes 1/1000. Rounded to the nearest it would
    never fall, because neighbours are at least 1/256 apart."""
    weight = nn.Parameter(torch.zeros(4096))
    optimizer = KINDS["bfloat16"]([weight], 1e-3)
    weight.grad = torch.ones(4096)
    optimizer.step()
    weight.grad = torch.zeros(4096)
    for _ in range(500):
        optimizer.step()
    square = optimizer.state[weight]["exp_avg_sq"]
    assert square.dtype == torch.bfloat16
    assert float(square.double().mean()) == pytest.approx(0.001 * 0.999**500, rel=0.01)
    stuck = torch.tensor(0.001, dtype=torch.bfloat16)
    assert (stuck.float() * 0.999).bfloat16() == stuck


def test_the_state_takes_4_bytes_a_number_and_pieces_of_a_matrix_are_computed_one_by_one(monkeypatch):
    monkeypatch.setattr("alignkit.parallel.rounded_adamw.PIECE", 7)
    model = nn.Linear(5, 9)
    subject = SingleTrainer(model, Optimizer(lr=0.1, moments="bfloat16", max_grad_norm=None))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    subject.backward(model(torch.ones(2, 5)).sum())
    subject.step(0.1)
    state = [value for values in subject.optimizer.state.values() for key, value in values.items() if key != "step"]
    assert sum(tensor.untyped_storage().nbytes() for tensor in state) == 4 * (5 * 9 + 9)
    for name, p in model.named_parameters():  # a first step is one of lr against the gradient's sign, here +
        assert torch.allclose(before[name] - p, torch.full_like(p, 0.1), rtol=1e-4)


def test_several_processes_refuse_it_and_say_what_they_have_instead():
    with pytest.raises(RecipeError, match=r"optimizer\.moments: bfloat16 is for one process.*zero3-offload"):
        build_trainer(nn.Linear(2, 2), Optimizer(lr=1.0, moments="bfloat16"), Group(world=2), torch.float32)
