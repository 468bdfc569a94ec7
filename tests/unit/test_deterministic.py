"""The `deterministic` switch: what it turns on, for how long, and that a whole run has no operation that it refuses."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from alignkit.engines.vllm.process import environment
from alignkit.models.forward import Forward
from alignkit.recipe.identity import difference
from alignkit.recipe.read import read_recipe
from alignkit.run.train.build import engine_settings
from alignkit.run.train.deterministic import deterministic
from alignkit.run.train.train import run
from tests.resume.runs import read, write_recipe


def test_an_operation_without_a_fixed_order_is_refused_inside_and_only_there():
    """On the CPU the refusals are CUDA's alone, so the switch is looked at, and what torch itself asks of it."""
    assert not torch.are_deterministic_algorithms_enabled()
    with suppress(ValueError), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        raise ValueError
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_computes_under_it_from_its_first_forward_and_leaves_it_off(tmp_path: Path, monkeypatch: Any):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # put back at the end, whatever the run sets
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    seen, forward = [], Forward.__call__

    def watched(self: Forward, *arguments: Any, **options: Any) -> Any:
        seen.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Forward, "__call__", watched)
    run(read(write_recipe(tmp_path, steps=4, every=9), tmp_path / "run", "deterministic=true"), resume=False)
    assert len(seen) > 20
    assert set(seen) == {(True, ":4096:8")}
    assert not torch.are_deterministic_algorithms_enabled()


def test_on_a_gpu_the_engine_is_batch_invariant_and_its_cache_fixed_on_a_cpu_nothing_changes(monkeypatch: Any):
    recipe = read_recipe("smoke/grpo", ["deterministic=true"])
    assert not engine_settings(recipe).deterministic
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = engine_settings(recipe)
    assert settings.deterministic
    assert environment(1, 1, deterministic=settings.deterministic)["VLLM_BATCH_INVARIANT"] == "1"
    assert "VLLM_BATCH_INVARIANT" not in environment(1, 1)


def test_a_resume_under_the_other_setting_is_another_recipe():
    one, other = (read_recipe("smoke/grpo", [f"deterministic={value}"]) for value in ("true", "false"))
    assert any("deterministic" in line for line in difference(one, other))
