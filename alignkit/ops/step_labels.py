"""Process reward models: labels of reasoning steps from roll-outs, and the loss that learns them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

SMALL = 1.0  # up to this eta the form that keeps p's digits; beyond it the one that cannot overflow


def entropy_label(rate: Float[Tensor, "*step"], eta: float) -> Float[Tensor, "*step"]:
    """(1 / eta) log(1 - p + p e^eta): how good a step is whose roll-outs succeed at rate p (ER-PRM, 2412.11006).

    The log-mean-exp of outcomes 0 and 1. eta 0: p itself, the soft label of Math-Shepherd (2312.08935); eta infinite:
    1 where any roll-out succeeded, the hard label. Raises ValueError for a negative eta.
    """
    if not eta >= 0:
        raise ValueError(f"got eta {eta}; wanted 0 (the rate itself), a number above, or inf (any success)")
    if eta == 0:
        return rate
    if math.isinf(eta):
        return (rate > 0).to(rate)
    if eta <= SMALL:
        return torch.log1p(rate * math.expm1(eta)) / eta
    return torch.logaddexp(torch.log1p(-rate), rate.log() + eta) / eta


def up_to_first_error(labels: Float[Tensor, " step"], threshold: float = 0.5) -> Bool[Tensor, " step"]:
    """The steps of one solution up to its first with a label below `threshold`, that one included.

    What follows a mistake is neither right nor wrong (2501.07301).
    """
    wrong = (labels < threshold).long()
    return wrong.cumsum(0) - wrong == 0


def before_errors(
    labels: Float[Tensor, " token"], steps: Bool[Tensor, " token"], segment: Int[Tensor, " token"]
) -> Bool[Tensor, " token"]:
    """Of a packed batch's steps those that `up_to_first_error` keeps, sequence by sequence.

    labels: on the tokens that end a step, where `steps` is true. segment: as in Batch.
    """
    owner, wrong = segment[steps], (labels[steps] < 0.5).long()
    totals = wrong.new_zeros(int(owner.max()) + 1 if len(owner) else 0).index_add(0, owner, wrong)
    before = wrong.cumsum(0) - wrong - (totals.cumsum(0) - totals)[owner]
    return steps.masked_scatter(steps, before == 0)


def step_loss(logits: Float[Tensor, " step"], labels: Float[Tensor, " step"]) -> Float[Tensor, " step"]:
    """-y log s - (1 - y) log(1 - s), s = sigmoid(logit), for hard or soft labels y.

    A model that answers with two tokens gives the logit of the good one minus that of the bad one. Its least value is
    the label's own entropy, not 0.
    """
    return binary_cross_entropy_with_logits(logits, labels, reduction="none")
