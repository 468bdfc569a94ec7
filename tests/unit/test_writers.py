"""Ranks that write one memory together: what covers it, what is proven, and what a fault leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alignkit.engines.hf import HfEngine
from alignkit.errors import EngineError, SyncError
from alignkit.models.forward import Forward
from alignkit.models.weights import named_policy_weights
from alignkit.parallel import writers as module
from alignkit.parallel.far_writers import FarWriters
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.parallel.writers import Writers, open_writers, write_together
from alignkit.recipe.schema import Optimizer
from alignkit.train.sync import Sync
from alignkit.weights import host_memory
from alignkit.weights.host_memory import HostMemory, Written, check_cover
from alignkit.weights.piece import Piece
from alignkit.weights.pieces import checkpoint_shapes, pieces
from alignkit.weights.sender import Sender
from alignkit.weights.shared_weights import laid_out
from tests.tiny import causal_lm, on_ranks

WORLD = 3


def sender_of(model: nn.Module, dtype: str = "float32") -> Sender:
    return Sender(Path(), dtype, shapes=checkpoint_shapes(model), adapter={}, lends=False)


def own(model: nn.Module, group: Group) -> Callable[..., Iterator[Piece]]:
    return lambda part: pieces(model, rank=group.rank, world=group.world, part=part)


def write(
    sender: Sender, change: Callable[[Group, Iterator[Piece]], Iterator[Piece]] = lambda _, given: given
) -> list[Any]:
    """All ranks write a model, each what `change` makes of its pieces; what each was told."""

    def work(group: Group, model: nn.Module) -> str:
        writers = Writers.open(group, sender.memory if group.first else None)
        assert writers is not None
        try:
            writers.write(["merged"], lambda part: change(group, own(model, group)(part)), version=7)
        except EngineError as error:
            return str(error)
        return "written"

    return on_ranks(WORLD, work, causal_lm())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_three_ranks_write_what_one_would_and_the_engines_are_told_once_it_is_whole(dtype: str):
    sender = sender_of(causal_lm(), dtype)
    with pytest.raises(EngineError, match=r"holds parts of different versions \(base\), of which no engine may load"):
        sender.told()
    assert write(sender) == ["written"] * WORLD
    told: list[dict[str, Any]] = []
    sender.announce(7, lambda message: told.append(message) or {})
    assert told == [{"do": "update", "version": 7, "base": True}]
    lies = sender.memory.tensors("base")
    wanted = dict(named_policy_weights(causal_lm()))
    assert lies.keys() == wanted.keys()
    assert all(torch.equal(lies[name], weight.to(lies[name].dtype)) for name, weight in wanted.items())
    assert len(sender.told()["table"]["entries"]) == len(wanted)


def test_a_rank_that_leaves_a_piece_out_or_writes_anothers_is_found_by_all():
    def without_first(group: Group, given: Iterator[Piece]) -> Iterator[Piece]:
        if group.rank == 1:
            next(given)
        yield from given

    def one_further(group: Group, given: Iterator[Piece]) -> Iterator[Piece]:
        for piece in given:
            late = group.rank == 1 and piece.name == "model.norm.weight"
            yield Piece(piece.name, piece.begin + late, piece.values)

    sender = sender_of(causal_lm())
    name = "model.embed_tokens.weight"  # 23 words of 32 numbers: 246 a rank
    assert write(sender, without_first) == [f"weights: no rank wrote the numbers 246 to 492 of {name}"] * WORLD
    assert write(sender, one_further) == ["weights: no rank wrote the numbers 11 to 12 of model.norm.weight"] * WORLD
    with pytest.raises(EngineError, match="no engine may load"):
        sender.announce(7, lambda message: {})


def test_a_number_that_another_process_has_written_over_is_found_by_its_digest_and_its_writer_named():
    """Rank 2 writes its own part twice, the second time into rank 0's, without saying so."""

    def over(group: Group, given: Iterator[Piece]) -> Iterator[Piece]:
        yield from given
        group.barrier()
        if group.rank == 2:
            sender.memory.tensors("base")["model.norm.weight"].view(-1)[3] += 1e-6

    sender = sender_of(causal_lm())
    problem = "rank 0: the memory holds otherwise what it wrote of model.norm.weight; no engine was told"
    assert write(sender, over) == [f"weight sync to version 7: {problem}"] * WORLD
    assert sender.memory.torn == {"base"}
    assert write(sender) == ["written"] * WORLD
    assert sender.memory.torn == set()


def test_a_piece_without_a_place_is_refused_on_all_ranks_and_names_the_one_that_brought_it():
    def strange(group: Group, given: Iterator[Piece]) -> Iterator[Piece]:
        if group.rank == 2:
            yield Piece("a stranger", 0, torch.ones(2))
        yield from given

    def long(group: Group, given: Iterator[Piece]) -> Iterator[Piece]:
        yield from given
        if group.rank == 0:
            yield Piece("model.norm.weight", 30, torch.ones(3))

    assert write(sender_of(causal_lm()), strange) == [
        "weight sync to version 7: rank 2: weights: a stranger has no place in the engine's memory; no engine was told"
    ] * WORLD  # fmt: skip
    assert "rank 0: weights: model.norm.weight comes up to its number 33; in the engine's memory it has 32" in write(
        sender_of(causal_lm()), long
    )[1]  # fmt: skip


