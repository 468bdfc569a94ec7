"""ZeRO-1, ZeRO-2 and ZeRO-3 on two real processes over gloo do what one process does, resume included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignkit.errors import RecipeError
from alignkit.models.weights import named_policy_weights
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.parallel.zero import _settings
from tests.distributed import steps
from tests.distributed.ranks import run_ranks

WORLD = 2
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=[1, 2, 3], ids=["zero1", "zero2", "zero3"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """The results of every case on every rank, and the folder with their checkpoints."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(["-m", "tests.distributed.steps", str(request.param), str(folder)], world=WORLD, timeout_s=600)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(WORLD)], folder


def assert_same(got: dict[str, Any], wanted: dict[str, Any], *, tolerance: float) -> None:
    """Losses, gradient norms and mean log-probs within a tolerance, weights within what Adam makes of it."""
    torch.testing.assert_close(torch.tensor(got["rows"]), torch.tensor(wanted["rows"]), rtol=tolerance, atol=tolerance)
    assert got["weights"].keys() == wanted["weights"].keys()
    for name, weight in wanted["weights"].items():
        torch.testing.assert_close(got["weights"][name], weight, rtol=0, atol=10 * tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("model", steps.MODELS)
def test_losses_gradient_norms_and_weights_equal_those_of_one_process(ranks, model: str, tmp_path: Path):
    results, _ = ranks
    expected = steps.alone(tmp_path, f"train {model}")
    assert_same(results[0][f"train {model}"], expected, tolerance=1e-6)
    assert results[0][f"train {model}"]["fast"] == (model != "unpacked")


@pytest.mark.slow
def test_a_forward_that_reads_the_reference_too_does_what_one_process_does(ranks, tmp_path: Path):
    expected = steps.alone(tmp_path, "train beside reference")
    assert expected["rows"][0][2] > 0.1
    assert_same(ranks[0][0]["train beside reference"], expected, tolerance=5e-6)  # a group's losses are differences


@pytest.mark.slow
def test_an_adapter_that_is_switched_off_for_the_reference_does_what_it_does_in_one_process(ranks, tmp_path: Path):
    expected = steps.alone(tmp_path, "train beside itself")
    assert_same(ranks[0][0]["train beside itself"], expected, tolerance=5e-6)
    assert len({row[2] for row in expected["rows"]}) == 3


@pytest.mark.slow
def test_every_rank_ends_with_the_same_weights(ranks):
    (first, second), _ = ranks
    for model in steps.MODELS:
        for name, weight in first[f"train {model}"]["weights"].items():
            assert torch.equal(weight, second[f"train {model}"]["weights"][name])


@pytest.mark.slow
def test_gradients_are_not_clipped_without_max_grad_norm(ranks, tmp_path: Path):
    expected = steps.alone(tmp_path, "train unclipped")
    assert_same(ranks[0][0]["train unclipped"], expected, tolerance=1e-6)
    clipped = steps.alone(tmp_path, "train untied head")
    assert clipped["rows"][:3] != expected["rows"], "the clip must matter in these tests"


@pytest.mark.slow
def test_bfloat16_arithmetic_keeps_float32_weights_and_the_losses_of_one_process(ranks, tmp_path: Path):
    results, _ = ranks
    assert results[0]["train bfloat16"]["dtypes"] == {torch.float32}
    got, expected = results[0]["train bfloat16"]["rows"], steps.alone(tmp_path, "train bfloat16")["rows"]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=2e-2, atol=2e-2)
    exact = steps.alone(tmp_path, "train untied head")["rows"][:3]
    assert abs(got[0][0] - exact[0][0]) > 1e-5, "bfloat16 must have been used"


