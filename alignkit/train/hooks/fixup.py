"""FixPO's second phase (arXiv 2311.00168): after an update, take back what went too far from the policy that sampled.

Further steps on the same batch minimise KL(old || new) alone, on the sequences with a token beyond the limit, until no
token is, or the allowed steps are used up. It follows any algorithm's update.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from alignkit.ops import kl
from alignkit.recipe.schema import Fixup
from alignkit.train.hooks.hook import Hook, Metrics
from alignkit.train.step import Step
from alignkit.types.batch import Batch
from alignkit.types.needs import Needs
from alignkit.types.outputs import Loss, Outputs


@dataclass(frozen=True, kw_only=True)
class FixUp(Hook):
    name: ClassVar[str] = "fixup"
    settings: Fixup

    @property
    def needs(self) -> Needs:
        return Needs(columns=("old_logprobs",))

    def after_updates(self, step: Step, batch: Batch, lr: float) -> tuple[Metrics, int]:
        """batch: with the old_logprobs of the policy that the update began with."""
        only = replace(step.algorithm, losses={"policy": distance}, unit="sequence")
        back = replace(step, algorithm=only, roles=("policy",))
        taken, largest = 0, 0.0
        for taken in range(self.settings.max_steps + 1):
            gap = divergence(batch, step.read(batch, step.forward, "logprobs"))
            largest = float(gap.max())
            far = batch.segment[gap > self.settings.kl].unique().tolist()
            if not far or taken == self.settings.max_steps:
                break
            back.update(batch, far, lr)
        return {"fixup/steps": taken, "fixup/kl_max": largest}, taken


def divergence(batch: Batch, logprobs: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """KL(old || new) at each action token, estimated on the old policy's sample (k3); 0 elsewhere."""
    mask = batch.action_mask
    return batch.scatter(kl.k3(batch.require("old_logprobs")[mask] - logprobs[mask]))


def distance(config: Any, outputs: Outputs, batch: Batch) -> Loss:
    """The token mean of that KL; its gradient is (ratio - 1) times that of the log-prob: 0 where nothing has moved."""
    return Loss(total=divergence(batch, outputs.logprobs).sum(), count=float(batch.num_actions))
