"""The tensors that a process is sent, and what they are at the moment."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alignkit.errors import SyncError
from alignkit.types.layout import Box
from alignkit.weights.transports.held import Held

if TYPE_CHECKING:
    from torch import Tensor


class Landing:
    """version: whose weights all of the tensors are; None before the first, while others come, and once that failed.

    An engine that reads copies the tensors when it is told of a version, and serves the one before until then.
    """

    def __init__(self, tensors: Mapping[Box, Tensor]):
        self.held = Held(tensors)
        self.version: int | None = None

    @property
    def tensors(self) -> dict[Box, Tensor]:
        """SyncError where they may be of two versions."""
        if self.version is None:
            raise SyncError("weights: no whole version lies here; move one to the end first")
        return self.held.tensors

    @contextmanager
    def awaiting(self, version: int) -> Generator[None]:
        """Within it they are of no version; of this one after an end without an error."""
        self.version = None
        yield
        self.version = version
