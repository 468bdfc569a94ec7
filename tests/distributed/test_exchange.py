"""Weights moved by a plan between four real processes over gloo, and one of them that dies meanwhile."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.exchange import BUCKET, MODEL
from tests.distributed.ranks import run_ranks


def found(folder: Path, what: str) -> list[dict[Any, Any]]:
    run_ranks(["-m", "tests.distributed.exchange", str(folder), what], world=4, timeout_s=240)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(4)]


@pytest.mark.slow
def test_workers_get_the_bits_of_slices_from_every_stage_of_zero_in_the_memory_of_two_buckets(tmp_path):
    ranks = found(tmp_path, "all")
    for stage in range(4):
        for rank, told in enumerate(ranks):
            assert told[stage]["equal"], (stage, rank)
            assert told[stage]["version"] == 2
            assert told[stage]["boxes"] == (len(MODEL.shapes) if rank >= 2 else 0)
            assert max(told[stage]["peaks"]) <= 2 * 2 * BUCKET, "bytes: two buckets of bfloat16"
    assert sum(map(prod, MODEL.shapes.values())) > 10 * BUCKET


@pytest.mark.slow
def test_a_rank_that_dies_in_the_middle_is_named_by_all_and_no_mix_is_used(tmp_path):
    ranks = found(tmp_path, "die")
    for told in (ranks[0], ranks[2], ranks[3]):
        first, again = told["errors"]
        assert first.startswith("weights: rank 1 (process 1 on two) was lost while version 2 was on its way")
        assert "engines keep the version that they have" in first
        assert "this exchange was closed by an error" in again
        assert told["version"] is None
    assert min(*ranks[2]["mix"], *ranks[3]["mix"]) > BUCKET // 2, "both workers hold numbers of both versions"
