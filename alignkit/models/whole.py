"""Parameters that lie in shards on several ranks (ZeRO-3), seen as the whole ones that they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def whole(parameters: Iterable[Any]) -> AbstractContextManager[Any]:
    """Within it the parameters are whole on every rank, to be read. All ranks enter it with the same ones.

    Does nothing where no parameter is cut.
    """
    cut = [parameter for parameter in parameters if is_cut(parameter)]
    if not cut:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(cut)


def is_cut(parameter: Tensor) -> bool:
    """Whether this rank holds a shard of the parameter; its own data is empty then, but for the time in `whole`."""
    return hasattr(parameter, "ds_id")


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """Its shape when it is whole."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
