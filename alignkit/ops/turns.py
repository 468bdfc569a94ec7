"""The turns of a batch, as an algorithm on utterances sees them, and what critics of utterances say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignkit.ops import advantages, histogram

if TYPE_CHECKING:
    from alignkit.types.batch import Batch

Head = Literal["scores", "dueling", "last_token"]
"""How two critics' heads q, v make Q(o, u). scores: V(o) + the sum over the utterance's tokens of q, a score of the
token; dueling: V(o) + q at its last token; last_token: q at its last token."""
Q = slice(0, 2)  # of the value head's outputs; those of V follow
FEW = 3  # turns; of fewer nothing is said about how they are ranked


class Turns(NamedTuple):
    """Of each turn, in packed order. before: index of the token ahead of its utterance, whose state the utterance
    answers. last: index of the utterance's last token. sequence: the number of its sequence. of: of each action token
    the number of its turn."""

    before: Int[Tensor, " turn"]
    last: Int[Tensor, " turn"]
    sequence: Int[Tensor, " turn"]
    of: Int[Tensor, " action"]


def turns(batch: Batch) -> Turns:
    """All turns of a batch, sequence by sequence."""
    actions = batch.action_mask.nonzero().squeeze(-1)
    number, sequence = batch.turn[actions], batch.segment[actions]
    new = (number != number.roll(1)) | (sequence != sequence.roll(1))
    new[:1] = True
    begins = new.nonzero().squeeze(-1)
    first, last = actions[begins], actions[begins.roll(-1) - 1]
    return Turns(batch.parent[first], last, batch.segment[first], new.cumsum(0) - 1)


def anchors(batch: Batch, of: Turns) -> Int[Tensor, " turn"]:
    """The state of each turn by a number: equal for turns of one group that answer the same tokens, those between the
    utterance before and this one; of a first turn the prompt."""
    tokens, parent, chosen = batch.tokens.tolist(), batch.parent.tolist(), batch.action_mask.tolist()
    known: dict[tuple, int] = {}
    numbers = []
    for place, sequence in zip(of.before.tolist(), of.sequence.tolist(), strict=True):
        seen = [int(batch.group[sequence])]
        while place >= 0 and not chosen[place]:
            seen.append(tokens[place])
            place = parent[place]
        numbers.append(known.setdefault(tuple(seen), len(known)))
    return torch.tensor(numbers, device=of.before.device)


def numbers(rollout: Int[Tensor, " turn"]) -> Int[Tensor, " turn"]:
    """Of each turn in its rollout, from 0, over all its sequences in their order. rollout: that of each turn."""
    order, size = rollout.argsort(stable=True), rollout.bincount()
    place = torch.arange(len(rollout), device=rollout.device)
    return torch.zeros_like(rollout).index_put((order,), place - (size.cumsum(0) - size)[rollout[order]])


def returns(batch: Batch, of: Turns, *, discount: float) -> Float[Tensor, " turn"]:
    """What was paid from each turn on in its sequence, each later turn discounted once more."""
    paid = batch.placed_rewards()
    rewards = paid.new_zeros(len(of.last)).index_add(0, of.of, paid[batch.action_mask])
    end = paid.new_zeros(batch.num_sequences)
    return advantages.gae(rewards, 0 * rewards, end, of.sequence, discount=discount, trace=1.0)


class Said(NamedTuple):
    """What two critics say, in units of the return: Q(o, u) and V(o) of each turn, and V after each sequence's last
    token, 0 where the episode ended there. histograms: of Q and V the logits of bins whose middles are `centres`; None:
    a number each."""

    q: Float[Tensor, "turn critic"]
    v: Float[Tensor, "turn critic"]
    final: Float[Tensor, "sequence critic"]
    histograms: tuple[Float[Tensor, "turn critic bin"], Float[Tensor, "turn critic bin"]]
    centres: Float[Tensor, " bin"] | None


def critics(
    values: Float[Tensor, "token head"],
    batch: Batch,
    of: Turns,
    *,
    head: Head,
    unit: Mapping[str, float],
    bins: int | None = None,
    support: tuple[float, float] = (0.0, 0.0),
) -> Said:
    """Q and V of every turn from the heads q1 q2 v1 v2; unit: level + scale x number (`standard`).

    bins: then v1 and v2 are histograms over so many bins of `support`, one after the other, and q1 and q2 tilt them:
    they add q x c to the logit of a bin with the middle c, which raises the mean with q. Where V is no part of Q they
    tilt an even histogram.
    """
    centres = histogram.centres(bins, *support).to(values) if bins else None
    states, q = values[:, 2 : 2 + 2 * (bins or 1)].unflatten(1, (2, -1)), values[of.last, Q]
    if head == "scores":
        q = torch.zeros_like(q).index_add(0, of.of, values[batch.action_mask, Q])
    v, tilt = states[of.before], q[..., None] if centres is None else q[..., None] * centres
    both = (tilt if head == "last_token" else v + tilt, v)
    last = batch.last_token()
    over = last == batch.last_action()  # nothing follows the last utterance: the episode ended with it
    numbers = [each[..., 0] if centres is None else histogram.mean(each, centres) for each in (*both, states[last])]
    said_q, said_v, final = (unit["level"] + unit["scale"] * number for number in numbers)
    return Said(said_q, said_v, final * ~over[:, None], both, centres)


def misses(
    said: Said, aims: Float[Tensor, "turn critic"], played: Bool[Tensor, " turn"], *, unit: Mapping[str, float]
) -> Float[Tensor, "turn critic"]:
    """What the critics are to make small: of Q where a turn was played, of V elsewhere, the squared error in units, or
    of histograms the cross-entropy."""
    if said.centres is None:
        return ((said.q.where(played[:, None], said.v) - aims) / unit["scale"]) ** 2
    logits = said.histograms[0].where(played[:, None, None], said.histograms[1])
    return histogram.cross_entropy(logits, (aims - unit["level"]) / unit["scale"], said.centres)


def ahead(
    v: Float[Tensor, "turn critic"],
    final: Float[Tensor, "sequence critic"],
    *,
    rewards: Float[Tensor, " turn"],
    sequence: Int[Tensor, " turn"],
    discount: float | Float[Tensor, " turn"],
    trace: float,
) -> Float[Tensor, "turn critic"]:
    """GAE over turns under each critic's V; with V added, the lambda-return. rewards: of each turn."""
    each = zip(v.T, final.T, strict=True)
    found = [advantages.gae(rewards, one, end, sequence, discount=discount, trace=trace) for one, end in each]
    return torch.stack(found, dim=1)


def standard(
    rewards: Float[Tensor, " turn"], sequence: Int[Tensor, " turn"], batch: Batch, *, discount: float
) -> dict[str, float]:
    """Mean and standard deviation of the discounted returns from each turn on, as `level` and `scale` (1 where all are
    equal), so that what critics learn is of order 1."""
    zero = rewards.new_zeros(batch.num_sequences)
    returns = advantages.gae(rewards, rewards.new_zeros(len(rewards)), zero, sequence, discount=discount, trace=1.0)
    spread = float(returns.std(correction=0))
    return {"level": float(returns.mean()), "scale": spread if spread > 1e-6 * float(returns.abs().max()) else 1.0}


def ranking(
    predicted: Float[Tensor, " turn"], realised: Float[Tensor, " turn"], chosen: Bool[Tensor, " turn"]
) -> float | None:
    """Correlation of predicted with realised advantages over the chosen turns; None for too few of them, 0 without
    spread: then the critics cannot tell one utterance from another."""
    x, y = predicted[chosen].double(), realised[chosen].double()
    if len(x) < FEW:
        return None
    x, y = x - x.mean(), y - y.mean()
    norm = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / norm if norm > 0 else 0.0
