"""Tensors that say they are on cuda:0 and compute on the CPU: what CUDA would refuse raises, and waits are counted.

Stricter than CUDA: an index on the CPU is refused, too, for which CUDA would wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
INNER = torch.device("meta")  # as which torch's C++ knows them, whose guards need a real CUDA otherwise
ACROSS = {"copy_", "_to_copy", "_copy_from"}  # between devices
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique2", "_unique2"}


class MixedDevices(RuntimeError):
    """What CUDA says of tensors on two devices."""


class MockTensor(Tensor):
    """held: the same numbers on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> MockTensor:
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=INNER, requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": CUDA} | options)

    def numpy(self, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __repr__(self, **options: Any) -> str:
        return f"MockTensor({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, Counter())


def on_mock(x: Tensor) -> MockTensor:
    return x if isinstance(x, MockTensor) else MockTensor(x.detach(), x.requires_grad)


def model_on_mock(model: nn.Module) -> nn.Module:
    """The model with its weights and buffers moved there; tied ones stay tied."""
    moved: dict[int, Any] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                moved.setdefault(id(p), nn.Parameter(MockTensor(p.detach().clone()), p.requires_grad))
                module._parameters[name] = moved[id(p)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = MockTensor(buffer.clone())
    return model


class _Mode(TorchDispatchMode):
    def __init__(self, waits: Counter):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, self.waits)


@contextmanager
def mock_cuda() -> Generator[Counter]:
    """Within it CUDA is that device; yields how often the host waited for it, by operation."""
    waits: Counter = Counter()
    with pytest.MonkeyPatch.context() as patch, _Mode(waits):
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)  # what a name of that device would start
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes its tensor here and moves it
        try:
            yield waits
        finally:
            torch._C._set_only_lift_cpu_tensors(before)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, MockTensor) else x


def _run(function: Any, args: Any, kwargs: dict[str, Any], waits: Counter) -> Any:
    name = function.overloadpacket.__name__
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, MockTensor)]
    here = [x for x in tensors if not isinstance(x, MockTensor) and x.dim() > 0]
    device = kwargs.get("device")
    to_there = device is not None and torch.device(device).type in ("cuda", "meta")
    to_here = device is not None and torch.device(device).type == "cpu"
    if there and here and name not in ACROSS:
        raise MixedDevices(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")
    if there and (name in WAITS or to_here or (name == "copy_" and not isinstance(args[0], MockTensor))):
        waits[name] += 1
    if (
        there
        and name in ("index", "index_put", "index_put_")
        and any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])
    ):
        waits[f"{name} by a mask"] += 1
    if to_there:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = function(*tree_map(_held, args), **tree_map(_held, kwargs))
    if to_here or not (there or to_there):
        return out
    if name.endswith("_") and not name.endswith("__") and function._schema.arguments[0].alias_info is not None:
        return args[0] if isinstance(out, Tensor) else out
    return tree_map(lambda x: MockTensor(x) if isinstance(x, Tensor) else x, out)
