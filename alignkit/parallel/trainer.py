"""The protocol of whatever owns the trained weights, their gradients and the optimizer's state."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from alignkit.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alignkit.recipe.schema import Optimizer
    from alignkit.types.batch import Batch
    from alignkit.types.outputs import Outputs

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class Trainer(Protocol):
    """One trained model on this rank. Its weights may be sharded: they are read through `run` and `weights` only."""

    model: nn.Module

    def run(self, path: Callable[..., Outputs], batch: Batch, **options: Any) -> Outputs:
        """path(model, batch, **options), with the weights whole where the path reads them; all ranks call it."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of this rank's share of the loss. The gradients of a step are summed over all ranks."""
        ...

    def step(self, lr: float) -> float:
        """Clips, applies and clears the summed gradient; returns its norm before clipping.

        Raises HealthError, without having changed a weight where the backend allows it, when the norm is not finite.
        """
        ...

    def gradient_norm(self) -> float:
        """Norm of the gradient added up so far, over all weights; one process only."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(checkpoint name, full tensor) of every weight; every rank must run it to the end."""
        ...

    def save(self, folder: Path) -> None:
        """Writes weights and optimizer state into an existing folder; every rank must call it."""
        ...

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, bit for bit; raises CheckpointError when it does not fit."""
        ...

    def hand_over(self) -> dict[str, Tensor]:
        """Ends this trainer and returns every trained weight, whole, by parameter name; all ranks call it."""
        ...


def store_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file; raises OSError when the disk refuses it, as for any other file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def stored_tensors(folder: Path, kind: str) -> dict[str, Callable[[], Tensor]]:
    """A reader of each tensor in a checkpoint's `kind*.safetensors`, by name, however many ranks wrote these files."""
    from safetensors import safe_open

    readers: dict[str, Callable[[], Tensor]] = {}
    for path in sorted(folder.glob(f"{kind}*.safetensors")):
        file: Any = safe_open(path, framework="pt")
        readers |= {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    return readers


def check_names(readers: Mapping[str, object], trained: Mapping[str, object], folder: Path) -> None:
    """Raises CheckpointError unless the checkpoint holds exactly the trained weights."""
    if readers.keys() != trained.keys():
        odd = sorted(readers.keys() ^ trained.keys())[:3]
        raise CheckpointError(f"{folder}: its weights are not this model's, e.g. {', '.join(odd)}")


def parameter_groups(model: nn.Module, optimizer: Optimizer) -> list[dict]:
    """AdamW's parameter groups: weight decay on matrices only, never on norms, biases and embeddings."""
    embeddings = {id(p) for m in model.modules() if type(m).__name__.endswith("Embedding") for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() >= 2 and id(p) not in embeddings]
    kept = {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": optimizer.weight_decay},
        {"params": [p for p in trained if id(p) not in kept], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
