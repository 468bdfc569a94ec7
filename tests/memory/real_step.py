"""A stage's step with real tensors, and what torch's allocator held meanwhile."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from alignkit.models.load import load_policy
from alignkit.parallel.group import Group
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.schema import Recipe
from alignkit.run.memory.batches import Limits
from alignkit.run.memory.config_of import model_of_config
from alignkit.run.train import build
from alignkit.run.train.build_stage import StageBuilder
from alignkit.run.train.epochs import GivenData
from alignkit.train.loop import StageLoop


class WithoutSource(StageBuilder):
    def _source(self, number: int, kind: Any, policy: Any, initial: Any) -> Any:
        return None


def real_loop(recipe: Recipe) -> tuple[StageLoop, Limits]:
    """The loop of the first stage with random weights, on the GPU where there is one, and the limits of its batches."""
    policy = build.build_policy(recipe, Group(), _load)
    build.place(policy, Group())
    builder = WithoutSource(
        recipe=recipe,
        group=Group(),
        collector=_nothing,
        given=GivenData(recipe=recipe, policy=policy),
        tasks_read=_nothing,
        folder=Path(),
        report=_nothing,
        load=_load,
    )
    loop = builder.build_stage(0, policy, None, sync=_nothing, finish=_nothing)
    algorithm, _ = build.algorithm_of(recipe, recipe.stages[0])
    limits = Limits.of(recipe.stages[0], kind_of(algorithm.source), unit=algorithm.unit, context=policy.context)
    return loop, limits


def _load(model: Any, *, seed: int, beside: Path | None) -> tuple[nn.Module, Any]:
    return load_policy(model, seed=seed, beside=beside, read=partial(model_of_config, beside=beside))


def allocated_in_update(recipe: Recipe) -> int:
    """Most bytes that torch's allocator held during the second update of the fullest batch, by its own account."""
    loop, limits = real_loop(recipe)
    batch, step = limits.full(), loop.step
    batch = step.algorithm.estimate(step.config, loop.annotate(batch))
    everything = range(batch.num_sequences)
    step.update(batch, everything, 0.0)  # which makes the optimizer's state
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        step.update(batch, everything, 0.0)
        return torch.cuda.max_memory_allocated()
    state = [value for values in step.trainer.optimizer.state.values() for value in values.values()]
    held = sum(tensor.untyped_storage().nbytes() for tensor in [*step.trainer.model.parameters(), *state])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step.update(batch, everything, 0.0)
    events = sorted(watched.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]" and event.device_type() == CPU]
    return held + max(accumulate(changes, initial=0))


CPU = torch._C._autograd.DeviceType.CPU


def _nothing(*_: Any) -> Any:
    return None
