"""One memory for the processes of a fleet: written once, loaded by each, and an error says which failed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.engines.fleet import Fleet
from alignkit.engines.vllm import process as vllm_process
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.engines.vllm.host import Host
from alignkit.errors import EngineError
from alignkit.weights.sender import Sender
from tests.unit.test_vllm_process import WEIGHTS, FakeEngine

NEW = {"a": torch.tensor([3.0, 4.5]), "b": torch.ones(2, 3)}
Started = tuple[Fleet, Sender, VllmEngine, VllmEngine]


@pytest.fixture
def started(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Iterator[Started]:
    """Two processes on one sender, of which the second's folder is called as the test's parameter says."""
    monkeypatch.setattr(vllm_process, "find_spec", lambda name: object())
    sender = Sender(tmp_path, "float32", weights=WEIGHTS.items(), adapter={}, lends=False)
    engines = [begun(tmp_path / folder, sender, number) for number, folder in enumerate(("first", request.param), 1)]
    fleet = Fleet(Host(engines), sender)
    yield fleet, sender, *engines
    fleet.close()


def begun(folder: Path, sender: Sender, number: int) -> VllmEngine:
    log, name = folder.with_suffix(".log"), f"replica {number}"
    return FakeEngine(folder, dtype="float32", max_model_len=16, log_file=log, sender=sender, name=name)


def sums(engine: VllmEngine) -> list[float]:
    return [row[0] for row in asyncio.run(engine.score([]))]


@pytest.mark.parametrize("started", ["second"], indirect=True)
def test_what_is_written_once_every_process_loads_and_the_end_of_one_leaves_the_other(started: Started):
    fleet, sender, *both = started
    assert [sums(engine) for engine in both] == [[3.0, 3.0]] * 2
    fleet.update(NEW.items(), version=5)
    assert [engine.policy_version for engine in both] == [5, 5]
    assert [sums(engine) for engine in both] == [[7.5, 6.0]] * 2
    both[1].close()
    assert os.fstat(sender.descriptor).st_size > 0
    assert sums(both[0]) == [7.5, 6.0]


@pytest.mark.parametrize("started", ["dies-when-it-loads"], indirect=True)
def test_a_process_that_dies_while_it_loads_is_named_and_the_memory_stays_whole_for_another(
    started: Started, tmp_path: Path
):
    fleet, sender, first, _ = started
    with pytest.raises(EngineError, match=r"^replica 2 of 2: vllm engine: its process .*SIGKILL; the last lines of"):
        fleet.update(NEW.items(), version=5)
    assert first.closed
    again = begun(tmp_path / "again", sender, 3)
    assert sums(again) == [7.5, 6.0], "one that starts in its place begins with the new weights"
    again.close()


@pytest.mark.parametrize("started", ["second"], indirect=True)
def test_from_an_update_that_broke_off_nothing_is_loaded_until_a_whole_one_has_come(started: Started):
    fleet, sender, *both = started
    with pytest.raises(EngineError, match="an update brings c, which the model folder lacks"):
        fleet.update([("a", NEW["a"]), ("c", NEW["a"])], version=5)
    for load in (sender.told, lambda: fleet.load(version=5)):
        with pytest.raises(EngineError, match=r"holds parts of different versions \(base\)"):
            load()
    assert [sums(engine) for engine in both] == [[3.0, 3.0]] * 2, "both serve what they had"
    fleet.update(NEW.items(), version=6)
    assert [sums(engine) for engine in both] == [[7.5, 6.0]] * 2
    assert sender.told()["memory"] is True
