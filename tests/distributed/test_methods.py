"""Every method on two real processes under ZeRO-3, and some under ZeRO-2, has the losses and norms of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.recipe.lookup.find import list_content
from tests.distributed import methods
from tests.distributed.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4000)]
STAGES = {"zero2": 2, "zero3": 3}
NAMES = tuple(methods.recipes(Path()))
# which cuts no weights: what differs from one process does so for all methods of a kind
FEW = ("sft", "dpo", "tdpo", "grpo", "ppo", "ppo_lagrangian", "turns-archer", "reward-bradley-terry")
CASES = [("zero3", name) for name in NAMES] + [("zero2", name) for name in FEW]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """trained("one" | "zero2" | "zero3"): the folder with the methods' runs, all of them in one start."""
    done: dict[str, Path] = {}

    def train(how: str) -> Path:
        if how not in done:
            folder, stage = tmp_path_factory.mktemp(how), STAGES.get(how, 0)
            methods.prepare(folder)
            sharding = {"zero_optimization": {"stage": stage, **methods.SHARDING}}
            (folder / "deepspeed.json").write_text(json.dumps(sharding))
            world, only = 2 if stage else 1, FEW if how == "zero2" else ()
            run_ranks(["-m", "tests.distributed.methods", str(stage), str(folder), *only], world=world, timeout_s=1700)
            done[how] = folder / "runs"
        return done[how]

    return train


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_no_algorithm_is_left_out():
    trained = {stage.algorithm["type"] for recipe in methods.recipes(Path()).values() for stage in recipe.stages}
    assert trained == {found.name for found in list_content("algorithms")}


@pytest.mark.parametrize(("how", "name"), CASES)
def test_a_method_has_the_losses_gradient_norms_and_samples_of_one_process(trained, how: str, name: str):
    one, several = trained("one") / name, trained(how) / name
    assert len(rows(one)) == len(rows(several)) > 0
    assert any(row.get("optim/grad_norm", 0) > 1e-3 for row in rows(one)[-methods.STEPS :]), "it must learn something"
    for expected, got in zip(rows(one), rows(several), strict=True):
        watched = [key for key in expected if key.startswith(("loss/", "critic/", "optim/"))]
        assert watched
        for key in watched:
            # two halves of a float32 sum: 2.3e-6 in a gradient norm of ppo_lagrangian, below 3e-7 in the others, and
            # other processors round otherwise
            assert got[key] == pytest.approx(expected[key], rel=2e-5, abs=2e-6), f"step {got['step']}: {key}"
    ledgers = [(run / "ledger.jsonl").read_text().replace(str(run.parents[1]), "") for run in (one, several)]
    assert ledgers[0] == ledgers[1]
