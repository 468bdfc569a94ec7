"""ArCHer (arXiv 2402.19446): an actor on tokens under double utterance critics, from replayed turns.

A transition is a group of two sequences after the same state o: member 0 is the replayed utterance u with what the
environment answered, member 1 a fresh utterance u' of the present policy. Qb, Vb are the slowly following critics:

    Q_j(o, u) -> r + discount Vb_j(o')  (r alone at the end),   V_j(o) -> Qb_j(o, u')
    L = -A sum_t l_t over u',   A = min_j Q_j(o, u') - min_j V_j(o)

The critics read states off one backbone: V before an utterance, Q after its last token. Unlike the paper's code, tokens
stay as they were sampled (the stop token is trained too), and each optimizer clips its own gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean

if TYPE_CHECKING:
    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch

Q, V, BASELINE = slice(0, 2), slice(2, 4), 4
REPLAYED, FRESH = 0, 1


class Config(AlgorithmConfig):
    discount: Fraction = 0.95
    """Of the next turn."""
    target_rate: Fraction = Field(default=0.1, gt=0)
    """Share of the way that the slow critics go towards the critics after each step."""
    v_target: Literal["own", "min"] = "own"
    """Each V chases the slow Q of its own number, or the smaller of both."""
    token_baseline: bool = False
    """Subtract what a head of the critic expects of A after each prefix of the utterance: less variance."""


def estimate(config: Config, batch: Batch) -> Batch:
    values, slow = batch.require("values"), batch.require("target_values")
    end, start, fresh = batch.last_action(), batch.parent[batch.first_action()], batch.member == FRESH
    over = batch.last_token() == end  # nothing follows the utterance: the episode ended with it
    following = slow[batch.last_token(), V] * ~over[:, None]
    chased = slow[end, Q]
    if config.v_target == "min":
        chased = chased.amin(1, keepdim=True).expand_as(chased)
    targets = chased.where(fresh[:, None], batch.reward[:, None] + config.discount * following)
    advantages = (values[end, Q].amin(1) - values[start, V].amin(1)) * fresh
    return batch.replace(advantages=batch.spread(advantages), targets=targets)


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask = batch.action_mask & (batch.member == FRESH)[batch.segment]
    advantages = batch.require("advantages")[mask]
    if config.token_baseline:
        advantages = advantages - batch.require("values")[batch.parent[mask], BASELINE]
    loss = -advantages * outputs.logprobs[mask]
    count = float((batch.member == FRESH).sum())
    metrics = {"loss/policy": Mean(float(loss.detach().sum()), count), "policy/entropy": Mean.of(outputs.entropy[mask])}
    return Loss(total=loss.sum(), count=count, metrics=metrics)


def critic_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    fresh, targets = batch.member == FRESH, batch.require("targets")
    read = outputs.values[batch.last_action(), Q].where(
        ~fresh[:, None], outputs.values[batch.parent[batch.first_action()], V]
    )
    errors = ((read - targets) ** 2).sum(1)
    count, q_errors, v_errors = float((~fresh).sum()), errors[~fresh], errors[fresh]
    total, metrics = errors.sum(), {"critic/q_error": Mean.of(q_errors / 2), "critic/v_error": Mean.of(v_errors / 2)}
    if config.token_baseline:
        mask = batch.action_mask & fresh[batch.segment]
        gap = outputs.values[batch.parent[mask], BASELINE] - batch.require("advantages")[mask]
        total = total + (gap**2 / batch.actions_per_sequence()[batch.segment[mask]]).sum()
    metrics |= {"loss/critic": Mean(float(total.detach()), count), "critic/value": Mean.of(read[fresh])}
    return Loss(total=total, count=count, metrics=metrics)


def requires(config: Config, stage: Stage) -> list[str]:
    return []


def explain(config: Config) -> str:
    baseline = ", minus a token baseline" if config.token_baseline else ""
    return (
        f"maximise E[A sum log p(utterance)], A = min Q - min V of double utterance critics{baseline}; "
        f"critics by TD with discount {config.discount:g}, slow copies at rate {config.target_rate:g}"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="replay",
    needs=lambda config: ("values", "target_values"),
    estimate=estimate,
    losses={"critic": critic_loss, "policy": policy_loss},
    requires=requires,
    explain=explain,
    unit="group",
    heads=lambda config: ("q1", "q2", "v1", "v2", "baseline"),
)
