"""Ranks that do not reach the memory of the engine's host send the first one their own pieces: no rank gathers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.far import MODELS
from tests.distributed.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WORLD = 3


def found(folder: Path, what: str) -> list[dict[str, Any]]:
    run_ranks(["-m", "tests.distributed.far", str(folder), what], world=WORLD, timeout_s=500)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_the_memory_holds_the_bits_of_the_model_and_no_rank_held_more_than_its_pieces_twice(tmp_path):
    ranks = found(tmp_path, "all")
    for name in MODELS:
        for told in (rank[name] for rank in ranks):
            assert told["began"]
            assert told["odd"] == []
            assert told["torn"] == []
            assert told["peak"] < 0.8 * told["all"]


def test_a_rank_that_dies_while_it_sends_is_named_and_the_memory_stays_torn(tmp_path):
    first, second, _ = found(tmp_path, "die")
    assert "rank 2 (process 2 on" in first["error"]
    assert "rank 2 (process 2 on" in second["error"]
    assert "was lost while version 2 was on its way" in first["error"]
    assert first["torn"] == ["base"]
