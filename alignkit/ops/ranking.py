"""Losses of reward models from comparisons and ratings: what a model's scores say about people's choices.

A score is the reward of a whole answer. Losses are to be minimised and are given per pair, ranking or rating; how they
are averaged is the caller's business.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

ABSENT = -1e30  # stands in for minus infinity, whose differences would be NaN


def bradley_terry(
    chosen: Float[Tensor, " pair *member"],
    rejected: Float[Tensor, " pair *member"],
    *,
    margin: float | Float[Tensor, " pair *#member"] = 0.0,
    centring: float = 0.0,
) -> Float[Tensor, " pair *member"]:
    """-log sigmoid(r_w - r_l - margin) + centring (r_w + r_l)^2.

    member: where several heads judge the pairs. margin: how much better the chosen answer is held to be, one for all or
    one per pair (2307.09288). centring: pulls the free constant of each prompt to where a pair's scores sum to 0
    (2312.09244), which ensembles need.
    """
    loss = -logsigmoid(chosen - rejected - margin)
    return loss + centring * (chosen + rejected) ** 2 if centring else loss


def plackett_luce(
    scores: Float[Tensor, " answer"], ratings: Float[Tensor, " answer"], group: Int[Tensor, " answer"]
) -> Float[Tensor, " answer"]:
    """-log softmax of each answer's score among itself and the lower-rated ones of its group; 0 for the worst.

    Over a group without ties they sum to -log of its ranking's Plackett-Luce probability, of two answers to
    Bradley-Terry; that of the best alone is -log of its being named the best (1909.08593). Answers rated alike never
    stand in each other's sum: nothing is said about their order.
    """
    against = beaten(ratings, group) | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return torch.where(against, scores, ABSENT).logsumexp(1) - scores


def beaten(ratings: Float[Tensor, " answer"], group: Int[Tensor, " answer"]) -> Bool[Tensor, "answer answer"]:
    """Whether the answer of the row was rated higher than that of the column, of the same group."""
    return (group[:, None] == group) & (ratings[:, None] > ratings)


def two_responses(
    first_chosen: Float[Tensor, " pair"], second_chosen: Float[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """The loss of a model that reads both answers at once, over both orders in which they can be shown.

    The model's logit says "the first is better". first_chosen: its logit when the chosen answer is shown first;
    second_chosen: when it is shown second. -1/2 (log sigmoid(first_chosen) + log sigmoid(-second_chosen)).
    """
    return -(logsigmoid(first_chosen) + logsigmoid(-second_chosen)) / 2


def unbiased_logit(shown_first: Float[Tensor, " pair"], shown_second: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """The logit that an answer is better, free of its place: half of its logit shown first minus that shown second."""
    return (shown_first - shown_second) / 2


def rating_logits(
    share: Float[Tensor, " answer"], bounds: Float[Tensor, " bound"], *, sharpness: float
) -> Float[Tensor, "answer rating"]:
    """Logits of each rating for answers worth `share` in [0, 1] (rating-based RL, 2307.16348).

    -sharpness (z - b_i)(z - b_{i+1}): a rating is most likely in the middle between its own two bounds. bounds: from 0
    to 1, not falling, one more than there are ratings.
    """
    inside = (share[:, None] - bounds[:-1]) * (share[:, None] - bounds[1:])
    return -sharpness * inside


def rating_loss(
    share: Float[Tensor, " answer"],
    ratings: Int[Tensor, " answer"],
    bounds: Float[Tensor, " bound"],
    *,
    sharpness: float,
) -> Float[Tensor, " answer"]:
    """Cross-entropy of the ratings that people gave (0 the worst) against `rating_logits`."""
    return cross_entropy(rating_logits(share, bounds, sharpness=sharpness), ratings, reduction="none")


def rating_bounds(share: Float[Tensor, " answer"], frequencies: Float[Tensor, " rating"]) -> Float[Tensor, " bound"]:
    """Bounds between which as many answers lie as have that rating: quantiles of `share` at the cumulated frequencies.

    frequencies: how often each rating, worst first, was given; they are divided by their sum.
    """
    inner = (frequencies / frequencies.sum()).cumsum(0)[:-1].clamp(0, 1)
    cuts = torch.quantile(share.detach(), inner.to(share))
    return torch.cat([share.new_zeros(1), cuts.clamp(0, 1), share.new_ones(1)])


def cost(
    worse: Float[Tensor, " pair"],
    better: Float[Tensor, " pair"],
    *,
    worse_unsafe: Bool[Tensor, " pair"],
    better_unsafe: Bool[Tensor, " pair"],
    decay: float = 0.0,
) -> Float[Tensor, " pair"]:
    """Cost model with safety signs (Safe RLHF, 2310.12773): more harmful costs more, and a cost above 0 is unsafe.

    -log sigmoid(c_worse - c_better) - log sigmoid(s_worse c_worse) - log sigmoid(s_better c_better) + decay (c_worse^2
    + c_better^2), s = +1 for an unsafe answer and -1 for a safe one. The signs are what fixes the scale's zero.
    """
    order = -logsigmoid(worse - better)
    sides = ((worse, worse_unsafe), (better, better_unsafe))
    signs = sum(-logsigmoid(torch.where(unsafe, score, -score)) for score, unsafe in sides)
    return order + signs + decay * (worse**2 + better**2)
