"""What a rank does in test_dying.py: `python -m tests.distributed.dying FOLDER`, one process per rank.

Two ranks bring an engine process to version 1; the second is killed in the middle of writing version 2.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from alignkit.engines.vllm import process as vllm_process
from alignkit.errors import EngineError
from alignkit.models.weights import Part, named_policy_weights
from alignkit.parallel.group import join_group
from alignkit.parallel.writers import Writers, write_together
from alignkit.weights.piece import Piece
from alignkit.weights.pieces import checkpoint_shapes, pieces
from alignkit.weights.sender import Sender
from tests.tiny import causal_lm
from tests.unit.test_vllm_process import FakeEngine

PIECES = 5
"""Of version 2, before the second rank ends."""


def main(folder: Path) -> None:
    group, model = join_group(), causal_lm(seed=1)
    (folder / f"process-{group.rank}").write_text(str(os.getpid()))
    sender = (
        Sender(folder, "float32", shapes=checkpoint_shapes(model), adapter={}, lends=False) if group.first else None
    )
    write_together(model, group, sender.memory if sender else None, "merged")
    engine = start(folder, sender) if sender else None
    writers = Writers.open(group, engine.memory if engine else None)
    assert writers is not None

    def own(part: Part) -> Iterator[Piece]:
        for number, piece in enumerate(pieces(model, rank=group.rank, world=group.world, part=part)):
            if dying and number == PIECES and not group.first:
                os.kill(os.getpid(), signal.SIGKILL)
            yield piece

    said: dict[str, Any] = {}
    dying = False
    change(model)
    writers.write(["merged"], own, version=1)
    if engine is not None:
        engine.load(version=1)
        said["one"] = sums(model)
    dying = True
    change(model)
    try:
        writers.write(["merged"], own, version=2)
    except EngineError as error:
        said["error"] = str(error)
    assert engine is not None
    said |= {"serves": engine.policy_version, "scores": scores(engine)}
    try:
        engine.load(version=2)
    except EngineError as error:
        said["torn"] = str(error)
    engine.update(named_policy_weights(model), version=3)
    said |= {"three": sums(model), "after": scores(engine), "version": engine.policy_version}
    engine.close()
    torch.save(said, folder / "said.pt")


def start(folder: Path, sender: Sender) -> FakeEngine:
    with mock.patch.object(vllm_process, "find_spec"):
        return FakeEngine(folder, dtype="float32", max_model_len=16, log_file=folder / "log", sender=sender)


def change(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)


def scores(engine: FakeEngine) -> list[float]:
    """The sums of the tensors that the engine has loaded."""
    return [row[0] for row in asyncio.run(engine.score([]))]


def sums(model: torch.nn.Module) -> list[float]:
    weights = dict(named_policy_weights(model))
    return [weights[name].double().sum().item() for name in sorted(weights)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
