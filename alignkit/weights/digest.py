"""A number by which two processes find that they hold the same tensor, without moving it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1 << 22  # numbers at a time: 8 bytes of each of their words are held besides the tensor
BLOCK_OF_A_CORE = 1 << 16  # of which its cache holds the words
ODD = (-7046029254386353131, -4658895280553007687)  # multipliers that mix 64 bits well
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number


@dataclass(frozen=True, slots=True)
class Digest:
    """The shape of a tensor and sum_i w_i * word_i modulo 2^64, with an odd w_i that depends on the place i alone.

    Words are its bytes, 8 at a time, the last filled up with zeros. The sum of integers is the same in every order and
    on every device. A change of one number always shows, because w_i has an inverse; a change of several is missed with
    a chance of about 2^-64.
    """

    shape: tuple[int, ...]
    value: int


def digest(tensor: Tensor) -> Digest:
    """Of the bits as they are: 0.0 and -0.0 differ."""
    return Digest(tuple(tensor.shape), digest_of_range(tensor))


def digest_of_range(values: Tensor, begin: int = 0) -> int:
    """What a range of a tensor adds to its digest: values, flattened, that begin at the place `begin` of it.

    Modulo 2^64 the digests of ranges that make up a tensor add up to its own, wherever they meet.
    """
    bits = values.detach().contiguous().reshape(-1).view(WORDS[values.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    each = 8 // bits.element_size()  # numbers of a word
    block = max(block_size(bits.device) // each, 1) * each
    for first in range(-(begin % each), len(bits), block):
        words = _words(bits[max(first, 0) : first + block], max(-first, 0), each)
        total += (_weights((begin + first) // each, len(words), words.device) * words).sum()
    return int(total)


def _words(bits: Tensor, lead: int, each: int) -> Tensor:
    """Numbers as 64-bit words, `each` in one, after `lead` zeros that stand for what comes before."""
    rest = -(lead + len(bits)) % each
    if lead or rest or bits.storage_offset() % each:
        bits = torch.nn.functional.pad(bits.clone(), (lead, rest))
    return bits.view(torch.int64)


def block_size(device: torch.device) -> int:
    """Numbers that are best looked at together there."""
    return min(BLOCK, BLOCK_OF_A_CORE) if device.type == "cpu" else BLOCK


def _weights(begin: int, count: int, device: torch.device) -> Tensor:
    """Odd, and as if drawn at random for each place."""
    mixed = torch.arange(begin + 1, begin + count + 1, device=device) * ODD[0]
    mixed = (mixed ^ (mixed >> 29)) * ODD[1]
    return (mixed ^ (mixed >> 32)) | 1
