"""Nash-MD (arXiv 2312.00886): play against a mixture of oneself and the reference, which holds the last iterate still.

    opponent = policy^(1 - mixture) reference^mixture, normalised over whole completions
    A_i = P(i beats opponent) - 1/2 - kl_weight (K_i - mean of K_j over j != i),   K = sum_t (l_old_t - l_ref_t)

No second sampling: the other completions of the prompt are the opponent's, weighted by (reference / policy)^mixture and
normalised by their sum, which is exact for ever larger groups. Beaten is by sigmoid(r_i - r_j). The loss is RLOO's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm
from alignkit.algorithms.rollouts import rloo
from alignkit.recipe.schema import Fraction
from alignkit.types.needs import REFERENCE_KL, Needs

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(rloo.Config):
    mixture: Fraction = 0.5
    """Share of the reference in the opponent: 0 is self-play, 1 plays against the reference."""
    kl_weight: NonNegativeFloat = 0.1
    """Of the KL to the reference, a sum over the completion, against a win rate between 0 and 1."""


def estimate(config: Config, batch: Batch) -> Batch:
    rollouts = ops.groups.rollouts(batch)
    gap = batch.sum_per_sequence(batch.require("old_logprobs") - batch.require("ref_logprobs"))
    divergence, group = rollouts.sums(gap), rollouts.group
    log_weights = -config.mixture * ops.groups.centre(divergence, group)
    weights = ops.policy.ratio(log_weights, 0 * log_weights)
    beats = ops.groups.bradley_terry(batch.reward[rollouts.first])
    wins = ops.groups.win_rate(beats, group, weights=weights)
    penalty = config.kl_weight * ops.groups.leave_one_out(divergence, group)
    return rloo.place(config, batch, rollouts, wins - 0.5 - penalty)


def requires(config: Config, stage: Stage) -> list[str]:
    few = "nash_md weighs several opponents within a prompt: set rollouts.group to at least 3, or mixture 0"
    alone = "nash_md plays the completions of a prompt against each other: set rollouts.group to at least 2"
    group = stage.rollouts.group
    return [alone] * (group < 2) + [few] * (group == 2 and config.mixture > 0)


def explain(config: Config) -> str:
    opponent = f"policy^{1 - config.mixture:g} x reference^{config.mixture:g}"
    kl = f"KL to the reference, weight {config.kl_weight:g}"
    return f"maximise P(beats {opponent}) less {kl}; wins by Bradley-Terry in the group; loss as in rloo"


ALGORITHM = Algorithm(
    config=Config,
    source="rollouts",
    needs=lambda config: REFERENCE_KL | Needs(columns=("sampler_logprobs",)),
    estimate=estimate,
    losses=rloo.ALGORITHM.losses,
    requires=requires,
    explain=explain,
)
