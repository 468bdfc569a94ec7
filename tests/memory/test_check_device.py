"""`alignkit check RECIPE --device` from the command line to its exit code: what it prints, and whether it is so."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from alignkit.cli.main import build
from alignkit.errors import AlignkitError
from alignkit.recipe.schema import Recipe
from alignkit.run.memory import cures, need
from alignkit.run.memory.measure import Counted, count_stage
from tests.memory.recipes import DPO, GRPO, PPO, numbers, write

MATRICES, SCALES = numbers()
ROOMY, NARROW = "6GB", "7GB"
CRITIC = MATRICES + SCALES  # its head says a number for each token instead of words


def asked(*arguments: object) -> Result:
    return CliRunner().invoke(build(), ["check", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module", autouse=True)
def _each_recipe_is_counted_once() -> Generator[None]:
    """Counting takes seconds; what the command makes of the count is done each time."""
    known: dict[tuple, Counted] = {}

    def remembered(recipe: Recipe, number: int) -> Counted:
        key = (recipe.model_dump_json(exclude={"file"}), number)
        if key not in known:
            known[key] = count_stage(recipe, number)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (need, cures):
            patch.setattr(module, "count_stage", remembered)
        yield


def said(*arguments: object) -> dict:
    result = asked(*arguments, "--json")
    value = json.loads(result.stdout)
    assert result.exit_code == (0 if value["ok"] else 1)
    return value


def test_a_recipe_that_fits_is_a_table_of_phases_and_roles_the_peak_and_exit_code_0(tmp_path):
    result = asked(write(tmp_path, GRPO), "--device", ROOMY)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "stage main, GB on the device that needs the most"
    heads = next(line for line in lines if line.split()[:1] == ["phase"])
    roles = ["phase", "weights", "gradients", "optimizer", "activations", "reference"]
    assert [role for role in roles if role in heads] == roles
    rows = [line.split() for line in lines]
    phases = ["start", "sync", "verify", "annotate", "update", "optimizer", "save", "sample"]
    totals = {row[0]: row[-1] for row in rows if row[0:1] and row[0] in phases and row[1:2] != ["needs"]}
    assert list(totals) == phases
    most = max(phases, key=lambda phase: float(totals[phase]))
    assert lines[-1].strip() == f"{most} needs the most, {totals[most]} GB of 6.0: it fits"


def test_as_json_every_number_of_the_table_is_there_and_sums_up(tmp_path):
    value = said(write(tmp_path, GRPO), "--device", f"{ROOMY}x1")
    assert set(value) == {"ok", "recipe", "device", "sharding", "stages", "cures"}
    assert value["device"] == {"name": "6gb", "size": 6 * 10**9, "count": 1}
    assert (value["sharding"]["stage"], value["sharding"]["world"], value["cures"]) == (0, 1, [])
    [stage] = value["stages"]
    assert set(stage) == {
        "stage", "device_bytes", "peak", "peak_bytes", "fits", "engine_fits", "phases", "notes"
    }  # fmt: skip
    assert (stage["stage"], stage["device_bytes"], stage["fits"]) == ("main", 6 * 10**9, True)
    for held in stage["phases"].values():
        assert held["total"] == sum(size for role, size in held.items() if role != "total")
    assert stage["peak_bytes"] == stage["phases"][stage["peak"]]["total"]
    assert stage["peak_bytes"] == max(held["total"] for held in stage["phases"].values())
    update, trained = stage["phases"]["update"], 4 * (MATRICES + SCALES)
    assert (update["weights"], update["gradients"]) == (pytest.approx(trained, rel=1e-3), trained)
    assert update["optimizer"] == pytest.approx(2 * trained, rel=1e-3)
    assert need.CONTEXT < update["overhead"] < 1.1 * need.CONTEXT


@pytest.mark.parametrize(
    ("algorithm", "dtype", "roles"),
    [
        (GRPO, "float32", {"reference": 4 * (MATRICES + SCALES)}),
        (DPO, "bfloat16", {"reference": 2 * MATRICES + 4 * SCALES}),
        pytest.param(
            PPO, "float32", {"reference": 4 * (MATRICES + SCALES), "critic": 4 * CRITIC}, marks=pytest.mark.slow
        ),
    ],
    ids=["grpo", "dpo in bfloat16", "ppo"],
)
def test_a_reference_and_a_critic_take_the_bytes_of_their_parameters(algorithm, dtype, roles, tmp_path):
    [stage] = said(write(tmp_path, algorithm, dtype=dtype), "--device", ROOMY)["stages"]
    update = stage["phases"]["update"]
    assert {role: update.get(role, 0) for role in ("reference", "critic")} == {
        "reference": pytest.approx(roles["reference"], rel=2e-3),
        "critic": pytest.approx(roles.get("critic", 0), rel=2e-3),  # whose head says one number, a token's value
    }
    moments = 8 * (MATRICES + SCALES + (CRITIC if "critic" in roles else 0))
    assert update["optimizer"] == pytest.approx(moments, rel=2e-3)


def test_pairs_with_an_adapter_hold_one_model_which_is_its_own_reference(tmp_path):
    recipe = write(tmp_path, DPO, dtype="bfloat16")
    recipe.write_text(recipe.read_text().replace("model:\n", "model:\n  lora: {rank: 2}\n"))
    [stage] = said(recipe, "--device", ROOMY)["stages"]
    update = stage["phases"]["update"]
    assert "reference" not in update
    assert update["optimizer"] < 0.01 * 8 * MATRICES


@pytest.mark.slow
def test_one_that_does_not_fit_exits_with_1_and_every_cure_that_fits_does_so_when_it_is_written_down(tmp_path):
    recipe = write(tmp_path, GRPO)
    own = ["train.recompute=false", "engine.sleep=false", "train.micro_batch_tokens=16384", "rollouts.prompts=48"]
    own.append("model.scratch.hidden=2048")
    value = said(recipe, *own, "--device", NARROW)
    assert not value["ok"]
    changes = {cure["change"]: cure for cure in value["cures"]}
    assert {"train.recompute=true", "engine.sleep=true", "model.lora.rank=16", "--launch zero3 on 8 devices"} <= set(
        changes
    )
    assert {cure["fits"] for cure in value["cures"]} == {True, False}
    for change, cure in changes.items():
        if change.startswith("--launch"):
            _, launch, _, count, _ = change.split()
            again = said(recipe, *own, "--device", f"{NARROW}x{count}", "--launch", launch)
        else:
            again = said(recipe, *own, *change.split(), "--device", NARROW)
        assert (again["ok"], max(stage["peak_bytes"] for stage in again["stages"])) == (cure["fits"], cure["bytes"])
    printed = asked(recipe, *own, "--device", NARROW)
    assert printed.exit_code == 1
    assert "it does not fit" in printed.stdout
    for cure in value["cures"]:
        fits = "fits" if cure["fits"] else "does not fit"
        assert f"  {cure['change']}: {cure['bytes'] / 1e9:.1f} GB, {fits}" in printed.stdout


@pytest.mark.slow
def test_an_engine_whose_share_holds_no_sequence_is_given_a_larger_one(tmp_path):
    recipe = write(tmp_path, GRPO)
    value = said(recipe, "rollouts.gpu_memory_fraction=0.3", "--device", ROOMY)
    assert [stage["engine_fits"] for stage in value["stages"]] == [False]
    [cure] = [cure for cure in value["cures"] if cure["change"].startswith("rollouts.gpu_memory_fraction=")]
    assert cure["fits"]
    assert said(recipe, cure["change"], "--device", ROOMY)["ok"]


@pytest.mark.slow
def test_a_named_card_times_eight_is_eight_of_them_for_a_launch_profile(tmp_path):
    value = said(write(tmp_path, GRPO), "--device", "h100x8", "--launch", "zero2")
    assert value["device"] == {"name": "h100", "size": round(79.2 * 2**30), "count": 8}
    assert (value["sharding"]["stage"], value["sharding"]["world"]) == (2, 8)
    trained = MATRICES + SCALES
    assert value["stages"][0]["phases"]["optimizer"]["optimizer"] == 12 * trained // 8


@pytest.mark.parametrize("device", ["h1000", "80", "x8", "80MB", "-4GB"])
def test_a_device_that_nobody_knows_is_one_line_with_those_that_are_known(device, tmp_path):
    with pytest.raises(AlignkitError) as refused:
        asked(write(tmp_path, GRPO), f"--device={device}")
    assert str(refused.value).startswith(f"--device '{device}': wanted a size (80GB, 24GiB) or one of t4, rtx3090")
    assert "\n" not in str(refused.value)


def test_a_profile_of_a_process_for_each_device_asks_how_many_there_are(tmp_path):
    with pytest.raises(AlignkitError, match="launch profile 'zero3' has a process for each: say x8"):
        asked(write(tmp_path, GRPO), "--device", "h100", "--launch", "zero3")


def sleeping(folder: Path, *own: str) -> dict:
    [stage] = said(write(folder, GRPO), *own, "--device", ROOMY)["stages"]
    return stage["phases"]


@pytest.mark.slow
def test_a_sleeping_engine_is_there_for_the_sync_and_the_sampling_only(tmp_path):
    asleep, awake = sleeping(tmp_path), sleeping(tmp_path, "engine.sleep=false")
    roles = ("engine weights", "engine cache")
    weights = 4 * (MATRICES + SCALES)  # the recipe's dtype is float32
    assert {phase: [held.get(role, 0) for role in roles] for phase, held in asleep.items()} == {
        "start": [0, 0], "sync": [weights, 0], "verify": [0, 0], "annotate": [0, 0], "update": [0, 0],
        "optimizer": [0, 0], "save": [0, 0], "sample": [weights, 3 * 10**9 - weights],
    }  # fmt: skip
    assert all(held["engine cache"] == 3 * 10**9 - weights for phase, held in awake.items() if phase != "start")
    assert awake["update"]["total"] - asleep["update"]["total"] == 3 * 10**9 - asleep["update"]["engine process"]


@pytest.mark.slow
def test_weights_that_are_lent_are_a_copy_on_the_card_and_those_through_the_host_are_not(tmp_path):
    lent, copied = sleeping(tmp_path)["sync"], sleeping(tmp_path, "engine.transport=host")["sync"]
    assert lent["lent weights"] == 4 * (MATRICES + SCALES)
    assert "lent weights" not in copied
