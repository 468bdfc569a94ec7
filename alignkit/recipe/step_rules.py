"""What must hold between the settings of a stage's steps: batches, their number, the learning rate, limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alignkit.recipe.document import KeyPath
from alignkit.recipe.lookup.find import did_you_mean
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.schema import Stage

Broken = Iterator[tuple[KeyPath, str]]


def broken_steps(stage: Stage, algorithm: Any, key: KeyPath) -> Broken:
    """Every broken rule, as of recipe/rules.py; algorithm: None where it was not imported."""
    yield from _optimizer(stage, key)
    yield from _limits(stage, algorithm, key)
    if algorithm is not None:
        yield from _batch(stage, algorithm, key)
        yield from _length(stage, algorithm, key)


def _batch(stage: Stage, algorithm: Any, key: KeyPath) -> Broken:
    train, kind = stage.train, stage.algorithm["type"]
    if kind_of(algorithm.source).fresh:
        size = stage.rollouts.prompts * stage.rollouts.group
        if size % train.minibatches:
            problem = f"must divide prompts x group = {size}; got {train.minibatches}"
            yield (*key, "train", "minibatches"), problem
        if train.drop_confident and algorithm.unit == "group":
            problem = f"takes completions out of the groups that {kind} compares; remove it"
            yield (*key, "train", "drop_confident"), problem
        if stage.rollouts.guide_roll_in and stage.environment is not None:
            yield (*key, "rollouts", "guide_roll_in"), "an episode has no completion to begin with; remove it"
        if train.batch is not None:
            problem = f"{kind} takes prompts x group = {size} sequences a step; set `rollouts.prompts` and remove this"
            yield (*key, "train", "batch"), problem
        return
    if train.batch is None:
        yield (*key, "train", "batch"), f"is missing; {kind} needs the number of rows per step"
    if train.drop_confident:
        yield (
            (*key, "train", "drop_confident"),
            f"is for completions that were sampled, {kind} is given its own; remove it",
        )
    for name in ("epochs", "minibatches") if kind_of(algorithm.source).samples else ("minibatches",):
        if getattr(train, name) != 1:
            yield (*key, "train", name), f"counts within a rollout batch, which {kind} does not have; use `train.steps`"


def _length(stage: Stage, algorithm: Any, key: KeyPath) -> Broken:
    """That the number of steps is said, and once."""
    train, kind = stage.train, stage.algorithm["type"]
    if kind_of(algorithm.source).samples:
        if train.steps is None:
            yield (*key, "train", "steps"), f"is missing; {kind} samples, of which there is no end"
    elif train.steps is not None and train.epochs != 1:
        yield (*key, "train", "epochs"), f"{train.epochs} passes or {train.steps} steps? give one of the two"
    elif train.steps is None and stage.data.window is not None:
        yield (
            (*key, "train", "steps"),
            "is missing; of rows that are read in windows nobody knows the end",
        )


def _limits(stage: Stage, algorithm: Any, key: KeyPath) -> Broken:
    """That what is limited exists."""
    costs = {"length", "truncated", "kl", *(spec.name for spec in stage.rewards)}
    for i, constraint in enumerate(stage.constraints):
        if constraint.of not in costs:
            problem = f"no reward of this stage is called '{constraint.of}'{did_you_mean(constraint.of, costs)}"
            yield (*key, "constraints", i, "of"), f"{problem}; add it with `weight: 0`"
        if constraint.multiplier > constraint.cap:
            yield (*key, "constraints", i, "multiplier"), f"begins above its cap of {constraint.cap:g}; lower it"
    within = algorithm is None or kind_of(algorithm.source).samples  # a step; those of given data are of all its rows
    passes = stage.train.epochs if within else 1
    if stage.train.max_update_kl is not None and passes * stage.train.minibatches == 1:
        yield (*key, "train", "max_update_kl"), "stops further minibatches of a step, and there is only one; remove it"


def _optimizer(stage: Stage, key: KeyPath) -> Broken:
    for i, beta in enumerate(stage.optimizer.betas):
        if not 0 <= beta < 1:
            yield (*key, "optimizer", "betas", i), f"must be at least 0 and less than 1; got {beta}"
    warmup = stage.optimizer.warmup_steps
    if warmup >= 1 and warmup % 1:
        yield (*key, "optimizer", "warmup_steps"), f"is a whole number of steps, or a share below 1; got {warmup:g}"
    if stage.train.steps is None:
        return
    total = stage.train.steps * stage.train.epochs * stage.train.minibatches
    if warmup >= total:
        problem = f"the warm-up ({warmup:g}) must end before the {total} optimizer steps do"
        yield (*key, "optimizer", "warmup_steps"), problem
