"""Who computes what: a minibatch split into micro-batches by token budget, the same number of them for every rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from alignkit.types.batch import Batch

Unit = Literal["sequence", "rollout", "group"]


def micro_batches(
    batch: Batch, sequences: Sequence[int], *, max_tokens: int, world: int, unit: Unit = "sequence"
) -> list[list[list[int]]]:
    """Rounds of one micro-batch per rank, each a list of sequence numbers of `batch`; `[]` is a round to sit out.

    Sequences of a block stay together, so that they share its prompt, unless the block alone exceeds max_tokens. A
    micro-batch exceeds max_tokens only when a single unit does; units of several sequences are never cut. The plan
    is a pure function of its arguments: every rank knows all of it, so none waits for a number another one decides.
    """
    wanted = set(sequences)
    units = _units(batch, unit)
    alone = len(set(units)) == len(units)
    pieces = _pieces(batch, wanted, max_tokens) if alone else _whole(batch, wanted, units)
    total = sum(tokens for tokens, _ in pieces)
    capacity = min(max_tokens, -(-total // world))  # at least one micro-batch for each rank, where pieces allow it
    bins: list[tuple[int, list[int]]] = []
    for tokens, members in sorted(pieces, key=lambda piece: -piece[0]):
        fits = next((i for i, (used, _) in enumerate(bins) if used + tokens <= capacity), None)
        if fits is None:
            bins.append((tokens, members))
        else:
            bins[fits] = (bins[fits][0] + tokens, bins[fits][1] + members)
    ordered = [sorted(members) for _, members in sorted(bins, key=lambda filled: -filled[0])]
    ordered += [[]] * (-len(ordered) % world)
    rounds = [ordered[i : i + world] for i in range(0, len(ordered), world)]
    return [plan if number % 2 == 0 else plan[::-1] for number, plan in enumerate(rounds)]


def _units(batch: Batch, unit: Unit) -> list[tuple[int, ...]]:
    """The unit of each sequence, by a name."""
    group, member = batch.group.tolist(), batch.member.tolist()
    names = {"sequence": (range(batch.num_sequences),), "rollout": (group, member), "group": (group,)}
    return list(zip(*names[unit], strict=True))


def _whole(batch: Batch, wanted: set[int], units: list[tuple[int, ...]]) -> list[tuple[int, list[int]]]:
    """(tokens, sequences) of each unit, however many blocks it lies in."""
    tokens: dict[tuple[int, ...], int] = defaultdict(int)
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    first = 0
    for block in batch.blocks:
        inside = [(first + m, length) for m, length in enumerate(block.lengths) if first + m in wanted]
        for sequence, length in inside:
            name = units[sequence]
            tokens[name] += length + (block.prompt if sequence == inside[0][0] else 0)
            members[name].append(sequence)
        first += len(block.lengths)
    return [(tokens[name], members[name]) for name in members]


def _pieces(batch: Batch, wanted: set[int], max_tokens: int) -> list[tuple[int, list[int]]]:
    """(tokens, sequences) of each block, cut where it would exceed max_tokens; each cut repeats the prompt."""
    pieces: list[tuple[int, list[int]]] = []
    first = 0
    for block in batch.blocks:
        tokens, members = block.prompt, []
        for member, length in enumerate(block.lengths):
            if first + member not in wanted:
                continue
            if members and tokens + length > max_tokens:
                pieces.append((tokens, members))
                tokens, members = block.prompt, []
            tokens += length
            members.append(first + member)
        if members:
            pieces.append((tokens, members))
        first += len(block.lengths)
    return pieces


def minibatches(batch: Batch, count: int, *, unit: Unit, rng: np.random.Generator) -> list[list[int]]:
    """`count` lists of sequence numbers of nearly equal numbers of units, in a random order."""
    units = [members for _, members in _whole(batch, set(range(batch.num_sequences)), _units(batch, unit))]
    order = rng.permutation(len(units)).tolist()
    bounds = [len(order) * i // count for i in range(count + 1)]
    chosen = [[sequence for place in order[begin:end] for sequence in units[place]] for begin, end in pairwise(bounds)]
    return [sorted(sequences) for sequences in chosen if sequences]
