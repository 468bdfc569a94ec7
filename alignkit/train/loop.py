"""The training loop, told in the order in which things happen. It knows no algorithm by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.models.forward import Forward
from alignkit.ops.schedule import learning_rate
from alignkit.recipe.schema import Stage
from alignkit.train.checkpoint import State
from alignkit.train.source import Drawn, Source
from alignkit.train.split import minibatches
from alignkit.train.step import Step
from alignkit.types.batch import Batch
from alignkit.types.metric import Metric, combine
from alignkit.types.seeds import child


@dataclass
class Clock:
    """Seconds per named phase of one step."""

    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, phase: str) -> Generator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.phases[f"time/{phase}_s"] = time.perf_counter() - begun


@dataclass(kw_only=True)
class StageLoop:
    """Runs one stage. source is None on all ranks but the first; the callbacks belong to the run (run/train.py).

    sync: makes the engine hold the trainer's weights and proves it; returns metrics. finish: is told of each finished
    step (records it, looks after health, evaluates, checkpoints) and returns False to stop the run.
    """

    stage: Stage
    source: Source | None
    step: Step
    reference: Forward | None
    seed: int
    sync: Callable[[State], dict[str, Any]]
    finish: Callable[[State, Drawn, dict[str, Any]], bool]

    def run(self, state: State) -> bool:
        """Does the stage's remaining steps; False when the run shall stop here."""
        going = True
        while going and state.step < self.stage.train.steps:
            clock = Clock()
            with clock.time("step"):
                with clock.time("sync"):
                    metrics = self.sync(state) if self.step.algorithm.source == "rollouts" else {}
                drawn = self.draw(state)
                if drawn.batch is not None:
                    with clock.time("logprobs"):
                        batch = self.annotate(drawn.batch)
                    drawn.batch = self.step.algorithm.estimate(self.step.config, batch)
                    with clock.time("update"):
                        metrics |= self.update(drawn.batch, state)
            state.cursor, state.step, state.done = drawn.cursor, state.step + 1, state.done + 1
            going = self.finish(state, drawn, {**drawn.metrics, **metrics, **clock.phases})
        return going

    def draw(self, state: State) -> Drawn:
        """The step's data, drawn by the first rank and given to all."""
        drawn = self.source.next(state.cursor, state.version) if self.source else None
        return self.step.group.from_first(drawn)

    def annotate(self, batch: Batch) -> Batch:
        """Fills the log-prob columns that the algorithm needs, without gradient.

        With a single update per batch the old log-probs are that update's own, detached, and are not computed twice.
        """
        self.step.forward.verify(batch, temperature=self.step.temperature)
        needs = self.step.algorithm.needs(self.step.config)
        if "old_logprobs" in needs or self.updates_per_step > 1:
            batch = batch.replace(old_logprobs=self.step.logprobs(batch, self.step.forward))
        if "ref_logprobs" in needs and self.reference is not None:
            batch = batch.replace(ref_logprobs=self.step.logprobs(batch, self.reference))
        return batch.validate()

    def update(self, batch: Batch, state: State) -> dict[str, Any]:
        """All optimizer steps of this batch."""
        parts: list[dict[str, Metric]] = []
        norms: list[float] = []
        lr = 0.0
        for number, sequences in enumerate(self.minibatches(batch, state.step)):
            lr = self.learning_rate(state.step * self.updates_per_step + number)
            metrics, norm = self.step.update(batch, sequences, lr)
            parts.append(metrics)
            norms.append(norm)
            state.version += 1
        trained = {"loss/tokens": batch.num_actions, "optim/grad_norm": max(norms), "optim/lr": lr}
        return {name: metric.value for name, metric in combine(parts).items()} | trained

    def minibatches(self, batch: Batch, step: int) -> Iterator[list[int]]:
        """The sequences of each optimizer step: `epochs` passes, each in an order of its own."""
        train = self.stage.train
        for epoch in range(train.epochs):
            order = np.random.default_rng(child(self.seed, "minibatch", step, epoch)).permutation(batch.num_sequences)
            yield from minibatches(batch, train.minibatches, order.tolist())

    @property
    def updates_per_step(self) -> int:
        return self.stage.train.epochs * self.stage.train.minibatches

    def learning_rate(self, update: int) -> float:
        optimizer = self.stage.optimizer
        return learning_rate(
            update,
            peak=optimizer.lr,
            total=self.stage.train.steps * self.updates_per_step,
            warmup=optimizer.warmup_steps,
            shape=optimizer.schedule,
            final_fraction=optimizer.final_lr_fraction,
        )
