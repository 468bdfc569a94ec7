"""Puts weights into a running vLLM model, and reads them back out of it to prove that they are there.

vLLM repacks weights while loading (on CPU for oneDNN or AMX) and keeps only the packed form, so that a layer can go
on computing with old weights while its parameters look new: its own reload does that to a tied head, silently.
Where a kernel can be asked it is: multiplied with a one-hot vector, a layer returns one column of its weight matrix,
exactly, whatever its packing. Everything else that the model holds is compared as it lies there, or listed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alignkit.engines.vllm.copies import Copy, Loaded, held_tensors
from alignkit.engines.vllm.moved import Moved, looked_up
from alignkit.engines.vllm.quirks.missed import load_missed
from alignkit.weights.digest import Digest, digest

COLUMNS = 32  # columns of every matrix that are read back after an update; the version decides which
CONSTANTS = {"cos_sin_cache", "kv_cache", "_q_scale", "_k_scale", "_v_scale", "_prob_scale", "_k_scale_cpu",
             "_v_scale_cpu"}  # fmt: skip  # follow from the config, or are no weights
EXPERTS, ABSORBED = ("w13_weight", "w2_weight"), ("W_UK_T", "W_UV")
Sent = Mapping[str, Tensor | Digest]
Source = str | Moved


def load(weights: Mapping[str, Tensor], reload: Callable, apply: Callable) -> None:
    """Replaces all weights by (checkpoint name, tensor).

    reload: vLLM's own reload from an iterator of such pairs. apply: calls a function with the model.
    """
    reload(iter(weights.items()))
    apply(partial(load_missed, weights=weights))
    apply(repack)


def repack(model: Any) -> None:
    """Packs what vLLM's reload leaves as it came although its kernels read a packed form."""
    repack_head(model)
    for module in model.modules():
        packer = _packer(module)
        if packer is not None:
            packer.process_weights_after_loading(module)


def repack_head(model: Any) -> None:
    """Packs the head again: vLLM's reload skips a head that is tied to the embedding, and warns in its log only."""
    head = getattr(model, "lm_head", None)
    if hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)


@dataclass(frozen=True)
class Held:
    """A tensor of vLLM's model. loaded: of what it, or what it was made of, was loaded; None where nobody knows.

    derived: in a layout that vLLM chooses by its kernels, so that it is compared only where it is as expected.
    """

    name: str
    module: Any
    kind: str
    loaded: Loaded | None
    derived: bool = False

    @property
    def tensor(self) -> Tensor:
        return held_tensors(self.module)[self.kind]

    def as_loaded(self) -> Tensor | None:
        """What it holds as it was when it was loaded; None when vLLM keeps it otherwise."""
        tensor = self.tensor
        if self.kind in ABSORBED:
            tensor = _unabsorbed(self.module)
        loaded = self.loaded
        same = loaded is not None and (tuple(tensor.shape), tuple(tensor.stride())) == (loaded.shape, loaded.strides)
        return tensor if same else None


def stale_tensors(
    model: Any, weights: Sent, loaded: Mapping[str, Loaded], *, version: int, unread: frozenset[str] = frozenset()
) -> tuple[list[str], list[str]]:
    """(tensors of the model that are not `weights`, those that could not be compared).

    loaded: what each was loaded from, as a `Recorder` has seen it; of a model that is one worker's share, that share.
    Each tensor that the model holds is in neither list only where it was compared: parameters, buffers and attributes
    but for CONSTANTS, experts and the absorbed matrices of latent attention too. Where a matrix is kept in packed form
    only, COLUMNS of its columns are read through the kernel; the version chooses them, so that they rotate.
    Comparisons are exact: rounding cannot hide a small update. unread: those in layouts of vLLM's own (`unreadable`).
    """
    stale, unknown = [], []
    for held in _everything(model, loaded):
        agrees = None if held.name in unread else _agrees(held, weights, random.Random(version))
        if agrees is False:
            stale.append(held.name)
        elif agrees is None or not (held.loaded and _is_whole(held)):
            unknown.append(held.name)
    return stale, unknown


def unreadable(model: Any, loaded: Mapping[str, Loaded], begins: Callable[[], Sent]) -> frozenset[str]:
    """Derived tensors that do not look as expected right after vLLM loaded `begins`: its kernels want another layout.

    begins: reads these weights; called only where the model derives any.
    """
    derived = [held for held in _everything(model, loaded) if held.derived]
    weights = begins() if derived else {}
    return frozenset(held.name for held in derived if not _agrees(held, weights, random.Random(0)))


def _everything(model: Any, loaded: Mapping[str, Loaded]) -> Iterator[Held]:
    for place, module in model.named_modules():
        name = place.removesuffix(".base_layer")  # inside what vLLM puts around a layer that an adapter may change
        for kind in held_tensors(module):
            full = f"{name}.{kind}".lstrip(".")
            if kind in ABSORBED:
                above = (f"{each}.kv_b_proj.weight" for each in _above(name))
                source = next((each for each in above if each in loaded), full)
                yield Held(full, module, kind, loaded.get(source), derived=True)
            elif kind not in CONSTANTS:
                yield Held(full, module, kind, loaded.get(full), derived=kind in EXPERTS)


