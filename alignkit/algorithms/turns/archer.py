"""ArCHer (arXiv 2402.19446): an actor on tokens under double utterance critics, from replayed turns.

A group is two sequences after the same state o: member 0 goes on as the episode did, with the utterance u, what was
answered and all later turns; member 1 is a fresh utterance u' of the present policy. Qb, Vb: slowly following critics.

    Q_j(o, u) -> r + discount Vb_j(o')  (r alone at the end),   V_j(o) -> Qb_j(o, u')
    L = -A sum_t l_t over u',   A = min_j Q_j(o, u') - min_j V_j(o)

Every turn of member 0 trains Q; q_lambda above 0 makes its target the lambda-return of the turns that followed. The
critics read states off one backbone: V before an utterance, Q after its last token. Unlike the paper's code, tokens
stay as they were sampled (the stop token is trained too), and each optimizer clips its own gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from alignkit import ops
from alignkit.algorithms.base import Algorithm, AlgorithmConfig, Loss, Outputs
from alignkit.recipe.schema import Fraction
from alignkit.types.metric import Mean
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from alignkit.types.batch import Batch

Q, V, BASELINE = slice(0, 2), slice(2, 4), 4
REPLAYED, FRESH = 0, 1


class Config(AlgorithmConfig):
    renamed = {"trace": "q_lambda"}

    discount: Fraction = 0.95
    """Of the next turn."""
    target_rate: Fraction = Field(default=0.1, gt=0)
    """Share of the way that the slow critics go towards the critics after each step."""
    q_lambda: Fraction = 0.0
    """Lambda of Q's targets. 0, the paper's: one turn, then Vb. 1: the return, of what older policies said later."""
    v_target: Literal["own", "min"] = "own"
    """Each V chases the slow Q of its own number, or the smaller of both."""
    token_baseline: bool = False
    """Subtract what a head of the critic expects of A after each prefix of the utterance: less variance."""


def estimate(config: Config, batch: Batch) -> Batch:
    values, slow = batch.require("values"), batch.require("target_values")
    start, end, sequence = ops.turns.turns(batch)
    fresh, last = (batch.member == FRESH)[sequence], batch.last_token()
    over = last == batch.last_action()  # nothing follows the last utterance: the episode ended with it
    targets = slow.new_zeros(slow.shape)
    for j in range(2):
        before, final = slow[start, V][~fresh, j], slow[last, V][:, j] * ~over
        how = {"segment": sequence[~fresh], "discount": config.discount, "trace": config.q_lambda}
        ahead = ops.advantages.gae(batch.placed_rewards()[end][~fresh], before, final, **how)
        targets[end[~fresh], j] = before + ahead
    chased = slow[end, Q][fresh]
    if config.v_target == "min":
        chased = chased.amin(1, keepdim=True)
    targets[end[fresh], V] = chased.expand(-1, 2)
    advantages = values.new_zeros(batch.num_sequences)
    advantages[sequence[fresh]] = (values[end, Q].amin(1) - values[start, V].amin(1))[fresh]
    return batch.replace(advantages=batch.spread(advantages), value_targets=targets)


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
    start, end, sequence = ops.turns.turns(batch)
    fresh, targets = (batch.member == FRESH)[sequence], batch.require("value_targets")[end]
    size = sequence.bincount()[sequence]  # a replayed sequence weighs as one turn
    q_errors = (((outputs.values[end, Q] - targets[:, Q]) ** 2).sum(1) / size)[~fresh]
    v_errors = ((outputs.values[start, V] - targets[:, V]) ** 2).sum(1)[fresh]
    count, total = float((batch.member == REPLAYED).sum()), q_errors.sum() + v_errors.sum()
    if config.token_baseline:
        mask = batch.action_mask & (batch.member == FRESH)[batch.segment]
        gap = outputs.values[batch.parent[mask], BASELINE] - batch.require("advantages")[mask]
        total = total + (gap**2 / batch.actions_per_sequence()[batch.segment[mask]]).sum()
    means = {"q_error": q_errors / 2, "v_error": v_errors / 2, "value": outputs.values[start, V][fresh]}
    metrics = {f"critic/{name}": Mean.of(each) for name, each in means.items()}
    return Loss(total=total, count=count, metrics=metrics | {"loss/critic": Mean(float(total.detach()), count)})


def explain(config: Config) -> str:
    baseline = ", minus a token baseline" if config.token_baseline else ""
    how = f"discount {config.discount:g}, lambda {config.q_lambda:g}, slow copies at rate {config.target_rate:g}"
    objective = "maximise E[A sum log p(utterance)], A = min Q - min V of double utterance critics"
    return f"{objective}{baseline}; critics by TD with {how}"


ALGORITHM = Algorithm(
    config=Config,
    source="replay",
    needs=lambda config: Needs(columns=("values", "target_values")),
    estimate=estimate,
    losses={"critic": critic_loss, "policy": policy_loss},
    requires=lambda config, stage: [],
    explain=explain,
    unit="group",
    heads=lambda config: ("q1", "q2", "v1", "v2", "baseline"),
)
