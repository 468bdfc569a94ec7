"""A value head of which some numbers are about the token that was chosen, read from the state before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alignkit.models.device_type import HEAD_ROWS, device_type
from alignkit.ops.logprobs import chunked_logprobs

if TYPE_CHECKING:
    from alignkit.types.batch import Batch


class TokenScores(nn.Module):
    """The first `scored` of `heads` numbers at token t are <h_t-1, e_j[token t]>, the others linear in h_t.

    hidden: width of the states h. vocabulary: tokens, each with a vector e_j of that width for each score j; so a score
    is one row of what a head as wide as the vocabulary would say, and nothing of size tokens x vocabulary exists. The
    first token of a prompt has no state before it, and scores 0.
    normalised: as many numbers stand behind the scores, log sum_a exp <h_t-1, e_j[a]> over the vocabulary, read tile by
    tile; 0 at tokens that nobody chose.
    """

    def __init__(self, hidden: int, heads: int, *, scored: int, vocabulary: int, normalised: bool = False):
        super().__init__()
        self.normalised, self.scored = normalised, scored
        self.states = nn.Linear(hidden, heads - scored * (1 + normalised))
        self.scores = nn.Embedding(vocabulary, scored * hidden)

    def forward(self, hidden: Float[Tensor, "token hidden"], batch: Batch) -> Float[Tensor, "token head"]:
        before = hidden[batch.parent.clamp(min=0)] * (batch.parent >= 0)[:, None]
        if self.normalised:
            vectors = self._vectors()
            said = [torch.einsum("th,tjh->tj", before, vectors[batch.tokens])]
            said.append(self._normalisers(before[batch.actions], vectors, batch))
        else:
            said = [torch.einsum("th,tjh->tj", before, self.scores(batch.tokens).unflatten(1, (-1, hidden.shape[1])))]
        return torch.cat([*said, self.states(hidden)], dim=1)

    def every(self, before: Float[Tensor, "state hidden"]) -> Float[Tensor, "state vocabulary score"]:
        """Scores of all tokens that could be chosen next."""
        return torch.einsum("sh,ajh->saj", before, self._vectors())

    def _vectors(self) -> Float[Tensor, "vocabulary score hidden"]:
        """All of them, looked up: a weight that is read by itself would be a rank's share of it."""
        tokens = torch.arange(self.scores.num_embeddings, device=self.scores.weight.device)
        return self.scores(tokens).unflatten(1, (self.scored, -1))

    def _normalisers(
        self, before: Float[Tensor, "action hidden"], vectors: Float[Tensor, "vocabulary score hidden"], batch: Batch
    ) -> Float[Tensor, "token score"]:
        rows, chosen = HEAD_ROWS.get(device_type(before), HEAD_ROWS["cuda"]), batch.tokens[batch.actions]
        read = [chunked_logprobs(before, each, chosen, rows=rows)[2] for each in vectors.unbind(1)]
        found = torch.stack(read, dim=1)
        return found.new_zeros(batch.num_tokens, self.scored).index_put((batch.actions,), found)
