"""The model that finishes completions which the policy began."""

from __future__ import annotations

from typing import Any

import torch

from alignkit.models.critic import check_reads
from alignkit.models.load import load_policy
from alignkit.recipe.schema import Recipe, Stage
from alignkit.rollout.collect import Collector
from alignkit.rollout.finish import FinishingCollector
from alignkit.rollout.hf import HfEngine
from alignkit.run.build import Policy, beside, build_reference
from alignkit.types.seeds import child


def with_guide(
    collector: Collector, recipe: Recipe, stage: Stage, policy: Policy, initial: dict[str, torch.Tensor] | None
) -> FinishingCollector:
    """The collector, with `rollouts.guide` to finish its completions; without a path the guide is the reference.

    initial: the stage's first weights, as `build_reference` takes them. Raises RecipeError for a guide that cannot read
    the policy's tokens.
    """
    path = stage.rollouts.guide
    if path is None:
        guide = build_reference(recipe, initial)
    else:
        section = recipe.model.model_copy(update={"path": path, "scratch": None, "lora": None})
        guide, tokenizer = load_policy(section, seed=child(recipe.seed, "guide"), beside=beside(recipe))
        check_reads("rollouts.guide", path, guide, tokenizer, policy.tokenizer)
    guide.to(next(policy.model.parameters()).device).requires_grad_(True)  # autocast keeps its casts of such ones only
    config: Any = guide.config
    context = min(policy.context, config.max_position_embeddings)
    engine = HfEngine(guide, dtype=recipe.model.dtype, share=True)  # nothing else moves its weights
    return FinishingCollector(**vars(collector), guide=engine, context=context)
