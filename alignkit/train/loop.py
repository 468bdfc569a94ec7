"""The training loop, told in the order in which things happen. It knows no algorithm by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.ops.schedule import learning_rate
from alignkit.recipe.schema import Critic, Stage
from alignkit.train.checkpoint import State
from alignkit.train.confidence import without_confident
from alignkit.train.constraints import Constraints
from alignkit.train.fixup import fix_up
from alignkit.train.needs import columns_needed
from alignkit.train.noise import noise_scale
from alignkit.train.reference import Reference
from alignkit.train.source import Drawn, Source
from alignkit.train.split import minibatches
from alignkit.train.step import Step
from alignkit.train.target import Target
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

    step: updates the policy (and a critic on its layers). critic: updates a critic of its own. reference and target:
    the frozen policy and the slowly following critic, where the algorithm needs them.
    sync: makes the engine hold the trainer's weights and proves it; returns metrics. finish: is told of each finished
    step (records it, looks after health, evaluates, checkpoints) and returns False to stop the run.
    """

    stage: Stage
    source: Source | None
    step: Step
    reference: Reference | None
    seed: int
    sync: Callable[[State], dict[str, Any]]
    finish: Callable[[State, Drawn, dict[str, Any]], bool]
    critic: Step | None = None
    target: Target | None = None

    def run(self, state: State) -> bool:
        """Does the stage's remaining steps; False when the run shall stop here."""
        going = True
        while going and state.step < self.stage.train.steps:
            clock = Clock()
            with clock.time("step"):
                with clock.time("sync"):
                    metrics = self.sync(state) if self.step.algorithm.samples else {}
                drawn = self.draw(state)
                if drawn.batch is not None:
                    drawn.batch, learned = self.learn(drawn.batch, state, clock)
                    metrics |= learned
            state.cursor, state.step, state.done = drawn.cursor, state.step + 1, state.done + 1
            going = self.finish(state, drawn, {**drawn.metrics, **metrics, **clock.phases})
        return going

    def draw(self, state: State) -> Drawn:
        """The step's data, drawn by the first rank and given to all."""
        drawn = self.source.next(state.cursor, state.version) if self.source else None
        return self.step.group.from_first(drawn)

    def learn(self, batch: Batch, state: State, clock: Clock) -> tuple[Batch | None, dict[str, Any]]:
        """Everything between data and new weights: columns, targets, updates, adapted coefficients.

        Returns what was trained on (None when the algorithm found nothing to learn from, ties only, say) and metrics.
        """
        algorithm, config = self.step.algorithm, self.step.config
        controls = self.controls(state)
        with clock.time("logprobs"):
            batch = self.annotate(batch.replace(controls=controls))
        limited: dict[str, Any] = {}
        if self.constraints.settings:
            memory = state.constraints or self.constraints.begin()
            batch, state.constraints, limited = self.constraints.apply(batch, memory, state.step)
        batch = without_confident(algorithm.estimate(config, batch), self.stage.train.drop_confident)
        if not batch.num_sequences:
            return None, limited | {"loss/tokens": 0, "loss/sequences": 0}
        with clock.time("update"):
            metrics = self.update(batch, state)
        state.controls = dict(algorithm.adapt(config, batch))
        return batch, metrics | limited | {f"control/{name}": value for name, value in controls.items()}

    def controls(self, state: State) -> dict[str, float]:
        """The adapted coefficients; at the stage's first step those that the algorithm begins with."""
        state.controls = state.controls or dict(self.step.algorithm.controls(self.step.config))
        return state.controls

    def annotate(self, batch: Batch) -> Batch:
        """Fills the log-prob columns that the algorithm needs, without gradient.

        With a single update per batch the old log-probs are that update's own, detached, and are not computed twice.
        """
        self.step.forward.verify(batch, temperature=self.step.temperature)
        read, columns, needs = self.step.read, {}, self.needs
        if "old_logprobs" in needs or self.updates_per_step > 1:
            columns["old_logprobs"] = read(batch, self.step.forward, "logprobs")
        if "ref_logprobs" in needs and self.reference is not None:
            columns["ref_logprobs"] = self.reference.read(batch, self.step)
        if "values" in needs:
            critic = self.critic or self.step
            critic.forward.verify(batch, temperature=critic.temperature)
            columns["values"] = read(batch, critic.forward, "values")
        if "target_values" in needs and self.target is not None:
            columns["target_values"] = read(batch, self.target.forward, "values")
        return batch.replace(**columns).validate()

    def update(self, batch: Batch, state: State) -> dict[str, Any]:
        """All optimizer steps of this batch; those of a critic of its own come first."""
        parts: list[dict[str, Metric]] = []
        norms: dict[str, list[float]] = {"grad_norm": [], "critic_grad_norm": []}
        limit, lr = self.stage.train.max_update_kl, self.learning_rate(state.step * self.updates_per_step)
        if self.critic:
            for sequences in self.minibatches(batch, state.step, self.stage.critic):
                metrics, norm = self.critic.update(batch, sequences, lr * self.critic_rate)
                parts.append(metrics)
                norms["critic_grad_norm"].append(norm)
        policy_learns = state.step >= self.stage.train.critic_warmup_steps
        for number, sequences in enumerate(self.minibatches(batch, state.step) if policy_learns else ()):
            lr = self.learning_rate(state.step * self.updates_per_step + number)
            metrics, norm = self.step.update(batch, sequences, lr)
            parts.append(metrics)
            norms["grad_norm"].append(norm)
            state.version += 1
            if limit is not None and (metrics["policy/kl_update"].value or 0.0) > limit:
                break  # a recipe check sees to it that there are old log-probs to measure from
        fixed: dict[str, Any] = {}
        if self.stage.train.fixup and policy_learns:
            fixed, steps = fix_up(self.step, batch, self.stage.train.fixup, lr)
            state.version += steps
        if self.target:
            self.target.follow((self.critic or self.step).trainer.model)
        trained = {"loss/tokens": batch.num_actions, "loss/sequences": batch.num_sequences, "optim/lr": lr}
        trained |= {f"optim/{name}": max(each) for name, each in norms.items() if each}
        measured = {name: metric.value for name, metric in combine(parts).items()}
        return measured | trained | fixed | noise_scale(measured, state)

    @property
    def needs(self) -> frozenset[str]:
        """The columns to fill: the algorithm's, and those that constraints and fix-up measure by."""
        return columns_needed(self.stage, self.step.algorithm, self.step.config)

    @property
    def constraints(self) -> Constraints:
        return Constraints(settings=self.stage.constraints, mix="costs" not in self.needs)

    @property
    def critic_rate(self) -> float:
        """The critic's learning rate as a multiple of the policy's."""
        peak = self.stage.critic.lr if self.stage.critic else None
        return 1.0 if peak is None else peak / self.stage.optimizer.lr

    def minibatches(self, batch: Batch, step: int, critic: Critic | None = None) -> Iterator[list[int]]:
        """The sequences of each optimizer step, of the policy or of a critic: passes, each in an order of its own."""
        train, own = self.stage.train, critic or Critic()
        count = own.minibatches or train.minibatches
        for epoch in range(own.epochs or train.epochs):
            rng = np.random.default_rng(child(self.seed, "minibatch", step, epoch))
            yield from minibatches(batch, count, unit=self.step.algorithm.unit, rng=rng)

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
