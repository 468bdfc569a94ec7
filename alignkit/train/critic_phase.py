"""What a step does with what says values: reads it before the targets, updates a critic of its own, moves its copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from alignkit.ops.schedule import learning_rate, warmup_updates
from alignkit.recipe.schema import Critic
from alignkit.train.step import Step
from alignkit.types.batch import Batch
from alignkit.types.metric import Metric

if TYPE_CHECKING:
    from alignkit.train.loop import StageLoop


@dataclass(frozen=True)
class CriticPhase:
    """The critic's part of a step of `loop`, whose critic has a model of its own or the policy's layers."""

    loop: StageLoop

    @property
    def critic(self) -> Step:
        return self.loop.critic or self.loop.step

    def columns(self, batch: Batch) -> dict[str, Tensor]:
        """`values` of the batch and, where there is a slow copy, `target_values`."""
        read = self.loop.step.read
        self.critic.forward.verify(batch, temperature=self.critic.temperature)
        columns = {"values": read(batch, self.critic.forward, "values")}
        if self.loop.target:
            columns["target_values"] = read(batch, self.loop.target.forward, "values")
        return columns

    def update(self, batch: Batch, step: int) -> tuple[list[dict[str, Metric]], list[float]]:
        """(metrics, gradient norms) of the optimizer steps of a critic of its own, after each of which the slow copy
        moves. step: of the stage, from 0."""
        parts, norms = [], []
        for sequences in self.loop.minibatches(batch, step, self.loop.stage.critic):
            metrics, norm = self.critic.update(batch, sequences, self.learning_rate(step))
            self.follow()
            parts.append(metrics)
            norms.append(norm)
        return parts, norms

    def follow(self) -> None:
        """Moves the slow copy, where there is one, once towards the critic."""
        if self.loop.target:
            self.loop.target.follow(self.critic.trainer.model)

    def learning_rate(self, step: int) -> float:
        """Of all optimizer steps within a step: the critic's own peak and shape, or the policy's."""
        own, policys, total = self.loop.stage.critic or Critic(), self.loop.stage.optimizer, self.loop.steps
        every = self.loop.updates_per_step
        return learning_rate(
            step * every,
            peak=own.lr or policys.lr,
            total=total * every,
            warmup=warmup_updates(policys.warmup_steps, total * every),
            shape=own.schedule or policys.schedule,
            final_fraction=policys.final_lr_fraction,
        )