@pytest.mark.slow
def test_gradients_sent_in_bfloat16_change_losses_and_norms_by_less_than_their_rounding(ranks):
    """Rounding a gradient to 8 bits changes it by up to 2^-8; the first loss knows no gradient yet."""
    results, _ = ranks
    sent, whole = results[0]["sent in bfloat16"], results[0]["train bfloat16"]
    assert sent["dtypes"] == {torch.float32}
    assert sent["rows"][0][0] == whole["rows"][0][0]
    assert sent["rows"][0][1] != whole["rows"][0][1], "it must have been used"
    torch.testing.assert_close(torch.tensor(sent["rows"]), torch.tensor(whole["rows"]), rtol=2**-8, atol=0)
    for name, weight in whole["weights"].items():
        torch.testing.assert_close(sent["weights"][name], weight, rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", steps.HELD)
def test_an_adapters_base_in_bfloat16_trains_to_the_bit_as_in_float32_and_takes_half_the_bytes(
    ranks, kind: str, tmp_path: Path
):
    for result in (rank[f"train held {kind}"] for rank in ranks[0]):
        held, wide = result["held"], result["float32"]
        assert held["rows"] == wide["rows"]
        assert "torch.bfloat16" in result["frozen"]
        assert held["bytes"] < 0.75 * wide["bytes"], "norms, embedding and adapter stay float32"
        assert wide["fast"]
        assert held["fast"]
    alone = steps.alone(tmp_path, f"train held {kind}")
    got = ranks[0][0][f"train held {kind}"]["held"]
    torch.testing.assert_close(torch.tensor(got["rows"]), torch.tensor(alone["held"]["rows"]), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(got["said"], alone["held"]["said"], rtol=2e-2, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("model", steps.RESUMED)
def test_a_resumed_trainer_goes_on_bit_for_bit(ranks, model: str):
    for result in ranks[0]:
        straight, resumed = result[f"resume {model}"]["straight"], result[f"resume {model}"]["resumed"]
        assert straight["rows"] == resumed["rows"]
        for name, weight in straight["weights"].items():
            assert torch.equal(weight, resumed["weights"][name]), name


@pytest.mark.slow
def test_one_process_goes_on_from_a_sharded_checkpoint(ranks):
    results, folder = ranks
    trainer = SingleTrainer(steps.MODELS["lora"](), steps.OPTIMIZER)
    trainer.load(folder / "checkpoint of lora")
    got = steps.updates(trainer, Group(), range(3, 6))
    assert_same(got, results[0]["resume lora"]["straight"], tolerance=1e-6)


@pytest.mark.slow
def test_a_full_disk_on_one_rank_costs_the_checkpoint_on_all_and_nothing_else(ranks, tmp_path: Path):
    for result in [*(rank["full disk"] for rank in ranks[0]), steps.alone(tmp_path, "full disk")]:
        assert "could not be written (File too large" in result["message"]
        assert result["left"] == ["step-000001"]
    assert_same(ranks[0][0]["full disk"], steps.alone(tmp_path, "full disk"), tolerance=1e-6)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_on_one_rank_stops_all_and_changes_no_weight(ranks):
    for result in ranks[0]:
        outcome = result["survive nan"]
        assert "no weight was changed" in outcome["error"]
        assert all(torch.equal(weight, outcome["after"][name]) for name, weight in outcome["before"].items())


@pytest.mark.slow
def test_zero3_holds_no_whole_weight_once_all_have_been_read(ranks, request: pytest.FixtureRequest):
    held = ranks[0][0]["held after reading"]
    if request.node.callspec.params["ranks"] < 3:
        pytest.skip("ZeRO-1 and ZeRO-2 hold all weights whole, always")
    assert held["all"] > 0
    assert held["whole"] == 0


@pytest.mark.slow
def test_weights_are_handed_over_whole_and_one_at_a_time(ranks, request: pytest.FixtureRequest):
    for result in (rank["handed over"] for rank in ranks[0]):
        assert result["given"].keys() == result["read"].keys()
        assert all(torch.equal(weight, result["given"][name]) for name, weight in result["read"].items())
        if request.node.callspec.params["ranks"] == 3:
            assert result["whole"] == max(weight.numel() for weight in result["given"].values())


@pytest.mark.slow
def test_the_first_rank_stores_the_weights_while_one_layer_at_a_time_is_whole(ranks, request: pytest.FixtureRequest):
    results, folder = ranks
    for result in (rank["saved"] for rank in results):
        assert result["files"] > 3
        for stored, read in (("stored", "read"), ("beside", "adapter")):
            assert result[stored].keys() == result[read].keys()
            assert all(torch.equal(weight, result[stored][name]) for name, weight in result[read].items())
        if request.node.callspec.params["ranks"] == 3:
            numbers = sum(p.numel() for p in steps.MODELS["lora"]().parameters())
            assert 0 < result["most"] < numbers / 2
    trained = AutoModelForCausalLM.from_pretrained(folder / "saved by 2")
    assert all(torch.equal(tensor, results[0]["saved"]["read"][name]) for name, tensor in named_policy_weights(trained))


@pytest.mark.parametrize(
    ("sharding", "message"),
    [
        ({"zero_optimization": {"stage": 0}}, "stage of its DeepSpeed file is 0, wanted 1, 2 or 3"),
        ({}, "is None, wanted 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "sets bf16"),
        ({"zero_optimization": {"stage": 3}, "optimizer": {}, "gradient_clipping": 1}, "gradient_clipping, optimizer"),
        ({"zero_optimization": {"stage": 3}, "communication_data_type": "bf16"}, "is bf16, which rounds .* float32"),
        ({"zero_optimization": {"stage": 2}, "communication_data_type": "fp16"}, "is fp16, which rounds"),
    ],
)
def test_a_launch_profile_that_decides_more_than_the_sharding_is_refused(sharding: dict, message: str):
    with pytest.raises(RecipeError, match=message):
        _settings(sharding, steps.OPTIMIZER, Group(0, 2))
