"""Weights that are to be trained and get no gradient are named, and only these."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from alignkit.errors import HealthError
from alignkit.train.health import Health, HealthLimits, stop_if_needed
from alignkit.train.untrained import Untrained, on_all

ADAPTER = "base_model.model.lm_head.lora_B.default.weight"


def test_a_weight_is_watched_until_its_first_gradient_that_is_not_zero():
    model = nn.ModuleDict({"first": nn.Linear(2, 2, bias=False), "second": nn.Linear(2, 1), "idle": nn.Linear(2, 2)})
    nn.init.zeros_(model["second"].weight)
    model["idle"].bias.requires_grad_(False)
    watch, data = Untrained(model), torch.tensor([[1.0, 2.0]])

    def step() -> None:
        model["second"](model["first"](data)).sum().backward()

    assert watch.names == ["first.weight", "idle.weight", "second.bias", "second.weight"]
    step()  # behind a matrix of zeros, as the one of LoRA's two is that lies before the other
    assert watch.names == ["first.weight", "idle.weight"]
    nn.init.ones_(model["second"].weight)
    step()
    assert watch.names == ["idle.weight"]


def test_one_rank_with_a_gradient_is_enough():
    assert on_all([["a", "b", "c"], ["b", "c"], ["c", "b", "d"]]) == ["b", "c"]


def test_an_adapter_without_gradient_warns_after_four_updates_and_stops_after_dead_steps():
    health = Health(HealthLimits(dead_steps=6))
    levels = []
    for _ in range(6):
        [light] = [
            one for one in health.lights({"optim/grad_norm": 1.0}, untrained=[ADAPTER]) if one.name == "untrained"
        ]
        levels.append(light.level)
    assert levels == ["ok", "ok", "ok", "warn", "warn", "stop"]
    with pytest.raises(HealthError, match=rf"^untrained: 1 weights had no gradient in 6 updates, e\.g\. {ADAPTER}"):
        stop_if_needed([light])


def test_a_models_own_weights_never_stop_a_run():
    health = Health(HealthLimits(dead_steps=2))
    for _ in range(20):
        lights = health.lights({"optim/grad_norm": 1.0}, untrained=["vision.weight"])
    assert {light.level for light in lights if light.name == "untrained"} == {"warn"}


def test_steps_without_any_gradient_say_nothing_and_a_resumed_run_remembers_who_had_one():
    health = Health()
    for _ in range(20):
        lights = health.lights({"optim/grad_norm": 0.0}, untrained=[ADAPTER])
    assert not [light for light in lights if light.name == "untrained"]
    for _ in range(5):
        health.lights({"optim/grad_norm": 1.0}, untrained=[])
    resumed = Health()
    resumed.restore(json.loads(json.dumps(health.state())))
    for norm in (0.0, 1.0):  # its watch begins anew, with all names
        lights = resumed.lights({"optim/grad_norm": norm}, untrained=[ADAPTER, "other"])
    assert [light.level for light in lights if light.name == "untrained"] == ["ok"]
