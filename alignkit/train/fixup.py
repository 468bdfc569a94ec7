"""FixPO's second phase (arXiv 2311.00168): after an update, take back what went too far from the policy that sampled.

Further steps on the same batch minimise KL(old || new) alone, on the sequences with a token beyond the limit, until no
token is, or the allowed steps are used up. It follows any algorithm's update.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from alignkit.ops import kl
from alignkit.recipe.schema import Fixup
from alignkit.train.step import Step
from alignkit.types.batch import Batch
from alignkit.types.outputs import Loss, Outputs


def fix_up(step: Step, batch: Batch, settings: Fixup, lr: float) -> tuple[dict[str, Any], int]:
    """(metrics, optimizer steps taken). batch: with the old_logprobs of the policy that the update began with."""
    back = replace(
        step, algorithm=replace(step.algorithm, losses={"policy": distance}, unit="sequence"), roles=("policy",)
    )
    taken, largest = 0, 0.0
    for taken in range(settings.max_steps + 1):
        gap = divergence(batch, step.read(batch, step.forward, "logprobs"))
        largest = float(gap.max())
        far = batch.segment[gap > settings.kl].unique().tolist()
        if not far or taken == settings.max_steps:
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
