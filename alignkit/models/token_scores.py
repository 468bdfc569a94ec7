"""A value head of which some numbers are about the token that was chosen, read from the state before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from alignkit.types.batch import Batch


class TokenScores(nn.Module):
    """The first `scored` of `heads` numbers at token t are <h_t-1, e_j[token t]>, the others linear in h_t.

    hidden: width of the states h. vocabulary: tokens, each with a vector e_j of that width for each score j; so a score
    is one row of what a head as wide as the vocabulary would say, and nothing of size tokens x vocabulary exists. The
    first token of a prompt has no state before it, and scores 0.
    """

    def __init__(self, hidden: int, heads: int, *, scored: int, vocabulary: int):
        super().__init__()
        self.states = nn.Linear(hidden, heads - scored)
        self.scores = nn.Embedding(vocabulary, scored * hidden)

    def forward(self, hidden: Float[Tensor, "token hidden"], batch: Batch) -> Float[Tensor, "token head"]:
        before = hidden[batch.parent.clamp(min=0)] * (batch.parent >= 0)[:, None]
        vectors = self.scores(batch.tokens).unflatten(1, (-1, hidden.shape[1]))
        return torch.cat([torch.einsum("th,tjh->tj", before, vectors), self.states(hidden)], dim=1)
