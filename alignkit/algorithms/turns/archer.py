"""ArCHer (arXiv 2402.19446): an actor on tokens under double utterance critics, from replayed turns.

A group is an episode as it was, utterances u after states o (member 0), and what the present policy says after each of
its states, u' (the other members). Qb, Vb: critics that follow slowly.

    Q_j(o, u) -> r + discount Vb_j(o')  (r alone at the end),   V_j(o) -> Qb_j(o, u')
    L = -A sum_t l_t over u',   A = min_j Q_j(o, u') - min_j V_j(o)

The critics are heads on one backbone. Ours, as measured in docs/agents.md: Q is V(o) plus a score of every token, read
before it (`head`); targets are lambda-returns, standardised; the actor also learns from what was really said in the
latest collection, by a clipped policy gradient of its lambda-advantage; and it follows the critics on u' only once they
rank turns that they were never trained on. Tokens stay as they were sampled, the stop token included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE, Needs
from alignkit.types.rollout import AGE

if TYPE_CHECKING:
    from alignkit.types.batch import Batch

PLAYED = 0
COLUMNS = ("values", "target_values", "sampler_logprobs", "rewards")


class Config(AlgorithmConfig):
    renamed = {"trace": "q_lambda"}

    head: Literal["scores", "dueling", "last_token"] = "scores"
    """Q(o, u) is V(o) + the sum of its tokens' scores, V(o) + a number at its last token, or that number alone."""
    bins: Annotated[int, Field(ge=2)] | None = None
    """Distributional critics (HL-Gauss, arXiv 2403.03950): V is the mean of a histogram of so many bins, learnt by
    cross-entropy, and Q that of the same histogram tilted; null: numbers, learnt by squared errors."""
    support: tuple[float, float] = (-5.0, 5.0)
    """Its ends, in standard deviations from the mean of the first returns; targets beyond count as the end."""
    discount: Fraction = 0.95
    """Of the next turn."""
    target_rate: Fraction = Field(default=0.1, gt=0)
    """Share of the way that the slow critics go towards the critics after each of their updates."""
    q_lambda: Fraction = 0.0
    """Lambda of Q's targets. 0, the paper's: one turn, then Vb. 1: the return, of what older policies said later."""
    played_weight: NonNegativeFloat = 1.0
    """Of the clipped term on the turns of the latest collection. 0, the paper's: fresh utterances alone."""
    clip: NonNegativeFloat = 0.2
    """That term's ratios to the policy that played count within 1 +- clip."""
    kl_weight: NonNegativeFloat = 0.0
    """Of KL(policy || reference) on fresh utterances; the reference is the policy as the stage began."""
    least_ranking: Fraction = 0.0
    """Correlation of advantages on unseen turns from which the actor follows the critics on fresh utterances."""


def estimate(config: Config, batch: Batch) -> Batch:
    turns, controls = ops.turns.turns(batch), dict(batch.controls)
    played = (batch.member == PLAYED)[turns.sequence]
    paid = {"rewards": batch.placed_rewards()[turns.last][played], "sequence": turns.sequence[played]}
    if not controls.get("scale"):
        controls |= ops.turns.standard(**paid, batch=batch, discount=config.discount)
    how = {"head": config.head, "unit": controls, "bins": config.bins, "support": config.support}
    now, slow = (ops.turns.critics(batch.require(column), batch, turns, **how) for column in COLUMNS[:2])
    paid |= {"discount": config.discount, "trace": config.q_lambda}
    targets, value = slow.q.clone(), now.v.amin(1)
    advantages, realised = now.q.amin(1) - value, value.new_zeros(len(value))
    targets[played] = slow.v[played] + ops.turns.ahead(slow.v[played], slow.final, **paid)
    realised[played] = ops.turns.ahead(value[played, None], now.final.amin(1, keepdim=True), **paid)[:, 0]
    age = batch.channels.get(AGE, batch.reward.new_zeros(batch.num_sequences))[turns.sequence]
    known = ops.turns.ranking(advantages, realised, played & (age == 0))
    controls["ranking"] = controls.get("ranking", 0.0) if known is None else known
    learnt = (advantages * (controls["ranking"] >= config.least_ranking)).where(
        ~played, realised * (age == age[played].amin())
    )
    told = {"critic_q": batch.scatter(now.q.amin(1)[turns.of]), "critic_v": batch.scatter(value[turns.of])}
    return batch.replace(
        advantages=batch.scatter(learnt[turns.of]),
        value_targets=slow.q.new_zeros(batch.num_tokens, 2).index_put((turns.last,), targets),
        controls=controls,
        turn_channels={**batch.turn_channels, **told},
    )


