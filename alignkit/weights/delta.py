"""What one update changes of 16-bit weights, without loss: where, and by how much; a chain from version to version.

A small learning rate takes few weights over the border between two bfloat16 numbers, and those to a neighbour
(docs/scaling.md has the measurement).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.errors import LayoutError, SyncError

if TYPE_CHECKING:
    from torch import Tensor

FAR = -128  # a byte that says: the difference is among those of two bytes
CHECK, LENGTH = 32, 8  # bytes: sha256 of what follows it, and the length of the header


@dataclass(frozen=True, slots=True)
class Delta:
    """base, result: fingerprints of all weights before and after. data: what lies between, as it travels."""

    base: str
    result: str
    data: bytes


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """sha256 of names, shapes and bits."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        total.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        total.update(_words(name, tensor).data)
    return total.hexdigest()


def delta(old: Mapping[str, Tensor], new: Mapping[str, Tensor], *, base: str | None = None) -> Delta:
    """From one version to the next. base: the fingerprint of `old`, where it is known.

    A change is one word for its distance from the one before (of 1 or 2 bytes, whichever takes less in a tensor; the
    largest word says "go on that far") and one byte for the difference of the bits; differences beyond a byte follow.
    All of it is deflated.
    Raises LayoutError where names, shapes or dtypes differ, or the weights are not 16-bit numbers in host memory.
    """
    if old.keys() != new.keys():
        name = min(old.keys() ^ new.keys())
        raise LayoutError(f"delta: {name} is in one version only; send the tensors whole")
    entries, parts = [], []
    for name, tensor in sorted(new.items()):
        before, after = _words(name, old[name]), _words(name, tensor)
        if old[name].shape != tensor.shape or old[name].dtype != tensor.dtype:
            raise LayoutError(f"delta: {name} has another shape or dtype in the other version; send the tensors whole")
        places = np.flatnonzero(before != after)
        if len(places):
            width, gaps = _gaps(places)
            near, far = _differences(after[places] - before[places])
            parts += [gaps.tobytes(), near.tobytes(), far.tobytes()]
            entries.append([name, width, len(gaps), len(near), len(far)])
    payload = zlib.compress(b"".join(parts), level=1)
    base, result = base or fingerprint(old), fingerprint(new)
    header = json.dumps({"base": base, "result": result, "tensors": entries}).encode()
    body = len(header).to_bytes(LENGTH, "little") + header + payload
    return Delta(base, result, hashlib.sha256(body).digest() + body)


def apply(data: bytes, weights: Mapping[str, Tensor], *, have: str) -> str:
    """Makes weights, in their place, those of the next version; its fingerprint.

    have: the fingerprint of what they are. Raises SyncError before anything is changed where the delta belongs to other
    weights or is damaged; and after it where the result is not what it should be: the weights are then of no version.
    """
    said, payload = _opened(data)
    if said["base"] != have:
        raise SyncError(f"delta: it leads from {said['base'][:12]}, the weights are {have[:12]}; pull the base again")
    first = 0
    for name, width, gaps, near, far in said["tensors"]:
        words = _words(name, weights[name])
        sizes = (gaps * width, near, far * 2)
        pieces = [payload[first + sum(sizes[:i]) : first + sum(sizes[: i + 1])] for i in range(3)]
        places = _places(np.frombuffer(pieces[0], f"<u{width}"))
        words[places] += _whole(np.frombuffer(pieces[1], np.int8), np.frombuffer(pieces[2], "<i2"))
        first += sum(sizes)
    result = fingerprint(weights)
    if result != said["result"]:
        raise SyncError(f"delta: the weights became {result[:12]}, not {said['result'][:12]}; pull the base again")
    return result


class Chain:
    """The deltas of the latest versions, for those who have one of them; others take the base.

    weights: of the first version. keep: how many deltas are held. A copy of the latest weights is held to compare with.
    """

    def __init__(self, weights: Mapping[str, Tensor], version: int, *, keep: int):
        self.version, self._keep = version, keep
        self._latest = {name: tensor.clone() for name, tensor in weights.items()}
        self._print = fingerprint(self._latest)
        self._deltas: dict[int, Delta] = {}

    def add(self, weights: Mapping[str, Tensor], version: int) -> Delta:
        """The weights of a later version; what has changed since the latest one."""
        if version <= self.version:
            raise SyncError(f"delta: version {version} after version {self.version}; versions only grow")
        made = delta(self._latest, weights, base=self._print)
        for name, tensor in weights.items():
            self._latest[name].copy_(tensor)
        self._deltas[self.version] = made
        self.version, self._print = version, made.result
        for old in sorted(self._deltas)[: max(0, len(self._deltas) - self._keep)]:
            del self._deltas[old]
        return made

    def since(self, version: int) -> list[Delta] | None:
        """What leads from a version to the latest, one after the other; None where only the base does."""
        if version != self.version and version not in self._deltas:
            return None
        return [made for begin, made in sorted(self._deltas.items()) if begin >= version]

    def base(self) -> dict[str, Tensor]:
        """All weights of the latest version: its own, not to be changed."""
        return self._latest


def _words(name: str, tensor: Tensor) -> np.ndarray:
    """The bits of a tensor as integers, a view of its memory."""
    import torch

    if tensor.element_size() != 2 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise LayoutError(f"delta: {name} is {tensor.dtype} on {tensor.device}; deltas are of 16-bit weights in a row")
    return tensor.detach().view(-1).view(torch.int16).numpy()


def _gaps(places: np.ndarray) -> tuple[int, np.ndarray]:
    """The width of words in bytes, and the words."""
    distances = np.diff(places, prepend=-1) - 1
    counts = {width: int((distances // (2 ** (8 * width) - 1)).sum()) for width in (1, 2)}
    width = min(counts, key=lambda one: one * (counts[one] + len(places)))
    largest = 2 ** (8 * width) - 1
    words = np.full(counts[width] + len(places), largest, f"<u{width}")
    words[np.cumsum(distances // largest + 1) - 1] = distances % largest
    return width, words


def _places(words: np.ndarray) -> np.ndarray:
    largest = np.iinfo(words.dtype).max
    ends = words < largest
    return (np.cumsum(words, dtype=np.int64) + np.cumsum(ends) - 1)[ends]


def _differences(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A byte each, and those that are beyond a byte."""
    fits = (differences > FAR) & (differences < -FAR)
    return np.where(fits, differences, FAR).astype(np.int8), differences[~fits].astype("<i2")


def _whole(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    differences = near.astype(np.int16)
    differences[near == FAR] = far
    return differences


def _opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    body = data[CHECK:]
    if hashlib.sha256(body).digest() != data[:CHECK]:
        raise SyncError(f"delta: its {len(data)} bytes were damaged on their way; pull it again")
    end = LENGTH + int.from_bytes(body[:LENGTH], "little")
    return json.loads(body[LENGTH:end]), zlib.decompress(body[end:])
