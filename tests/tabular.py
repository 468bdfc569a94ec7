"""Tabular policies whose expectations are sums over all outcomes, to hold algorithms to what they promise exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from alignkit.algorithms.base import Algorithm
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Loss, Outputs

ARMS = (1.0, 0.0, 0.5)
REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
OPTIMUM = torch.tensor([0.529056, 0.179000, 0.291944], dtype=torch.float64)
"""Proportional to REFERENCE exp(ARMS / .5): the best policy at .5 x KL to it; its value is .513611."""


def one_token_each(rewards: Sequence[float], *, groups: Sequence[int] | None = None) -> Batch:
    """A sequence of one token for each reward, all in one group unless told; the sampler gave each log-prob -1."""
    groups = groups or [0] * len(rewards)
    items = [
        Item(prompt_ids=[1], completion_ids=[2], sampler_logprobs=[-1.0], reward=reward, group=group, member=i)
        for i, (reward, group) in enumerate(zip(rewards, groups, strict=True))
    ]
    return pack(items)


def completions(*lengths: int, rewards: Sequence[float] | None = None) -> Batch:
    """Completions of one prompt with the given lengths and rewards (0 unless told)."""
    rewards = rewards or [0.0] * len(lengths)
    items = [
        Item(prompt_ids=[1], completion_ids=[2] * n, member=i, reward=rewards[i], sampler_logprobs=[-1.0] * n)
        for i, n in enumerate(lengths)
    ]
    return pack(items)


def on_actions(batch: Batch, values: Sequence[float] | Tensor) -> Tensor:
    """A token column with the given values on the action tokens, 0 elsewhere."""
    given = torch.as_tensor(values, dtype=torch.get_default_dtype() if not torch.is_tensor(values) else None)
    return torch.zeros(batch.num_tokens, dtype=given.dtype).masked_scatter(batch.action_mask, given)


def loss_and_gradient(
    algorithm: Algorithm, config: Any, batch: Batch, logprobs: Sequence[float] | Tensor
) -> tuple[float, list[float], Loss]:
    """(sum / count, its gradient on each action token's log-prob, the Loss), entropies being 0."""
    given = on_actions(batch, logprobs).requires_grad_()
    loss = algorithm.losses["policy"](config, Outputs(logprobs=given, entropy=torch.zeros(batch.num_tokens)), batch)
    gradient = torch.autograd.grad(loss.total / loss.count, given)[0]
    return float(loss.total.detach()) / loss.count, gradient[batch.action_mask].tolist(), loss


def finite_differences(algorithm: Algorithm, config: Any, batch: Batch, logprobs: Tensor, *, step: float = 1e-5):
    """(gradient, central differences) of sum / count on each action token's log-prob, in float64."""
    given = logprobs.double()
    gradient = loss_and_gradient(algorithm, config, batch, given)[1]
    shifts = torch.eye(len(given), dtype=torch.float64) * step
    differences = [
        (
            loss_and_gradient(algorithm, config, batch, given + shift)[0]
            - loss_and_gradient(algorithm, config, batch, given - shift)[0]
        )
        / (2 * step)
        for shift in shifts
    ]
    return gradient, differences


def in_float64(batch: Batch) -> Batch:
    names = ("reward", "sampler_logprobs", "old_logprobs", "ref_logprobs", "advantages", "returns", "targets")
    return batch.replace(**{n: column.double() for n in names if (column := getattr(batch, n)) is not None})


@cache
def _all_groups(payoffs: tuple[float, ...], size: int) -> tuple[Batch, Tensor]:
    """Every group that can be drawn, packed once for the hundreds of steps that learn from them; the arms of each."""
    groups = list(product(range(len(payoffs)), repeat=size))
    items = [
        Item(prompt_ids=[9], completion_ids=[arm], group=g, member=m, reward=payoffs[arm])
        for g, arms in enumerate(groups)
        for m, arm in enumerate(arms)
    ]
    return in_float64(pack(items)), torch.tensor(groups)


@dataclass(frozen=True)
class Bandit:
    """One prompt, one token, one payoff per token, groups of `size`: every group that can be drawn can be listed."""

    payoffs: Sequence[float] = ARMS
    reference: Tensor | None = REFERENCE
    size: int = 2

    def batch(self, policy: Tensor) -> tuple[Batch, Tensor]:
        """All groups there are, as if drawn from `policy` (log-probs of the arms), and the probability of each."""
        batch, groups = _all_groups(tuple(self.payoffs), self.size)
        drawn = on_actions(batch, policy[batch.tokens[batch.action_mask]])
        columns = {"sampler_logprobs": drawn, "old_logprobs": drawn}
        if self.reference is not None:
            columns["ref_logprobs"] = on_actions(batch, self.reference.log()[batch.tokens[batch.action_mask]])
        return batch.replace(**columns), policy[groups].sum(1).exp()

    def gradient(self, algorithm: Algorithm, config: Any, theta: Tensor, *, drawn_from: Tensor | None = None) -> Tensor:
        """Expected gradient on the logits `theta` of an algorithm's mean loss, over all groups drawn from a policy.

        drawn_from: logits of the policy that drew and whose log-probs are the old ones; default: theta itself.
        """
        theta = theta.detach().clone().requires_grad_()
        sampler = (theta if drawn_from is None else drawn_from).detach().log_softmax(0)
        batch, probability = self.batch(sampler)
        batch = algorithm.estimate(config, batch)
        live = on_actions(batch, theta.log_softmax(0)[batch.tokens[batch.action_mask]])
        outputs = Outputs(logprobs=live, entropy=torch.zeros_like(live))
        loss = algorithm.losses["policy"](config, outputs, batch)
        slopes = torch.autograd.grad(loss.total, live, retain_graph=True)[0]
        weight = batch.spread(probability[batch.group])
        per_group = loss.count / len(probability)
        return torch.autograd.grad((slopes * weight * live).sum() / per_group, theta)[0]

    def ascent(self, theta: Tensor, *, kl_weight: float = 0.0) -> Tensor:
        """The true gradient on theta of E[payoff] - kl_weight KL(policy || reference)."""
        theta = theta.detach().clone().requires_grad_()
        logs = theta.log_softmax(0)
        value = torch.tensor(self.payoffs, dtype=torch.float64)
        if kl_weight and self.reference is not None:
            value = value - kl_weight * (logs - self.reference.log())
        return torch.autograd.grad((logs.exp() * value).sum(), theta)[0]

    def train(self, algorithm: Algorithm, config: Any, *, steps: int, lr: float) -> Tensor:
        """The arms' probabilities after exact gradient descent from the uniform policy."""
        theta = torch.zeros(len(self.payoffs), dtype=torch.float64)
        for _ in range(steps):
            theta = theta - lr * self.gradient(algorithm, config, theta)
        return theta.softmax(0)
