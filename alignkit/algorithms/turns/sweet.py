"""SWEET-RL's policy (arXiv 2503.15478): DPO at turns, on utterances that an advantage model has ranked.

    per state: chosen = argmax_i A_i, rejected = argmin_i A_i of the utterances u_i;   L = DPO's loss of that pair

An episode is played and one of its turns drawn; the policy says `rollouts.group` - 1 other utterances after the same
state. A_i is what the stage's rewards say of an utterance: `learned` with a model of `privileged_advantage`, which is
told what the policy never reads. Nothing is learnt from what the environment pays, and no critic runs with the policy.
The paper takes its states from past episodes, and a random one of the better half against one of the worse.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from alignkit.algorithms.preferences import dpo
from alignkit.algorithms.rollouts import online_dpo

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch


class Config(dpo.Config):
    pass


def estimate(config: Config, batch: Batch) -> Batch:
    return online_dpo.best_against_worst(batch, batch.reward)


def requires(config: Config, stage: Stage) -> list[str]:
    alone = "sweet makes a pair of the utterances after one state: set rollouts.group to at least 2"
    return [alone] * (stage.rollouts.group < 2) + dpo.requires(config, stage)


def explain(config: Config) -> str:
    return f"{dpo.explain(config)}; chosen and rejected: best and worst reward of the utterances after one state"


ALGORITHM = replace(
    online_dpo.ALGORITHM,
    config=Config,
    source="candidates",
    estimate=estimate,
    requires=requires,
    explain=explain,
)
