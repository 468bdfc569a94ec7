"""Goal-conditioned states of a reward model: states of good answers look like where good answers end (2407.13887)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, logsigmoid

from alignkit.types.seeds import child


def draw_states(
    last: Int[Tensor, " sequence"], seeds: Sequence[int]
) -> tuple[Int[Tensor, " sequence"], Int[Tensor, " sequence"]]:
    """One state and one later state (the goal) of each sequence, both drawn evenly from the numbers 0 to `last`.

    A sequence that ends with number 0 is its own goal. seeds: one for each sequence, whose draw depends on it alone.
    """
    drawn = [[child(seed, end) / 2**63 for seed in seeds] for end in ("state", "goal")]
    shares = torch.tensor(drawn, dtype=torch.float64, device=last.device)
    state = (shares[0] * last.clamp(min=1)).long()
    later = (last - state).clamp(min=1)
    return state, (state + 1 + (shares[1] * later).long()).clamp(max=last)


def goal_contrast(
    states: Float[Tensor, "sequence width"],
    goals: Float[Tensor, "sequence width"],
    preferred: Bool[Tensor, " sequence"],
    *,
    temperature: float,
) -> Float[Tensor, " sequence"]:
    """-log sigmoid(+-cosine(state, goal) / temperature): + for states of preferred answers, - for the others'.

    Added to the loss of a pair, it pulls the states of a preferred answer towards its own later ones and pushes those
    of a dispreferred one apart.
    """
    likeness = cosine_similarity(states, goals, dim=-1) / temperature
    return -logsigmoid(torch.where(preferred, likeness, -likeness))
