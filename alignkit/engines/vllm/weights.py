"""Puts weights into a running vLLM model, and reads them back out of it to prove that they are there.

vLLM repacks weights while loading (on CPU for oneDNN or AMX) and keeps only the packed form, so that a layer can go
on computing with old weights while its parameters look new: its own reload does that to a tied head, silently.
Where a kernel can be asked it is: multiplied with a one-hot vector, a layer returns one column of its weight matrix,
exactly, whatever its packing. Everything else that the model holds is compared as it lies there, or listed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alignkit.engines.vllm.quirks.arranged import arranged, is_turned
from alignkit.engines.vllm.quirks.missed import load_missed
from alignkit.weights.digest import Digest, digest

COLUMNS = 32  # columns of every matrix that are read back after an update; the version decides which
CONSTANTS = {"cos_sin_cache", "kv_cache", "_q_scale", "_k_scale", "_v_scale", "_prob_scale", "_k_scale_cpu",
             "_v_scale_cpu"}  # fmt: skip  # follow from the config, or are no weights
EXPERTS = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))  # names of an expert's matrices in checkpoints
Sent = Mapping[str, Tensor | Digest]


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
    """A tensor of vLLM's model. parts: what of it should be which tensor of the checkpoint; none where nobody knows.

    derived: in a layout that vLLM chooses by its kernels, so that it is compared only where it is as expected.
    arranged: what makes of each of these checkpoint tensors what is kept; None: it is kept as it is.
    """

    name: str
    module: Any
    kind: str
    parts: tuple[tuple[Tensor, str], ...] = ()
    derived: bool = False
    arranged: Callable[[str, Tensor], Tensor] | None = None


def stale_tensors(
    model: Any, weights: Sent, *, version: int, unread: frozenset[str] = frozenset()
) -> tuple[list[str], list[str]]:
    """(tensors of the model that are not `weights`, those that could not be compared).

    Each tensor that the model holds is in neither list only where it was compared: parameters, buffers and attributes
    but for CONSTANTS, experts and the absorbed matrices of latent attention too. Where a matrix is kept in packed form
    only, COLUMNS of its columns are read through the kernel; the version chooses them, so that they rotate.
    Comparisons are exact: rounding cannot hide a small update. unread: those in layouts of vLLM's own (`unreadable`).
    """
    stale, unknown = [], []
    for held in _everything(model, weights):
        agrees = None if held.name in unread else _agrees(held, weights, random.Random(version))
        if agrees is None:
            unknown.append(held.name)
        elif not agrees:
            stale.append(held.name)
    return stale, unknown


def unreadable(model: Any, loaded: Callable[[], Sent]) -> frozenset[str]:
    """Derived tensors that do not look as expected right after vLLM loaded `loaded`: its kernels want another layout.

    loaded: reads these weights; called only where the model derives any.
    """
    if not any(type(module).__name__ == "RoutedExperts" or "W_UV" in _tensors(module) for module in model.modules()):
        return frozenset()
    weights = loaded()
    derived = (held for held in _everything(model, weights) if held.derived)
    return frozenset(held.name for held in derived if not _agrees(held, weights, random.Random(0)))


def _everything(model: Any, weights: Sent) -> Iterator[Held]:
    for place, module in model.named_modules():
        name = place.removesuffix(".base_layer")  # inside what vLLM puts around a layer that an adapter may change
        for kind, tensor in _tensors(module).items():
            full = f"{name}.{kind}".lstrip(".")
            if kind in ("w13_weight", "w2_weight"):
                yield Held(full, module, kind, tuple(_expert_parts(name, kind, tensor, weights)), derived=True)
            elif kind in ("W_UK_T", "W_UV"):
                yield Held(full, module, kind, tuple(_absorbed_parts(name, module, weights)), derived=True)
            elif kind not in CONSTANTS:
                axis = int(is_turned(model, name, kind))
                parts = tuple(_parts(model, name, kind, tensor, weights, axis=axis))
                yield Held(full, module, kind, parts, arranged=arranged(model, name, kind))


def _tensors(module: Any) -> dict[str, Tensor]:
    kept = {**module._parameters, **module._buffers, **vars(module)}
    return {kind: tensor for kind, tensor in kept.items() if isinstance(tensor, Tensor)}


def _parts(model: Any, name: str, kind: str, held: Tensor, weights: Sent, *, axis: int) -> Iterator[tuple[Tensor, str]]:
    """The checkpoint tensors that vLLM fuses into this one, one below the other; none when their names are unknown.

    axis: that of a checkpoint tensor's outputs.
    """
    parent, _, last = name.rpartition(".")
    pieces = getattr(model, "packed_modules_mapping", {}).get(last, [last])
    names = [f"{parent}.{piece}.{kind}".lstrip(".") for piece in pieces]
    if name == "lm_head" and names[0] not in weights:
        names = ["model.embed_tokens.weight"]  # tied
    if all(source in weights for source in names):
        begin = 0
        for source in names:
            end = begin + (weights[source].shape[axis] if weights[source].shape else 0)
            yield held[begin:end] if held.ndim else held, source  # vLLM pads vocabularies: rows of the checkpoint only
            begin = end


def _expert_parts(name: str, kind: str, held: Tensor, weights: Sent) -> Iterator[tuple[Tensor, str]]:
    """Of w13 (expert, gate then up, width) and w2 (expert, width, inner)."""
    for above in _above(name):
        for gate, up, down in EXPERTS:
            if f"{above}.0.{gate}.weight" not in weights:
                continue
            rows = weights[f"{above}.0.{gate}.weight"].shape[0]
            for expert, own in enumerate(held):
                if kind == "w2_weight":
                    yield own, f"{above}.{expert}.{down}.weight"
                else:
                    yield own[:rows], f"{above}.{expert}.{gate}.weight"
                    yield own[rows:], f"{above}.{expert}.{up}.weight"


def _absorbed_parts(name: str, module: Any, weights: Sent) -> Iterator[tuple[Tensor, str]]:
    """W_UK_T (head, key, rank) and W_UV (head, rank, value), which are kv_b_proj head by head, put together again."""
    keys, values = _tensors(module)["W_UK_T"], _tensors(module)["W_UV"]
    for above in _above(name):
        if (source := f"{above}.kv_b_proj.weight") in weights:
            yield torch.cat([keys, values.transpose(1, 2)], dim=1).flatten(0, 1), source
            return


def _above(name: str) -> Iterator[str]:
    """The module itself and those that it lies in, from the inside out."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _agrees(held: Held, weights: Sent, chooser: random.Random) -> bool | None:
    """Whether it holds, and computes with, what was sent; None when that cannot be told."""
    if not held.parts or any(source not in weights for _, source in held.parts):
        return None
    sources = [weights[source] for _, source in held.parts]
    if held.arranged is not None:
        given = zip((name for _, name in held.parts), sources, strict=True)
        sources = [held.arranged(name, source) for name, source in given if isinstance(source, Tensor)]
        if len(sources) < len(held.parts):
            return None
    kept = bool(_tensors(held.module)[held.kind].numel())  # else it has (only) a packed form
    packer = _packer(held.module) if held.derived else None
    if packer is not None:
        tensors = [source for source in sources if isinstance(source, Tensor)]
        own = _tensors(held.module)[held.kind]
        return torch.equal(own, _packed(held, packer, tensors).to(own.dtype)) if len(tensors) == len(sources) else None
    if kept and not all(_same(part, sent) for (part, _), sent in zip(held.parts, sources, strict=True)):
        return False
    matrices = [source for source in sources if isinstance(source, Tensor) and source.ndim == 2]
    if hasattr(held.module, "cpu_linear") and held.kind == "weight" and len(matrices) == len(sources):
        if getattr(held.module, "input_size", matrices[0].shape[1]) != matrices[0].shape[1]:
            return None  # the kernel would read beyond the end of a row without a word
        return _computes_with(held.module, matrices, chooser)
    return True if kept else None


