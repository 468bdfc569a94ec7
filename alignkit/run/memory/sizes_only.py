"""Tensors that have a shape, a dtype and a size, and no content: computing with them takes no memory and hardly time.

torch's fake tensors are that already, and any operation with one of them gives another. What they lack is an answer
where a program asks for a number: `SizesOnly` answers 0, and takes every element where it depends on contents how many
there are. Tensors with content, the columns of a batch, stay what they are, so whatever follows from the batch alone
(which tokens are actions, how a loss counts) is as in a real run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from alignkit.run.memory.quantized_sizes import parts, with_parts

aten = torch.ops.aten


class SizesOnly(TorchDispatchMode):
    """Within it, numbers that are asked of a fake tensor are 0."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # most calls are this question
            return args[0].fake_device if isinstance(args[0], FakeTensor) else args[0].device
        kwargs = kwargs or {}
        if args and isinstance(args[0], FakeTensor):
            if func is aten._local_scalar_dense.default:
                return 0.0 if args[0].is_floating_point() else args[0].dtype != torch.bool and 0
            if func is aten.equal.default:
                return True
            if func is aten.nonzero.default:
                return _chosen(args[0])
        if func in INDEXED:
            args = (args[0], [index for given in args[1] for index in _as_numbers(given)], *args[2:])
        return func(*args, **kwargs)


INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def _chosen(mask: Tensor) -> Tensor:
    """The places that a mask chooses; every one, where it has no content."""
    return (torch.ones(mask.shape, dtype=torch.bool) if isinstance(mask, FakeTensor) else mask).nonzero()


def _as_numbers(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """A mask as one index for each of its axes: how long the result is, a fake mask could not say."""
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        return _chosen(index).unbind(-1)
    return (index,)


def without_content(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The same model with fake tensors on the CPU for its weights, those of meta ones included; changed in place."""
    known: dict[Tensor, Tensor] = {}  # tied weights stay one

    def fake(tensor: Tensor) -> Tensor:
        if tensor not in known:
            with mode:
                made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            trained = isinstance(tensor, nn.Parameter)
            known[tensor] = nn.Parameter(made, requires_grad=tensor.requires_grad) if trained else made
        return known[tensor]

    for module in model.modules():
        every: list[dict[str, Any]] = [module._parameters, module._buffers]
        for held in every:
            for name, tensor in held.items():
                if tensor is None or isinstance(tensor, FakeTensor):
                    continue
                if scales := parts(tensor):
                    made = {where: fake(scale) for where, scale in scales.items()}
                    held[name] = with_parts(fake(tensor), tensor, made)
                    continue
                exact = not tensor.is_floating_point()  # numbers of positions and the like: whatever they are
                held[name] = torch.zeros(tensor.shape, dtype=tensor.dtype) if exact else fake(tensor)
    return model
