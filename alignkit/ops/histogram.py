"""Numbers as histograms (HL-Gauss of arXiv 2403.03950): a critic says the logits of bins and learns by cross-entropy.

    p_b(y) = [Phi((e_b+1 - y) / s) - Phi((e_b - y) / s)] / [Phi((e_B - y) / s) - Phi((e_0 - y) / s)],   s = 3/4 of a bin
    L = - sum_b p_b(y) log softmax(logits)_b

e_0 .. e_B are the edges of B bins of one width. Three bins and more from the ends the mean of p is y, to 2e-4 of a bin.
At an end half of the Gaussian is cut off, and the mean of p is 0.7 bins inside; what lies beyond an end counts as the
end.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

SMOOTHING = 0.75  # standard deviation in bins, as in the paper: a number weighs on about six of them

Centres = Float[Tensor, " bin"]


def centres(bins: int, low: float, high: float) -> Centres:
    """The middles of `bins` bins between the ends; at least 2."""
    return low + (high - low) * (torch.arange(bins) + 0.5) / bins


def masses(targets: Float[Tensor, "*n"], of: Centres) -> Float[Tensor, "*n bin"]:
    """How much of a Gaussian around each target lies in each bin; they add up to 1."""
    width = of[1] - of[0]
    edges = torch.cat([of - width / 2, of[-1:] + width / 2])
    held = targets.clamp(edges[0], edges[-1])[..., None]
    below = torch.erf((edges - held) / (math.sqrt(2) * SMOOTHING * width))
    return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])


def mean(logits: Float[Tensor, "*n bin"], of: Centres) -> Float[Tensor, "*n"]:
    """The number that a histogram stands for."""
    return logits.softmax(-1) @ of


def cross_entropy(logits: Float[Tensor, "*n bin"], targets: Float[Tensor, "*n"], of: Centres) -> Float[Tensor, "*n"]:
    """L of each number. Its gradient with regard to a tilt t of the logits, logits + t centres, is mean - mean of p."""
    return -(masses(targets, of) * logits.log_softmax(-1)).sum(-1)
