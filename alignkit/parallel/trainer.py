"""The protocol of whatever owns the trained weights, their gradients and the optimizer's state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from alignkit.errors import CheckpointError
from alignkit.models.weights import Part, whole_shape
from alignkit.types.files import save_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alignkit.parallel.group import Group
    from alignkit.recipe.schema import Optimizer
    from alignkit.types.batch import Batch
    from alignkit.types.outputs import Outputs
    from alignkit.weights.piece import Piece

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

    def weights(self, part: Part = "merged") -> Iterator[tuple[str, Tensor]]:
        """(checkpoint name, full tensor) of every weight of that part; every rank must run it to the end."""
        ...

    def pieces(self, part: Part = "merged") -> Iterator[Piece]:
        """This rank's own ranges of the same weights, without a weight being made whole; every rank must run it to the
        end. Each number of each weight comes from exactly one rank."""
        ...

    def save(self, folder: Path) -> None:
        """Writes weights and optimizer state into an existing folder; every rank must call it."""
        ...

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, bit for bit; raises CheckpointError when it does not fit."""
        ...

    def finish(self) -> None:
        """Lets go of the optimizer's state and of what is gathered: weights will be read, and not trained again."""
        ...

    def hand_over(self) -> Iterator[tuple[str, Tensor]]:
        """(parameter name, whole weight) of all that was trained, each valid until the next; then ends this trainer.

        Every rank must run it to the end.
        """
        ...


class Stored:
    """One tensor in a checkpoint's file, read when it is called."""

    def __init__(self, path: Path, name: str, file: Any):
        self.path, self.name, self._file = path, name, file

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._file.get_slice(self.name).get_shape())

    def __call__(self) -> Tensor:
        """The tensor; raises CheckpointError when a number in it is none."""
        tensor = self._file.get_tensor(self.name)
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{self.path}: {self.name} holds a number that is not finite, from which nothing can go on; move the "
                "checkpoint away to go on from the one before"
            )
        return tensor


def store_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file; raises OSError when the disk refuses it, as for any other file."""
    save_tensors(tensors, path)


def stored_tensors(folder: Path, kind: str) -> dict[str, Stored]:
    """A reader of each tensor in a checkpoint's `kind*.safetensors`, by name, however many ranks wrote these files.

    Raises CheckpointError that names a file which is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    readers: dict[str, Stored] = {}
    for path in sorted(folder.glob(f"{kind}*.safetensors")):
        try:
            file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}); move the checkpoint away to go on from the one before"
            ) from error
        readers |= {name: Stored(path, name, file) for name in file.keys()}  # noqa: SIM118  it is no mapping
    return readers


def writers_of(parameters: Mapping[str, Tensor], group: Group) -> dict[str, int]:
    """The rank that writes each parameter into a checkpoint: about equally many numbers each, in the order given."""
    shares, writers = [0] * group.world, {}
    for name, parameter in parameters.items():
        writers[name] = shares.index(min(shares))
        shares[writers[name]] += math.prod(whole_shape(parameter))
    return writers


def check_names(readers: Mapping[str, Stored], trained: Mapping[str, Tensor], folder: Path) -> None:
    """Raises CheckpointError unless the checkpoint holds exactly the trained weights, in their shapes."""
    if readers.keys() != trained.keys():
        odd = sorted(readers.keys() ^ trained.keys())[:3]
        raise CheckpointError(f"{folder}: its weights are not this model's, e.g. {', '.join(odd)}")
    for name, stored in readers.items():
        wanted = whole_shape(trained[name])
        if stored.shape != wanted:
            raise CheckpointError(
                f"{stored.path}: {name} has the shape {list(stored.shape)}, this model's has {list(wanted)}; resume "
                "with the model it was made with, or move the checkpoint away to go on from the one before"
            )


def parameter_groups(model: nn.Module, optimizer: Optimizer) -> list[dict]:
    """AdamW's parameter groups: weight decay on matrices only, never on norms, biases and embeddings."""
    embeddings = {id(p) for m in model.modules() if type(m).__name__.endswith("Embedding") for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if len(whole_shape(p)) >= 2 and id(p) not in embeddings]
    kept = {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": optimizer.weight_decay},
        {"params": [p for p in trained if id(p) not in kept], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