def test_numbers_that_two_ranks_wrote_are_refused_also_when_they_would_count_up_to_all():
    table = laid_out({"a": (4,), "b": (2,)}, "float32")
    whole = [Written("b", 0, 2, 0)]
    check_cover(table, [[Written("a", 0, 3, 0), *whole], [Written("a", 3, 4, 0)]])
    for twice, message in (
        ([Written("a", 0, 2, 0), Written("a", 1, 3, 0)], "rank 1 wrote numbers of a from 1 on, another up to 2"),
        ([Written("a", 1, 4, 0), Written("a", 1, 2, 0)], "no rank wrote the numbers 0 to 1 of a"),
    ):
        with pytest.raises(EngineError, match=message):
            check_cover(table, [[twice[0], *whole], [twice[1]]])


def test_where_a_rank_cannot_reach_the_memory_all_send_and_where_there_is_none_all_gather(monkeypatch: Any):
    sender = sender_of(causal_lm())
    monkeypatch.setattr(HostMemory, "opened", lambda place: None)

    def kind(group: Group, model: nn.Module) -> type:
        return type(open_writers(group, sender.memory if group.first else None))

    assert on_ranks(WORLD, kind, causal_lm()) == [FarWriters] * WORLD
    assert sender.memory.torn == {"base"}, "nobody wrote yet"
    wrote = on_ranks(WORLD, lambda group, model: write_together(model, group, None, "merged"), causal_lm())
    assert wrote == [False] * WORLD


def test_a_memory_is_found_by_its_place_and_nothing_else_is_taken_for_it(monkeypatch: Any):
    memory, other = sender_of(causal_lm()).memory, sender_of(causal_lm()).memory
    found = HostMemory.opened(memory.place)
    assert found is not None
    found.tensors("base")["model.norm.weight"][0] = 5.0
    assert memory.tensors("base")["model.norm.weight"][0] == 5.0
    assert found.place.file == memory.place.file != other.place.file
    place = memory.place
    memory.close()
    os.dup2(other.descriptor, place.descriptor)  # the number belongs to another file now
    assert HostMemory.opened(place) is None
    os.close(place.descriptor)
    assert HostMemory.opened(place) is None
    monkeypatch.setattr(host_memory, "_kernel", lambda: "of another host")
    assert HostMemory.opened(other.place) is not None
    elsewhere = other.place
    monkeypatch.setattr(host_memory, "_kernel", lambda: "of a third one")
    assert HostMemory.opened(elsewhere) is None


def test_a_failed_connection_names_ranks_that_are_gone_and_else_stays_what_it_was(monkeypatch: Any):
    monkeypatch.setattr(module, "ENDS_WITHIN_S", 0.2)
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitid(os.P_PID, gone, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    writers = Writers(Group(), sender_of(causal_lm()).memory, (os.getpid(), gone))

    def broken(part: str) -> Iterator[Piece]:
        raise RuntimeError("Connection closed by peer")

    with pytest.raises(SyncError, match=rf"to version 4: rank 1 \(process {gone}\) died before all weights were"):
        writers.write(["merged"], broken, version=4)
    os.waitpid(gone, 0)
    alive = Writers(Group(), writers.memory, (os.getpid(),))
    with pytest.raises(RuntimeError, match=r"^Connection closed by peer$"):
        alive.write(["merged"], broken, version=4)


class PiecesEngine(HfEngine):
    """Takes its weights out of a memory that the ranks write."""

    def __init__(self, model: nn.Module, sender: Sender):
        super().__init__(model, dtype="float32")
        self.memory, self._sender, self.loaded = sender.memory, sender, 0

    def load(self, *, version: int) -> None:
        def call(message: dict[str, Any]) -> dict[str, Any]:
            HfEngine.update(self, self.memory.tensors("base").items(), version=version)
            return {}

        self._sender.announce(version, call)
        self.loaded += 1


def test_a_sync_of_several_ranks_has_them_write_and_the_canary_confirms_the_engine_that_loaded():
    sender = sender_of(causal_lm())
    engine = PiecesEngine(causal_lm(seed=2), sender)

    def work(group: Group, model: nn.Module) -> dict[str, Any]:
        trainer: Any = SingleTrainer(model, Optimizer(lr=1e-3))
        trainer.pieces = own(model, group)
        sync = Sync(engine=engine if group.first else None, group=group, probe=[[3, 4, 5, 6], [9, 8]], tolerance=1e-6)
        forward = Forward(model=model, dtype=torch.float32)
        for version in (0, 1):
            with torch.no_grad():
                model.get_parameter("model.norm.weight").mul_(2.0)
            metrics = sync(version, trainer, forward)
        return metrics

    first, *others = on_ranks(2, work, causal_lm())
    assert engine.loaded == 2
    assert engine.policy_version == first["sync/policy_version"] == 1
    assert first["sync/canary_gap"] < 1e-6
    assert others == [{}]
