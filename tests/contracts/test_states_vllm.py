"""Real vLLM as the reader of reward models: the same scores as transformers, or it is not used."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.errors import EngineError
from alignkit.models.last_states import TOLERANCE
from alignkit.models.load import load_policy
from alignkit.recipe.schema import Model, Scratch
from alignkit.rewards.pool.lift import find_reward
from alignkit.types.score import FaultKind
from tests.unit.reward_folders import CHARACTERS, answered, saved, text_task, values, with_head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)"),
]
CONTEXT = 96


def quantile_model(folder: Path) -> Path:
    """Three quantiles from two layers with heads of 32, the smallest that vLLM's CPU attention takes."""
    section = Model(scratch=Scratch(characters=CHARACTERS, layers=2, hidden=64, heads=2, context=CONTEXT))
    model, tokenizer = load_policy(section, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5 if weight.ndim == 2 else 1)  # attention that is far from uniform
    algorithm: dict[str, Any] = {"type": "quantile", "objectives": ["a"], "levels": 3}
    return saved(with_head(model, seed=0, heads=3), tokenizer, folder / "reward", algorithm=algorithm)


def groups():
    """Prompts of 5 and of 45 tokens (more than a block, which is shared), answers up to one that does not fit."""
    answers = ("3", "", "a longer answer", "7" * 40, "7" * (CONTEXT - 46), "7" * CONTEXT)
    return [
        (task := text_task(prompt), answered(task, *answers)) for prompt in ("1+2=?", "what is 1+2? " * 3 + "answer")
    ]


def test_vllm_scores_as_transformers_does_and_again_the_same(tmp_path):
    path = str(quantile_model(tmp_path))
    plain: Any = find_reward("learned", {"path": path})
    reward: Any = find_reward("learned", {"path": path, "engine": "vllm"})
    own = plain.score_groups(groups())
    [model] = reward._models
    try:
        first, again = reward.score_groups(groups()), reward.score_groups(groups())
        alone = [[reward.score_groups([(task, [one])])[0][0] for one in rollouts] for task, rollouts in groups()]
    finally:
        model.states.close()
    gaps = [abs(a - b) for a, b in zip(values(own), values(first), strict=True) if a is not None and b is not None]
    print(f"largest difference of {len(gaps)} scores {max(gaps):.1e}")
    assert len(gaps) == 10
    assert max(gaps) < TOLERANCE
    assert values(again) == values(first)
    assert [v for v in values(alone) if v] == pytest.approx([v for v in values(first) if v], abs=TOLERANCE)
    for one, two in zip(own, first, strict=True):
        assert [b.spread for b in two[:-1]] == [pytest.approx(a.spread, abs=TOLERANCE) for a in one[:-1]]
        assert two[-1].fault.kind is FaultKind.REFUSED
    with pytest.raises(EngineError, match="it was closed"):
        reward.score_groups(groups())
