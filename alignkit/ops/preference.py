"""From two answers to one loss: what a policy says of a pair, and the links from that to a number per pair.

A score of an answer is an implied reward before its scale beta; losses are to be minimised. Everything is per sequence
or per pair, in float32 or better.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignkit.errors import BatchError
from alignkit.ops import groups
from alignkit.types.metric import Mean, Metric

if TYPE_CHECKING:
    from alignkit.types.batch import Batch

Pool = Literal["sum", "mean"]
Link = Literal["sigmoid", "robust", "hinge", "ipo", "exo", "nca", "apo_zero", "apo_down"]
Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]

MAX_EXPONENT = 80.0  # exp(80) = 5.5e34 still fits float32


def sides(batch: Batch) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Sequence numbers of the chosen and of the rejected answers, both in the order of their groups.

    Of a rollout of several sequences it is that of its first. Sequences of side 0 are passed over. Raises BatchError
    for a group without exactly one answer on each side.
    """
    chosen, rejected = (_by_group(batch, side) for side in (1, -1))
    if not torch.equal(batch.group[chosen], batch.group[rejected]) or len(batch.group[chosen].unique()) != len(chosen):
        found = f"{len(chosen)} chosen and {len(rejected)} rejected answers"
        raise BatchError(f"every pair needs one chosen and one rejected answer in a group; got {found}")
    return chosen, rejected


def _by_group(batch: Batch, side: int) -> Tensor:
    first = groups.rollouts(batch).first
    index = first[batch.side[first] == side]
    return index[batch.group[index].argsort(stable=True)]


def pool(values: Float[Tensor, " token"], batch: Batch, how: Pool) -> Float[Tensor, " sequence"]:
    """Sum or mean over the action tokens of each sequence and of all others of its rollout.

    What lies outside the mask is not read.
    """
    rollouts = groups.rollouts(batch)
    total = rollouts.sums(batch.sum_per_sequence(values))
    if how == "mean":
        total = total / rollouts.sums(batch.actions_per_sequence()).clamp(min=1)
    return total[rollouts.of]


def implied_rewards(
    logprobs: Float[Tensor, " token"], normaliser: Float[Tensor, " token"], batch: Batch, *, discount: float
) -> Float[Tensor, " token"]:
    """Q_t - discount V_{t+1} of each action token, 0 elsewhere: the rewards under which the logits are soft Q-values.

    normaliser: V_t, the logsumexp of the logits Q that token t was drawn from; the next state is that before the next
    action token of the sequence, and after its last one V is 0. Inverse soft Bellman operator of 2305.15363.
    """
    mask = batch.action_mask
    values, segment = normaliser[mask], batch.segment[mask]
    following = torch.zeros_like(values)
    following[:-1] = values[1:].where(segment[1:] == segment[:-1], 0.0)
    return batch.scatter(logprobs[mask] + values - discount * following)


def divergence_score(
    log_ratio: Float[Tensor, " n"], divergence: Divergence, *, alpha: float = 0.5
) -> Float[Tensor, " n"]:
    """f'(policy / reference) up to a constant, which cancels in a pair (f-DPO, arXiv 2309.16240).

    reverse_kl: the log-ratio D itself. forward_kl: -exp(-D). jensen_shannon: log sigmoid D. alpha: (exp((alpha - 1) D)
    - 1) / (alpha - 1), which is forward_kl at 0 and reverse_kl at 1. Exponents above 80 are clamped.
    """
    if divergence == "reverse_kl" or (divergence == "alpha" and abs(alpha - 1) < 1e-6):
        return log_ratio
    if divergence == "forward_kl":
        return -(-log_ratio).clamp(max=MAX_EXPONENT).exp()
    if divergence == "jensen_shannon":
        return logsigmoid(log_ratio)
    return torch.expm1(((alpha - 1) * log_ratio).clamp(max=MAX_EXPONENT)) / (alpha - 1)


