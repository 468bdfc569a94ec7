"""Two ranks under ZeRO-3 feed real vLLM, each with its own shards: the canary confirms every push."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.engines.canary import LENGTH
from tests.distributed import test_zero_runs as runs
from tests.distributed.ranks import fine
from tests.resume.forked import Forked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
RECIPE = (
    runs.GRPO.replace("hidden: 32, heads: 4", "hidden: 64, heads: 2")
    .replace("engine: hf", "engine: vllm, memory_gib: 1")
    .replace("steps: 40", "steps: 3")
    .replace("context: 16", "context: 32")  # vLLM has room for a token behind what it scores
)
RECIPES = {
    "all weights": RECIPE,
    "merged": RECIPE.replace("  dtype: float32", "  dtype: float32\n  lora: {rank: 4}"),
    "adapter apart": RECIPE.replace("  dtype: float32", "  dtype: float32\n  lora: {rank: 4, target_modules: [q_proj]}")
    + "engine: {lora: adapter}\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_vllm_computes_what_the_ranks_do_after_each_of_three_steps(tmp_path: Path, name: str):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "fine.json").write_text(json.dumps(fine(3)))
    (tmp_path / "recipe.yaml").write_text(RECIPES[name])
    run = tmp_path / "run"
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    ranks = [
        Forked(tmp_path / "recipe.yaml", run, log=log, environment=told)
        for log, told in zip(logs, runs.as_launched(tmp_path / "launch" / "fine.json", 2), strict=True)
    ]
    codes = [rank.wait(1200) for rank in ranks]
    assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    rows = runs.rows(run)
    assert [row["sync/policy_version"] for row in rows] == [0, 2, 4], "two minibatches a step"
    assert all(0 <= row["sync/canary_gap"] < 1e-4 for row in rows)
    assert len({row["sync/canary_gap"] for row in rows}) > 1, f"the {LENGTH} tokens are scored anew each time"
