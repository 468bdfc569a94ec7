"""Learning from minimal edits: the tokens that an edit changes, and the rewards that a rewriting model gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def changed(before: Sequence[int], after: Sequence[int]) -> list[bool]:
    """Which tokens of `after` a shortest edit of `before` replaces or inserts (Levenshtein: each edit costs 1).

    Of several shortest edits the one that, from the end on, keeps or replaces rather than deletes, and deletes rather
    than inserts. Takes len(before) vectorised steps.
    """
    cost = _distances(torch.tensor(before), torch.tensor(after)).tolist()
    result = [False] * len(after)
    i, j = len(before), len(after)
    while j:
        if i and cost[i][j] == cost[i - 1][j - 1] + (before[i - 1] != after[j - 1]):
            i, j = i - 1, j - 1
            result[j] = before[i] != after[j]
        elif i and cost[i][j] == cost[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
            result[j] = True
    return result


def token_rewards(
    logprobs: Float[Tensor, " n"], right: Bool[Tensor, " n"], *, penalty: float = 0.1
) -> Float[Tensor, " n"]:
    """RLMEC (arXiv 2401.06081): clip(p - 1/2, 0, 1/2) in right completions, clip(p - 1/2, -penalty, 0) in wrong ones.

    logprobs: log p of each token under the rewriting model. right: whether the token's completion is.
    """
    lead = logprobs.exp() - 0.5
    return torch.where(right, lead.clamp(0, 0.5), lead.clamp(-penalty, 0))


def _distances(before: Tensor, after: Tensor) -> Tensor:
    """(len(before) + 1, len(after) + 1): edits from each beginning of `before` to each beginning of `after`."""
    places = torch.arange(len(after) + 1)
    rows = [places]
    for token in before:
        row = rows[-1] + 1
        row[1:] = torch.minimum(row[1:], rows[-1][:-1] + (after != token))
        rows.append((row - places).cummin(0).values + places)  # insertions run along the row
    return torch.stack(rows)
