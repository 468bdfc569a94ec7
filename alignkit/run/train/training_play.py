"""How a stage's rollouts come about in training: its answers or episodes, gone back into, finished and begun."""

from __future__ import annotations

from typing import Any

from alignkit.engines.hf import HfEngine
from alignkit.models.critic import check_reads
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.schema import Recipe, Stage
from alignkit.rollout.candidates import Candidates
from alignkit.rollout.episodes import Episodes
from alignkit.rollout.guide_roll_in import GuideRollIn
from alignkit.rollout.guide_roll_out import GuideRollOut
from alignkit.rollout.play import Play
from alignkit.rollout.resets import Resets
from alignkit.run.train.build import First, Policy, algorithm_of, build_reference, load_other


def training_play(play: Play, recipe: Recipe, stage: Stage, policy: Policy, initial: First | None) -> Play:
    """`play` as the stage trains on it: with what its algorithm and its guides do to it wrapped around it.

    initial: the stage's first weights, as `build_reference` takes them. Raises RecipeError for a guide that cannot read
    the policy's tokens.
    """
    kind = kind_of(algorithm_of(recipe, stage)[0].source)
    if kind.goes_back or kind.candidates:
        assert isinstance(play, Episodes), "the recipe's rules want an environment"
        play = Candidates(episodes=play) if kind.candidates else Resets(episodes=play)
    if stage.rollouts.guide_roll_out:
        play = _finished(play, recipe, stage, policy, initial)
    if stage.rollouts.guide_roll_in:
        play = GuideRollIn(play=play, share=stage.rollouts.guide_roll_in)
    return play


def _finished(play: Play, recipe: Recipe, stage: Stage, policy: Policy, initial: First | None) -> GuideRollOut:
    """With `rollouts.guide` to finish its utterances; without a path the guide is the reference."""
    path = stage.rollouts.guide
    if path is None:
        guide = build_reference(recipe, initial)
    else:
        guide, tokenizer = load_other(recipe, "rollouts.guide", path)
        check_reads("rollouts.guide", path, guide, tokenizer, policy.tokenizer)
    guide.to(next(policy.model.parameters()).device).requires_grad_(True)  # autocast keeps its casts of such ones only
    config: Any = guide.config
    context = min(policy.context, config.max_position_embeddings)
    engine = HfEngine(guide, dtype=recipe.model.dtype, share=True)  # nothing else moves its weights
    return GuideRollOut(play=play, share=stage.rollouts.guide_roll_out, guide=engine, context=context)
