"""What the rewards of a stage hear of the run: its length in updates, passes over its data, its data's columns."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.read import resolve_algorithm
from alignkit.recipe.rules import optimizer_steps
from alignkit.recipe.schema import Recipe, Replay, Stage
from alignkit.rewards.pool.training import Training
from alignkit.types.task import Task


def training_of(recipe: Recipe, number: int, tasks: Sequence[Task]) -> Training:
    """The Training of stage `number`, by plan; tasks: what it trains on. A step that finds nothing to learn from makes
    fewer updates than planned."""
    stage = recipe.stages[number]
    updates = _updates(recipe, stage)
    per_step = max(updates // (stage.train.steps or 1), 1)
    evaluate = recipe.evaluation.every if recipe.evaluation else None
    save = recipe.checkpoints.every
    return Training(
        updates=updates,
        before=sum(_updates(recipe, earlier) for earlier in recipe.stages[:number]),
        passes=_drawn(recipe, stage) / max(len(tasks), 1),
        columns=tuple(dict.fromkeys(name for task in tasks for name in task.columns)),
        save_every=save and save * per_step,
        evaluate_every=evaluate and evaluate * per_step,
    )


def _updates(recipe: Recipe, stage: Stage) -> int:
    """Optimizer steps of the policy; in a critic's warm-up it has none. 0 where rows decide that nobody has counted."""
    steps = optimizer_steps(stage, kind_of(resolve_algorithm(stage, recipe)[0].source))
    if steps is None or stage.train.steps is None:
        return 0
    return steps * max(stage.train.steps - stage.train.critic_warmup_steps, 1) // stage.train.steps


def _drawn(recipe: Recipe, stage: Stage) -> int:
    """Rows that all steps of the stage draw."""
    source, steps = kind_of(resolve_algorithm(stage, recipe)[0].source), stage.train.steps or 0
    if source.replays:
        return -(-steps // (stage.replay or Replay()).every) * stage.rollouts.prompts
    return steps * (stage.rollouts.prompts if source.fresh else stage.train.batch or 1)