def _packer(module: Any) -> Any:
    """What packs a layer's experts for the CPU's kernel, at the first loading only; None: they lie as they came."""
    kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
    experts = getattr(kernel, "fused_experts", None)
    return experts if hasattr(experts, "isa") else None


def _packed(held: Held, packer: Any, sources: list[Tensor]) -> Tensor:
    """The experts that were sent, packed by vLLM's own code for its kernel."""
    fused = held.kind == "w13_weight"
    experts = len(sources) // 2 if fused else len(sources)
    inner, width = sources[0].shape if fused else sources[0].shape[::-1]
    whole = torch.cat(sources).view(experts, -1, sources[0].shape[1])
    twin: Any = torch.nn.Module()
    for kind, shape in (("w13_weight", (experts, 2 * inner, width)), ("w2_weight", (experts, width, inner))):
        own = whole if kind == held.kind else whole.new_zeros(shape)
        twin.register_parameter(kind, torch.nn.Parameter(own, requires_grad=False))
    packer.process_weights_after_loading(twin)
    return getattr(twin, held.kind)


def _same(part: Tensor, sent: Tensor | Digest) -> bool:
    if isinstance(sent, Digest):
        return digest(part) == sent
    return torch.equal(part, sent.to(device=part.device, dtype=part.dtype))


def _computes_with(module: Any, sources: list[Tensor], chooser: random.Random) -> bool:
    width = sources[0].shape[1]
    columns = torch.tensor(sorted(chooser.sample(range(width), min(COLUMNS, width))))
    expected = torch.cat([source[:, columns] for source in sources])
    chosen = torch.nn.functional.one_hot(columns, width).to(sources[0].dtype)
    result = module.quant_method.apply(module, chosen, None)
    return torch.equal(result[:, : len(expected)].T, expected)
