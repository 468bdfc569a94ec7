"""From scores of reasoning steps to rewards: what each step is paid, what follows from it on, and on which token.

One response at a time, its steps in order. Every form is given as rewards per step whose sum from a step on is that
step's return, so that any estimator that sums rewards computes the form meant.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Form = Literal["sum", "mean", "min_form", "difference", "last", "product"]


def step_returns(scores: Float[Tensor, " step"], form: Form) -> Float[Tensor, " step"]:
    """What step k and all that follow are worth (not discounted); the first entry is the worth of the response.

    sum: s_k + ... + s_K; more steps can always be worth more. mean: the sum divided by K. min_form: the worst of
    s_k..s_K, which padding with good steps cannot raise (2504.15275). difference: s_K - s_{k-1} with s_0 = 0, progress
    still to come. last: s_K. product: P_K - P_{k-1} with P_k = s_1 ... s_k and P_0 = 0, so that the response is worth
    the product of its steps (2501.07301).
    """
    if form == "min_form":
        return scores.flip(0).cummin(0).values.flip(0)
    return step_rewards(scores, form).flip(0).cumsum(0).flip(0)


def step_rewards(scores: Float[Tensor, " step"], form: Form) -> Float[Tensor, " step"]:
    """What step k itself is paid: its return minus the return of the step after it."""
    if form == "sum":
        return scores
    if form == "mean":
        return scores / max(len(scores), 1)
    if form == "min_form":
        returns = step_returns(scores, form)
        return returns - torch.cat([returns[1:], returns.new_zeros(min(1, len(returns)))])
    if form == "last":
        return torch.cat([torch.zeros_like(scores[:-1]), scores[-1:]])
    if form in ("difference", "product"):
        levels = scores if form == "difference" else scores.cumprod(0)
        return torch.diff(levels, prepend=levels.new_zeros(1)) if len(levels) else levels
    raise ValueError(f"no process return is called {form!r}")


def place(
    rewards: Float[Tensor, " step"], last_token: Int[Tensor, " step"], num_tokens: int
) -> Float[Tensor, " token"]:
    """Rewards per token: each step's reward on its last token; steps that end within one token share it, added up.

    last_token: index of the token that completes each step (rollout/placement.py finds it).
    Raises ValueError for an index outside the response: a reward must not vanish.
    """
    if len(last_token) and not 0 <= int(last_token.min()) <= int(last_token.max()) < num_tokens:
        raise ValueError(f"steps end on tokens {last_token.tolist()}; the response has {num_tokens}")
    return rewards.new_zeros(num_tokens).index_add(0, last_token, rewards)
