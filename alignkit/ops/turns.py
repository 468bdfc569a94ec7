"""The turns of a batch, as an algorithm on utterances sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from alignkit.types.batch import Batch


class Turns(NamedTuple):
    """Of each turn, in packed order. before: index of the token ahead of its utterance, whose state the utterance
    answers. last: index of the utterance's last token. sequence: the number of its sequence."""

    before: Int[Tensor, " turn"]
    last: Int[Tensor, " turn"]
    sequence: Int[Tensor, " turn"]


def turns(batch: Batch) -> Turns:
    """All turns of a batch, sequence by sequence."""
    actions = batch.action_mask.nonzero().squeeze(-1)
    number, sequence = batch.turn[actions], batch.segment[actions]
    new = (number != number.roll(1)) | (sequence != sequence.roll(1))
    new[:1] = True
    begins = new.nonzero().squeeze(-1)
    first, last = actions[begins], actions[begins.roll(-1) - 1]
    return Turns(batch.parent[first], last, batch.segment[first])