def policy_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    mask, terms = batch.action_mask, ops.policy_terms.policy_terms(outputs, batch)
    fresh = (batch.member != PLAYED)[batch.segment[mask]]
    ratio = ops.policy.ratio(terms.logprobs, terms.old.where(fresh, terms.sampler))
    weighed = terms.advantages.where(fresh, config.played_weight * terms.advantages)
    loss = ops.policy.clipped(ratio, weighed, low=1 - config.clip, high=1 + config.clip)
    means = {"policy/entropy": terms.entropy[fresh], "policy/kl_sampler": (terms.sampler - terms.old)[fresh]}
    if config.kl_weight and terms.reference is not None:
        gap = (terms.logprobs - terms.reference)[fresh]
        loss = loss.index_add(0, fresh.nonzero().squeeze(-1), config.kl_weight * ops.kl.k2(gap))
        means["policy/kl_reference"] = ops.kl.k1(gap)
    count = float((batch.member != PLAYED).sum())
    return Loss(
        total=loss.sum(),
        count=count,
        metrics={"loss/policy": Mean(float(loss.detach().sum()), count)} | {n: Mean.of(m) for n, m in means.items()},
    )


def critic_loss(config: Config, outputs: Outputs, batch: Batch) -> Loss:
    turns, unit = ops.turns.turns(batch), batch.controls
    played, aims = (batch.member == PLAYED)[turns.sequence], batch.require("value_targets")[turns.last]
    how = {"head": config.head, "unit": unit, "bins": config.bins, "support": config.support}
    said = ops.turns.critics(outputs.values, batch, turns, **how)
    errors = ((said.q.where(played[:, None], said.v) - aims) ** 2).sum(1)
    total, count = ops.turns.misses(said, aims, played, unit=unit).sum(), float(played.sum())
    means = {"q_error": errors[played] / 2, "v_error": errors[~played] / 2, "value": said.v[~played]}
    metrics = {f"critic/{name}": Mean.of(each) for name, each in means.items()}
    return Loss(total=total, count=count, metrics=metrics | {"loss/critic": Mean(float(total.detach()), count)})


def explain(config: Config) -> str:
    how = f"discount {config.discount:g}, lambda {config.q_lambda:g}, slow copies at rate {config.target_rate:g}"
    q = {"scores": "V + scores of tokens", "dueling": "V + a number", "last_token": "a number of its own"}[config.head]
    played = f", and {config.played_weight:g} x the clipped gradient on those just played" * (config.played_weight > 0)
    kl = f", less {config.kl_weight:g} KL to the first policy" * (config.kl_weight > 0)
    q += f", V a histogram of {config.bins} bins" if config.bins else ""
    return (
        "maximise E[A sum log p(utterance)] on fresh utterances, A = min Q - min V of double utterance critics"
        f"{played}{kl}; critics by TD with {how}, Q = {q}"
    )


ALGORITHM = Algorithm(
    config=Config,
    source="replay",
    needs=lambda config: Needs(columns=COLUMNS) | (REFERENCE if config.kl_weight else Needs()),
    estimate=estimate,
    losses={"critic": critic_loss, "policy": policy_loss},
    requires=lambda config, stage: [],
    explain=explain,
    unit="group",
    heads=lambda config: ("q1", "q2", *(v for v in ("v1", "v2") for _ in range(config.bins or 1))),
    scored=lambda config: 2 * (config.head == "scores"),
    controls=lambda config: {"level": 0.0, "scale": 0.0, "ranking": 0.0},
)