def _is_whole(held: Held) -> bool:
    """Whether all of it came from the checkpoint. Rows that vLLM adds to a vocabulary are never read."""
    return held.loaded is not None and (held.loaded.covered or hasattr(held.module, "num_embeddings_padded"))


def _unabsorbed(module: Any) -> Tensor:
    """W_UK_T (head, key, rank) and W_UV (head, rank, value), which are kv_b_proj head by head, put together again."""
    keys, values = (held_tensors(module)[kind] for kind in ABSORBED)
    return torch.cat([keys, values.transpose(1, 2)], dim=1).flatten(0, 1)


def _above(name: str) -> Iterator[str]:
    """The module itself and those that it lies in, from the inside out."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _agrees(held: Held, weights: Sent, chooser: random.Random) -> bool | None:
    """Whether it holds, and computes with, what was sent; None when that cannot be told."""
    loaded = held.loaded
    if loaded is None or loaded.computed or not loaded.copies:
        return None
    sources = {source: looked_up(source, weights) for source in {copy.source: None for copy in loaded.copies}}
    if any(
        sent is None or tuple(sent.shape) != copy.shape for copy in loaded.copies for sent in [sources[copy.source]]
    ):
        return None
    tensors = {name: sent for name, sent in sources.items() if isinstance(sent, Tensor)}
    packer = _packer(held.module) if held.kind in EXPERTS else None
    if packer is not None:
        return _is_packed(held, loaded, packer, tensors) if len(tensors) == len(sources) else None
    kept = bool(held.tensor.numel())  # else it has (only) a packed form
    if kept:
        own = held.as_loaded()
        found = None if own is None else _holds(own, loaded.copies, sources)
        if not found:
            return found
    if hasattr(held.module, "cpu_linear") and held.kind == "weight" and len(tensors) == len(sources):
        return _computes_with(held.module, loaded, tensors, chooser)
    return True if kept else None


def _holds(own: Tensor, copies: Sequence[Copy], sources: Mapping[Source, Tensor | Digest | None]) -> bool | None:
    """Whether every part of it is what was sent; None where that was said by digests of more than it has."""
    for source, sent in sources.items():
        mine = [copy for copy in copies if copy.source == source]
        if isinstance(sent, Tensor):
            parts = ((copy.placed.of(own), copy.taken.of(sent)) for copy in mine)
            if not all(torch.equal(part, came.to(device=part.device, dtype=part.dtype)) for part, came in parts):
                return False
        elif (whole := _put_together(own, mine)) is None:
            return None
        elif digest(whole) != sent:
            return False
    return True


def _put_together(own: Tensor, copies: Sequence[Copy]) -> Tensor | None:
    """The checkpoint's tensor out of the parts that were made of it; None where some of it is not here."""
    if len(copies) == 1 and copies[0].entire:
        return copies[0].placed.of(own)
    whole = own.new_empty(copies[0].shape)
    if sum(copy.placed.of(own).numel() for copy in copies) < whole.numel():
        return None
    for copy in copies:
        copy.taken.of(whole).copy_(copy.placed.of(own))
    return whole


def _packer(module: Any) -> Any:
    """What packs a layer's experts for the CPU's kernel, at the first loading only; None: they lie as they came."""
    kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
    experts = getattr(kernel, "fused_experts", None)
    return experts if hasattr(experts, "isa") else None


def _is_packed(held: Held, loaded: Loaded, packer: Any, sources: Mapping[Source, Tensor]) -> bool:
    """Whether it is the experts that were sent, packed by vLLM's own code for its kernel."""
    sent = _sent(loaded, sources)
    experts, rows, columns = loaded.shape
    other = (experts, columns, rows // 2) if held.kind == "w13_weight" else (experts, 2 * columns, rows)
    twin: Any = torch.nn.Module()
    for kind in EXPERTS:
        own = sent if kind == held.kind else sent.new_zeros(other)
        twin.register_parameter(kind, torch.nn.Parameter(own, requires_grad=False))
    packer.process_weights_after_loading(twin)
    return torch.equal(held.tensor, getattr(twin, held.kind).to(held.tensor.dtype))


def _sent(loaded: Loaded, sources: Mapping[Source, Tensor]) -> Tensor:
    """The tensor as a loader makes it of what was sent; zeros where nothing of the checkpoint goes."""
    whole = torch.empty_strided(loaded.shape, loaded.strides, dtype=next(iter(sources.values())).dtype).zero_()
    for copy in loaded.copies:
        copy.placed.of(whole).copy_(copy.taken.of(sources[copy.source]))
    return whole


def _computes_with(module: Any, loaded: Loaded, sources: Mapping[Source, Tensor], chooser: random.Random) -> bool:
    """Asks the kernel for some columns of its matrix."""
    width = loaded.shape[1]
    columns = torch.tensor(sorted(chooser.sample(range(width), min(COLUMNS, width))))
    chosen = torch.nn.functional.one_hot(columns, width).to(next(iter(sources.values())).dtype)
    found = module.quant_method.apply(module, chosen, None).T
    for copy in loaded.copies:
        first, rest = divmod(copy.placed.offset, width)
        rows = copy.placed.shape[0]
        if rest or copy.placed.shape[1:] != (width,) or copy.placed.strides != (width, 1):
            return torch.equal(found, _sent(loaded, sources)[:, columns])
        if not torch.equal(found[first : first + rows], copy.taken.of(sources[copy.source])[:, columns]):
            return False
    return True
