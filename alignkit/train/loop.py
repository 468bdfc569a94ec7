"""The training loop, told in the order in which things happen. It knows no algorithm and no hook by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.ops.schedule import learning_rate, warmup_updates
from alignkit.recipe.schema import Critic, Stage
from alignkit.train.critic_phase import CriticPhase
from alignkit.train.hooks.hook import Hook, HookMemory
from alignkit.train.reference import Reference
from alignkit.train.source import Drawn, Source
from alignkit.train.split import minibatches
from alignkit.train.state import Learned, State
from alignkit.train.step import Step
from alignkit.train.sync import Sync
from alignkit.train.target import Target
from alignkit.types.batch import Batch
from alignkit.types.metric import combine
from alignkit.types.needs import Needs
from alignkit.types.seeds import child

Finish = Callable[[State, Drawn, Batch | None, dict[str, Any]], bool]


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
    """Runs one stage. source is None on all ranks but the first; the callbacks belong to the run (run/train/stages.py).

    step: updates the policy (and a critic on its layers). critic: updates a critic of its own. reference and target:
    the frozen policy and the slowly following critic, where the algorithm or a hook needs them. hooks: what is added to
    each step, in this order. needs: what the algorithm and they need together.
    samples: whether the stage's data needs an engine with the present weights, which sync brings. finish: is told of
    each finished step (state after it, data, batch trained on, metrics), does all else, and returns False to stop.
    """

    stage: Stage
    source: Source | None
    step: Step
    reference: Reference | None
    seed: int
    sync: Sync
    finish: Finish
    critic: Step | None = None
    target: Target | None = None
    samples: bool = True
    hooks: Sequence[Hook] = ()
    needs: Needs = field(default_factory=Needs)

    def run(self, state: State) -> bool:
        """Does the stage's remaining steps; False when the run shall stop here."""
        going = True
        while going and state.step < self.steps:
            clock = Clock()
            with clock.time("step"):
                with clock.time("sync"):
                    synced = self.sync_engine(state) if self.samples else {}
                drawn = self.draw(state)
                if drawn.batch is None:
                    learned = Learned(controls=state.controls, hooks=state.hooks)
                else:
                    learned = self.learn(drawn.batch, state, clock)
            state = state.after(learned, cursor=drawn.cursor)
            metrics = {**drawn.metrics, **synced, **learned.metrics, **clock.phases}
            going = self.finish(state, drawn, learned.batch, metrics)
        return going

    def sync_engine(self, state: State) -> dict[str, Any]:
        """Makes the engine hold the policy's present weights."""
        return self.sync(state.version, self.step.trainer, self.step.forward)

    def draw(self, state: State) -> Drawn:
        """The step's data, drawn by the first rank; the others get what they train on. Then the engine rests."""
        drawn = self.source.next(state.cursor, state.version) if self.source else None
        self.sync.rest()
        shared = self.step.group.from_first(drawn and Drawn(batch=drawn.batch, cursor=drawn.cursor, consumed=[]))
        return drawn or shared

    def learn(self, batch: Batch, state: State, clock: Clock) -> Learned:
        """Everything between data and new weights: columns, targets, updates, adapted coefficients.

        Nothing is trained on where the algorithm found nothing to learn from, ties only, say.
        """
        algorithm, config = self.step.algorithm, self.step.config
        controls = state.controls or dict(algorithm.controls(config))  # at first those that the algorithm begins with
        with clock.time("logprobs"):
            batch = self.annotate(batch.replace(controls=controls))
        batch, memories, limited = self.before_estimate(batch, state)
        batch = algorithm.estimate(config, batch)
        for hook in self.hooks:
            batch = hook.after_estimate(batch)
        if not batch.num_sequences:
            nothing = {"loss/tokens": 0, "loss/sequences": 0}
            return Learned(controls=controls, hooks=memories, metrics=limited | nothing)
        with clock.time("update"):
            metrics, updates = self.update(batch, state.step)
        for hook in self.hooks:
            memories[hook.name], added = hook.at_end(metrics, memories[hook.name])
            metrics |= added
        metrics |= limited | {f"control/{name}": value for name, value in controls.items()}
        after = dict(algorithm.adapt(config, batch))
        return Learned(batch=batch, updates=updates, controls=after, hooks=memories, metrics=metrics)

    def before_estimate(self, batch: Batch, state: State) -> tuple[Batch, dict[str, HookMemory], dict[str, Any]]:
        """(what the algorithm sees, every hook's memory, metrics)."""
        memories, metrics = {}, {}
        for hook in self.hooks:
            memory = state.hooks.get(hook.name) or hook.begin()
            batch, memories[hook.name], said = hook.before_estimate(batch, memory, state.step)
            metrics |= said
        return batch, memories, metrics

    def annotate(self, batch: Batch) -> Batch:
        """Fills the columns that the algorithm and the hooks need, without gradient.

        With a single update per batch the old log-probs are that update's own, detached, and are not computed twice.
        """
        self.step.forward.verify(batch, temperature=self.step.temperature)
        read, columns, needed = self.step.read, {}, self.needs.columns
        if "old_logprobs" in needed or self.updates_per_step > 1:
            columns["old_logprobs"] = read(batch, self.step.forward, "logprobs")
        if "ref_logprobs" in needed:
            assert self.reference is not None, "whoever needs its column is given the model"
            columns["ref_logprobs"] = self.reference.read(batch, self.step)
        if "values" in needed or "target_values" in needed:
            columns |= CriticPhase(self).columns(batch)
        return batch.replace(**columns).validate()

    def update(self, batch: Batch, step: int) -> tuple[dict[str, Any], int]:
        """All optimizer steps of this batch, those of a critic of its own first: (metrics, updates of the policy)."""
        lr = self.learning_rate(step * self.updates_per_step)
        parts, critic_norms = CriticPhase(self).update(batch, step) if self.critic else ([], [])
        norms: list[float] = []
        policy_learns = step >= self.stage.train.critic_warmup_steps
        for number, sequences in enumerate(self.minibatches(batch, step) if policy_learns else ()):
            lr = self.learning_rate(step * self.updates_per_step + number)
            metrics, norm = self.step.update(batch, sequences, lr)
            parts.append(metrics)
            norms.append(norm)
            if any(hook.is_enough(metrics) for hook in self.hooks):
                break
        updates, added = len(norms), {}
        for hook in self.hooks if policy_learns else ():
            said, taken = hook.after_updates(self.step, batch, lr)
            updates, added = updates + taken, added | said
        if self.target and not self.critic:
            CriticPhase(self).follow()
        trained = {"loss/tokens": batch.num_actions, "loss/sequences": batch.num_sequences, "optim/lr": lr}
        trained |= {"optim/grad_norm": max(norms)} if norms else {}
        trained |= {"optim/critic_grad_norm": max(critic_norms)} if critic_norms else {}
        measured = {name: metric.value for name, metric in combine(parts).items()}
        return measured | trained | added, updates

    def minibatches(self, batch: Batch, step: int, critic: Critic | None = None) -> Iterator[list[int]]:
        """The sequences of each optimizer step, of the policy or of a critic: passes, each in an order of its own."""
        own = critic or Critic()
        count = own.minibatches or self.stage.train.minibatches
        for epoch in range(own.epochs or self.passes):
            rng = np.random.default_rng(child(self.seed, "minibatch", step, epoch))
            yield from minibatches(batch, count, unit=self.step.algorithm.unit, rng=rng)

    @property
    def passes(self) -> int:
        return self.stage.train.epochs if self.samples else 1  # epochs of given data are counted in steps

    @property
    def steps(self) -> int:
        return self.stage.train.steps or 0  # a run counts those of epochs before it begins

    @property
    def updates_per_step(self) -> int:
        return self.passes * self.stage.train.minibatches

    def learning_rate(self, update: int) -> float:
        optimizer, total = self.stage.optimizer, self.steps * self.updates_per_step
        return learning_rate(
            update,
            peak=optimizer.lr,
            total=total,
            warmup=warmup_updates(optimizer.warmup_steps, total),
            shape=optimizer.schedule,
            final_fraction=optimizer.final_lr_fraction,
        )
