"""Puts weights into a running vLLM model, and reads them back out of its kernels to prove that they are there.

vLLM repacks weights while loading (on CPU for oneDNN or AMX) and keeps only the packed form, so that a layer can go
on computing with old weights while its parameters look new: its own reload does that to a tied head, silently.
`stale_modules` therefore asks the kernels: multiplied with a one-hot vector, a layer returns one column of its weight
matrix, exactly, whatever its packing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

COLUMNS = 32  # columns of every matrix that are read back after an update; the version decides which


def load(weights: Mapping[str, Tensor], reload: Callable, apply: Callable) -> None:
    """Replaces all weights by (checkpoint name, tensor).

    reload: vLLM's own reload from an iterator of such pairs. apply: calls a function with the model.
    """
    reload(iter(weights.items()))
    apply(repack_head)


def repack_head(model: Any) -> None:
    """Packs the head again: vLLM's reload skips a head that is tied to the embedding, and warns in its log only."""
    head = getattr(model, "lm_head", None)
    if hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)


def stale_modules(model: Any, weights: Mapping[str, Tensor], *, version: int) -> tuple[list[str], list[str]]:
    """(modules that do not compute with `weights`, modules that could not be compared because of unknown names).

    Vectors and embeddings are compared whole; matrices by COLUMNS columns that the version chooses, so that they
    rotate from update to update. Comparisons are exact: rounding cannot hide a small update.
    """
    stale, unknown = [], []
    for name, module in model.named_modules():
        for kind in ("weight", "bias"):
            if not isinstance(module._parameters.get(kind), Tensor):
                continue
            sources = _sources(model, name, kind, weights)
            if not sources:
                unknown.append(f"{name}.{kind}")
            elif not _agrees(module, kind, sources, random.Random(version)):
                stale.append(f"{name}.{kind}")
    return stale, unknown


def _sources(model: Any, name: str, kind: str, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The checkpoint tensors that vLLM fuses into this parameter, in order; empty when their names are unknown."""
    parent, _, last = name.rpartition(".")
    pieces = getattr(model, "packed_modules_mapping", {}).get(last, [last])
    names = [f"{parent}.{piece}.{kind}".lstrip(".") for piece in pieces]
    if name == "lm_head" and names[0] not in weights:
        names = ["model.embed_tokens.weight"]  # tied
    return [weights[source] for source in names] if all(source in weights for source in names) else []


def _agrees(module: Any, kind: str, sources: list[Tensor], chooser: random.Random) -> bool:
    held = module._parameters[kind]
    if held.numel():  # not (only) packed; vLLM pads vocabularies, so compare the rows that the checkpoint has
        begin = 0
        for source in sources:
            part = held[begin : begin + len(source)]
            if not torch.equal(part, source.to(device=held.device, dtype=held.dtype)):
                return False
            begin += len(source)
    computes = hasattr(module, "cpu_linear") and kind == "weight" and sources[0].ndim == 2
    return not computes or _computes_with(module, sources, chooser)


def _computes_with(module: Any, sources: list[Tensor], chooser: random.Random) -> bool:
    width = sources[0].shape[1]
    columns = torch.tensor(sorted(chooser.sample(range(width), min(COLUMNS, width))))
    expected = torch.cat([source[:, columns] for source in sources])
    chosen = torch.nn.functional.one_hot(columns, width).to(sources[0].dtype)
    result = module.quant_method.apply(module, chosen, None)
    return torch.equal(result[:, : len(expected)].T, expected)
