"""Weight sync: one push per version, and the same words about the engine however often they are asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from alignkit.engines.hf import HfEngine
from alignkit.errors import SyncError
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.recipe.schema import Optimizer
from alignkit.train.sync import Sync
from tests.tiny import causal_lm

PROBE = [[3, 4, 5, 6, 7], [9, 8, 2]]


class Setup:
    """A model in training and an engine that begins with other weights."""

    def __init__(self):
        self.model = causal_lm(seed=1)
        self.engine = HfEngine(causal_lm(seed=2), dtype="float32")
        self.trainer = SingleTrainer(self.model, Optimizer(lr=1e-3))
        self.forward = Forward(model=self.model, dtype=torch.float32)
        self.pushed: list[int] = []
        update = self.engine.update
        self.engine.update = lambda weights, version: (self.pushed.append(version), update(weights, version=version))
        self.sync = self.fresh()

    def fresh(self) -> Sync:
        return Sync(engine=self.engine, group=Group(), probe=PROBE, tolerance=1e-4)

    def __call__(self, version: int) -> dict:
        return self.sync(version, self.trainer, self.forward)


def test_steps_that_change_no_weight_say_of_the_engine_what_a_resumed_run_says_there():
    setup = Setup()
    first = setup(8)
    first["loss/policy"] = 1.0  # a step adds its own metrics to what it was given
    again = setup(8)
    setup.sync = setup.fresh()  # killed and resumed: nothing is known to be in the engine
    resumed = setup(8)
    assert setup.pushed == [8, 8]
    assert again == resumed == {"sync/canary_gap": again["sync/canary_gap"], "sync/policy_version": 8}
    assert 0 <= again["sync/canary_gap"] < 1e-5


def test_a_new_version_is_pushed_once_and_named():
    setup = Setup()
    assert [setup(version)["sync/policy_version"] for version in (0, 0, 3, 3, 3)] == [0, 0, 3, 3, 3]
    assert setup.pushed == [0, 3]


def test_an_engine_that_keeps_its_old_weights_is_found_and_stays_unproven():
    setup = Setup()
    setup.engine.update = lambda weights, version: None
    for _ in range(2):
        with pytest.raises(SyncError, match="canary: after the sync to version 5 engine and trainer differ by"):
            setup(5)


class ApartEngine(HfEngine):
    """Computes with the base and the adapter that it holds, as vLLM does: W + B A. came: what each push brought."""

    def __init__(self, base: Any):
        super().__init__(base, dtype="float32")
        self.base: dict[str, torch.Tensor] = {}
        self.came: list[str] = []

    def update(self, weights: Any, *, version: int) -> None:
        matrices: dict[str, torch.Tensor] = {}
        whole = {}
        for name, tensor in weights:
            (matrices if ".lora_" in name else whole)[name] = tensor.clone()
        self.base = whole or self.base
        self.came.append("base and adapter" if whole else "adapter")
        merged = dict(self.base)
        for name in {name.rpartition(".lora_")[0] for name in matrices}:
            change = matrices[f"{name}.lora_B.weight"] @ matrices[f"{name}.lora_A.weight"]
            merged[f"{name}.weight"] = self.base[f"{name}.weight"] + change
        super().update(merged.items(), version=version)

    def sleep(self) -> None:
        self.base = {}


def test_the_base_travels_once_and_again_only_after_a_sleep():
    """Each push is proven by the canary: base and adapter together are the policy, whatever the adapter's scale."""
    policy = get_peft_model(causal_lm(seed=1), LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "down_proj"]))
    engine = ApartEngine(causal_lm(seed=1))
    trainer, forward = SingleTrainer(policy, Optimizer(lr=1e-3)), Forward(model=policy, dtype=torch.float32)
    sync = Sync(engine=engine, group=Group(), probe=PROBE, tolerance=1e-6, sleeps=True, apart=True)
    before = None
    for version in range(4):
        if version == 2:
            sync.rest()
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        assert sync(version, trainer, forward)["sync/canary_gap"] < 1e-6
        scores = asyncio.run(engine.score(PROBE))
        assert scores != before, "the adapter must matter"
        before = scores
    assert engine.came == ["base and adapter", "adapter", "base and adapter", "adapter"]
