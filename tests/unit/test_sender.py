"""One memory for several engine processes: written once, loaded by each, and an error says which failed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.engines.vllm import process as vllm_process
from alignkit.engines.vllm.engine import VllmEngine
from alignkit.errors import EngineError
from alignkit.weights.sender import Sender
from tests.unit.test_vllm_process import WEIGHTS, FakeEngine

NEW = {"a": torch.tensor([3.0, 4.5]), "b": torch.ones(2, 3)}
Engines = tuple[Sender, VllmEngine, VllmEngine]


@pytest.fixture
def engines(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Iterator[Engines]:
    """Two processes on one sender, of which the second is called as the test's parameter says."""
    monkeypatch.setattr(vllm_process, "find_spec", lambda name: object())
    sender = Sender(tmp_path, "float32", weights=WEIGHTS.items(), adapter={}, lends=False)
    first, second = (
        FakeEngine(tmp_path / name, dtype="float32", max_model_len=16, log_file=tmp_path / f"{name}.log", sender=sender)
        for name in ("first", request.param)
    )
    yield sender, first, second
    for each in (first, second, sender):
        each.close()


def sums(engine: VllmEngine) -> list[float]:
    return [row[0] for row in asyncio.run(engine.score([]))]


@pytest.mark.parametrize("engines", ["second"], indirect=True)
def test_what_is_written_once_every_process_loads_and_the_end_of_one_leaves_the_other(engines: Engines):
    sender, *both = engines
    assert [sums(engine) for engine in both] == [[3.0, 3.0]] * 2
    replies = sender.send(NEW.items(), 5, [engine._call for engine in both])
    assert [reply["version"] for reply in replies] == [5, 5]
    for engine in both:
        engine.policy_version = 5
    assert [sums(engine) for engine in both] == [[7.5, 6.0]] * 2
    both[1].close()
    assert os.fstat(sender.descriptor).st_size > 0
    assert sums(both[0]) == [7.5, 6.0]


@pytest.mark.parametrize("engines", ["dies-when-it-loads"], indirect=True)
def test_a_process_that_dies_while_it_loads_is_named_and_the_memory_stays_whole_for_another(
    engines: Engines, tmp_path: Path
):
    sender, first, second = engines
    with pytest.raises(EngineError, match=r"^process 2 of 2: vllm engine: its process .*SIGKILL; the last lines of"):
        sender.send(NEW.items(), 5, [first._call, second._call])
    first.policy_version = 5
    assert sums(first) == [7.5, 6.0], "the other has loaded what all were told"
    again = FakeEngine(tmp_path / "again", dtype="float32", max_model_len=16, log_file=tmp_path / "log", sender=sender)
    assert sums(again) == [7.5, 6.0], "one that starts in its place begins with the new weights"
    again.close()


@pytest.mark.parametrize("engines", ["second"], indirect=True)
def test_from_an_update_that_broke_off_nothing_is_loaded_until_a_whole_one_has_come(engines: Engines):
    sender, first, second = engines
    calls = [first._call, second._call]
    with pytest.raises(EngineError, match="an update brings c, which the model folder lacks"):
        sender.send([("a", NEW["a"]), ("c", NEW["a"])], 5, calls)
    for load in (sender.told, lambda: sender.announce(5, calls)):
        with pytest.raises(EngineError, match=r"holds parts of different versions \(base\)"):
            load()
    assert [sums(engine) for engine in (first, second)] == [[3.0, 3.0]] * 2, "both serve what they had"
    sender.send(NEW.items(), 6, calls)
    assert sender.told()["memory"] is True
