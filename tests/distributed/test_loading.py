"""Under ZeRO-3 a model is read in shards and its reference lies in shards: fewer bytes, the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from alignkit.models.load import load_policy
from alignkit.parallel.group import Group
from alignkit.recipe.schema import Lora, Model, Scratch
from alignkit.run.train.loader import is_whole, loader
from tests.distributed import loading
from tests.distributed.ranks import run_ranks
from tests.tiny import causal_lm

WORLD = 2
CASES = [f"{name}{lora}" for name in loading.MODELS for lora in ("", ", lora")]
TRAINED = [case for case in CASES if "experts" not in case] + [f"{name}, base in bfloat16" for name in loading.HELD]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("loaded")
    run_ranks(["-m", "tests.distributed.loading", str(folder)], world=WORLD, timeout_s=600)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_is_read_in_shards_and_a_copy_of_it_are_to_the_bit_what_is_read_whole(ranks, case: str):
    for result in ranks:
        assert all(result[case]["same"].values()), result[case]["same"]
        assert all(result[case]["copied"].values()), result[case]["copied"]


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINED)
def test_three_updates_have_the_losses_norms_and_weights_of_a_model_that_was_read_whole(ranks, case: str):
    for result in ranks:
        assert result[case]["rows"] == result[case]["wanted"]
        assert result[case]["trained equal"]


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["peak", "peak of bfloat16"])
def test_while_it_is_read_a_rank_holds_its_half_and_two_tensors(ranks, stored: str):
    """One is read, and the one before may still be on its way to the others."""
    for result in (rank[stored] for rank in ranks):
        largest, buffers = 64 * 96 * 4, 1000
        assert result["whole"] >= result["weights"]
        assert result["weights"] / WORLD < result["cut"] <= result["weights"] / WORLD + 2 * largest + buffers


@pytest.mark.slow
def test_a_weight_that_is_set_is_the_first_ranks_on_all(ranks):
    assert [rank["set"] for rank in ranks] == [7.0, 7.0]


@pytest.mark.slow
def test_a_number_that_is_not_finite_is_found_on_every_rank(ranks):
    for rank in ranks:
        assert "up_proj.weight holds numbers that are not finite" in rank["damaged"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_a_reference_in_shards_says_to_the_bit_what_it_says_whole(ranks, case: str, dtype: torch.dtype):
    name, _, lora = case.partition(",")
    for said in (rank[f"said by {name} in {dtype}{',' if lora else ''}{lora}"] for rank in ranks):
        assert said["equal"]
        assert said["in float32"]
        assert said["same print"]
        assert said["left"] == 0, "nothing is whole any more when it has been said"
        assert ("torch.bfloat16" in said["held"]) == (dtype == torch.bfloat16)


@pytest.mark.slow
def test_of_a_reference_in_shards_a_layer_and_the_head_are_whole_at_a_time(ranks):
    for said in (rank["said by large"] for rank in ranks):
        assert said["equal"]
        assert 0 < said["most"] < said["all"] / 10


@pytest.mark.slow
def test_a_model_that_is_cut_after_it_was_whole_says_the_same_bits_adapters_on_embedding_and_head_included(ranks):
    for rank in ranks:
        assert rank["cut afterwards"] == {"equal": True, "left": (0, 0)}


def test_what_needs_whole_weights_at_the_start_has_them(tmp_path: Path):
    get_peft_model(causal_lm(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    causal_lm().save_pretrained(tmp_path / "model")
    path, scratch = str(tmp_path / "model"), Scratch(hidden=32, heads=2)
    whole = [
        Model(scratch=scratch),
        Model(path=str(tmp_path / "adapter")),
        Model(path=path, lora=Lora(dora=True)),
        Model(path=path, lora=Lora(modules_to_save=("lm_head",))),
    ]
    assert [is_whole(model, None) for model in whole] == [True] * 4
    assert [is_whole(model, None) for model in (Model(path=path), Model(path=path, lora=Lora()))] == [False] * 2
    assert loader(Group()) is load_policy