def pair_loss(
    link: Link, chosen: Float[Tensor, " pair"], rejected: Float[Tensor, " pair"], *, beta: float, smoothing: float = 0.0
) -> Float[Tensor, " pair"]:
    """The loss of each pair from the scores of its sides; h = chosen - rejected.

    sigmoid: -log sigmoid(beta h), DPO (2305.18290); smoothing e: (1-e) of it and e of its flip, cDPO. robust: unbiased
    when a share e of the labels is flipped (2403.00409). hinge: SLiC (2305.10425). ipo: (h - 1/(2 beta))^2
    (2310.12036). exo: KL from the policy's preference to (1-e, e) (2402.00856). nca: 2402.05369. apo_zero, apo_down:
    2408.06266.
    """
    good, bad = beta * chosen, beta * rejected
    logits = good - bad
    match link:
        case "sigmoid":
            return logistic(logits, smoothing)
        case "robust":
            return ((1 - smoothing) * logistic(logits) - smoothing * logistic(-logits)) / (1 - 2 * smoothing)
        case "hinge":
            return (1 - logits).relu()
        case "ipo":
            return (chosen - rejected - 1 / (2 * beta)) ** 2
        case "exo":
            wanted = logits.sigmoid() * (logsigmoid(logits) - math.log1p(-smoothing))
            return wanted + (-logits).sigmoid() * (logsigmoid(-logits) - math.log(smoothing))
        case "nca":
            return -logsigmoid(good) - (logsigmoid(-good) + logsigmoid(-bad)) / 2
        case "apo_zero":
            return 1 - good.sigmoid() + bad.sigmoid()
        case "apo_down":
            return good.sigmoid() + (-logits).sigmoid()


def logistic(logits: Float[Tensor, " pair"], smoothing: float = 0.0) -> Float[Tensor, " pair"]:
    """-(1 - e) log sigmoid(x) - e log sigmoid(-x): Bradley-Terry, with a share e of the labels taken to be wrong."""
    return -(1 - smoothing) * logsigmoid(logits) - smoothing * logsigmoid(-logits)


def log_odds(mean_logprobs: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log(p / (1 - p)) of p = exp(mean_logprobs), exact for p near 0 and near 1; p is kept 1e-6 below 1."""
    logs = mean_logprobs.clamp(max=-1e-6)
    near_one = torch.log(-torch.expm1(logs))
    near_zero = torch.log1p(-logs.exp().clamp(max=0.75))  # the clamp only serves entries that the other form takes
    return logs - torch.where(logs > -0.6931, near_one, near_zero)


def describe(
    batch: Batch, *, logprobs: Float[Tensor, " token"] | None, rewards: Float[Tensor, " sequence"]
) -> dict[str, Metric]:
    """What every method on pairs logs. rewards: of each sequence, implied or a reward model's, as the loss has them.

    logprobs: None where a model says none.
    """
    chosen, rejected = sides(batch)
    margin = rewards[chosen] - rewards[rejected]
    right = (margin > 0).float() + (margin == 0) / 2
    metrics: dict[str, Metric] = {"pairs/accuracy": Mean.of(right), "pairs/margin": Mean.of(margin)}
    return metrics | describe_sides(batch, logprobs=logprobs, rewards=rewards)


def describe_sides(
    batch: Batch, *, logprobs: Float[Tensor, " token"] | None, rewards: Float[Tensor, " sequence"]
) -> dict[str, Metric]:
    """The part of it that needs no pairs: rewards, log-probs and lengths of the answers on either side."""
    rollouts = groups.rollouts(batch)
    lengths = rollouts.sums(batch.actions_per_sequence())[rollouts.of]
    good, bad = (_by_group(batch, side) for side in (1, -1))
    values = {
        "pairs/reward_chosen": rewards[good],
        "pairs/reward_rejected": rewards[bad],
        "pairs/length_chosen": lengths[good],
        "pairs/length_rejected": lengths[bad],
    }
    if logprobs is not None:
        said = pool(logprobs, batch, "sum")
        values |= {"pairs/logprob_chosen": said[good], "pairs/logprob_rejected": said[bad]}
    return {name: Mean.of(each) for name, each in values.items()}
