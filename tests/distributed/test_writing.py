"""Under ZeRO-1, 2 and 3, on real ranks, the memory of the engine's host holds the bits of one process, and no rank ever
a whole layer for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed import writing
from tests.distributed.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STARTS = [(1, 2), (2, 2), (3, 2), (3, 4)]
"""(stage of ZeRO, ranks)"""
CASES = [f"{name} in {dtype}" for name in writing.MODELS for dtype in writing.DTYPES]
CASES += [f"{name} apart in {dtype}" for name in writing.BY_ITSELF for dtype in writing.DTYPES]


@pytest.fixture(scope="module", params=STARTS, ids=[f"zero{stage}-{world}-ranks" for stage, world in STARTS])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    stage, world = request.param
    folder = tmp_path_factory.mktemp("written")
    run_ranks(["-m", "tests.distributed.writing", str(stage), str(folder)], world=world, timeout_s=900)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.mark.parametrize("case", CASES)
def test_what_lies_in_the_memory_is_to_the_bit_what_one_process_has(ranks, case: str):
    assert [rank[case] for rank in ranks] == [[]] * len(ranks)


def test_no_rank_holds_more_than_a_twelfth_of_the_model_for_it_and_one_that_gathers_holds_a_quarter(ranks):
    """A rank's pieces are its own shards; beside them lives a block of 65,536 numbers on its way, and its digest's."""
    for peaks in (rank["peaks"] for rank in ranks):
        assert peaks["pieces"] < peaks["all"] / 12
        if "begun" in ranks[0]:
            assert peaks["gathered"] > peaks["all"] / 5


def test_what_an_engine_begins_with_comes_in_pieces_of_a_model_that_was_read_in_shards(ranks):
    assert [rank.get("begun", True) for rank in ranks] == [True] * len(ranks)
