"""From losses per action token to a sum and a count. The step divides by the count of the whole global batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from alignkit.types.batch import Batch

Mode = Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "sequence_mean_constant"]
"""token_mean: sum / number of tokens (DAPO, PPO). sequence_mean_token_mean: mean over sequences of token means (GRPO).
sequence_mean_token_sum: mean over sequences of token sums (RLOO). sequence_mean_constant: the same divided by a
constant length (Dr.GRPO)."""


def aggregate(
    loss: Float[Tensor, " action"], batch: Batch, mode: Mode, *, constant: float = 1.0
) -> tuple[Float[Tensor, ""], float]:
    """(sum, count) of per-action-token losses, so that sum / count over any split equals the aggregate of the whole.

    loss: one value per action token, in packed order. constant: the divisor of `sequence_mean_constant`, in tokens.
    Sequences without action tokens enter neither the sum nor the count.
    """
    length = batch.actions_per_sequence()
    if mode == "token_mean":
        return loss.sum(), float(loss.numel())
    count = float((length > 0).sum())
    if mode == "sequence_mean_token_mean":
        return (loss / length[batch.segment[batch.action_mask]]).sum(), count
    return loss.sum() / (constant if mode == "sequence_mean_constant" else 1.0), count
