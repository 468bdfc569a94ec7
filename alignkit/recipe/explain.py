"""What a checked recipe means: the objective that is optimised, the batch equation, the settings without effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.read import resolve_algorithm
from alignkit.recipe.reward_settings import reward_formula, reward_without_effect
from alignkit.recipe.rules import optimizer_steps

if TYPE_CHECKING:
    from alignkit.data.kinds.kind import Kind
    from alignkit.recipe.schema import Recipe, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEquation:
    """How many of what a stage handles. sequences, per_update: per step and per optimizer step. tokens: at most.

    steps, optimizer_steps: None where the number of rows decides.
    """

    prompts: int
    group: int
    sequences: int
    epochs: int
    minibatches: int
    per_update: int
    steps: int | None
    optimizer_steps: int | None
    sampled_tokens: int | None

    def __str__(self) -> str:
        if self.steps is None or self.optimizer_steps is None:
            return f"{_count(self.sequences, 'row')} a step, {_count(self.epochs, 'pass', 'es')} over the data"
        steps = f"x {_count(self.steps, 'step')} = {_count(self.optimizer_steps, 'optimizer step')}"
        if self.sampled_tokens is None:
            return f"{_count(self.sequences, 'row')} a step {steps}, {_count(self.sequences * self.steps, 'row')}"
        sampled = f"{_count(self.prompts, 'prompt')} x {self.group:,} = {_count(self.sequences, 'completion')} a step"
        passes = (
            f"{_count(self.epochs, 'epoch')} x {_count(self.minibatches, 'minibatch', 'es')} of {self.per_update:,}"
        )
        return f"{sampled}; {passes} {steps}; at most {_count(self.sampled_tokens, 'sampled token')}"


def batch_equation(stage: Stage, source: Kind) -> BatchEquation:
    """The counts of a checked stage; source: the kind of data that its algorithm learns from."""
    rollouts, train = stage.rollouts, stage.train
    sampled = source.fresh
    prompts = rollouts.prompts if sampled else train.batch or 0
    group = rollouts.group if sampled else 1
    turns = stage.environment.max_turns if stage.environment else 1
    tokens = prompts * group * train.steps * turns * rollouts.max_new_tokens if sampled and train.steps else None
    return BatchEquation(
        prompts=prompts,
        group=group,
        sequences=prompts * group,
        epochs=train.epochs,
        minibatches=train.minibatches,
        per_update=prompts * group // train.minibatches,
        steps=train.steps,
        optimizer_steps=optimizer_steps(stage, source),
        sampled_tokens=tokens,
    )


def explain_recipe(recipe: Recipe) -> dict[str, Any]:
    """Per stage: objective, data, batch equation, what else shapes training, what has no effect; as lines in `text`."""
    return {"recipe": str(recipe.file), "stages": [_explain_stage(stage, recipe) for stage in recipe.stages]}


def _explain_stage(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    algorithm, config = resolve_algorithm(stage, recipe)
    source = kind_of(algorithm.source)
    batch = batch_equation(stage, source)
    needs = reduce(or_, (constraint.needs for constraint in stage.constraints), algorithm.needs(config))
    unused = list(_without_effect(stage, source))
    besides = list(_besides(stage, mixed="costs" not in needs.columns))
    kind = "reward model" if algorithm.trains_reward else "policy"
    models = [kind, *(["reference"] if "reference" in needs.models else [])]
    if stage.rollouts.guide_roll_out:
        models.append("guide")
    if algorithm.heads(config) and not algorithm.trains_reward:
        shared = stage.critic is not None and stage.critic.shared
        models.append(f"critic ({'on the layers of the policy' if shared else 'of its own'})")
    optimizer = stage.optimizer
    lines = {
        "objective": algorithm.explain(config),
        "models": ", ".join(models),
        "data": stage.data.name,
        "reward": _reward(stage) if source.samples else None,
        "engine": _fleet(recipe) if source.samples else None,
        "batch": str(batch),
        "optimizer": f"AdamW, lr {optimizer.lr:g} {optimizer.schedule}, {_warmup(optimizer.warmup_steps)}",
        "no effect": "; ".join(unused) or None,
    }
    text = [f"stage {stage.name}: {stage.algorithm['type']}"]
    text += [f"  {name:<10} {line}" for name, line in lines.items() if line is not None]
    text += [f"  {'besides':<10} {line}" for line in besides]
    return {
        "name": stage.name,
        "algorithm": stage.algorithm,
        "objective": lines["objective"],
        "models": models,
        "reward": lines["reward"],
        "batch": asdict(batch),
        "without_effect": unused,
        "besides": besides,
        "text": text,
    }


def _warmup(steps: float) -> str:
    return f"{steps:g} warm-up steps" if steps >= 1 or not steps else f"{steps:g} of the steps warm-up"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _fleet(recipe: Recipe) -> str | None:
    """Who samples, where that is more than the trainer's one engine."""
    engine = recipe.engine
    cut = f", each cut among {engine.tensor_parallel:,} workers" if engine.tensor_parallel > 1 else ""
    if engine.placement == "servers":
        return f"servers that register at {engine.listen}, {engine.replicas:,} of them before the first step{cut}"
    if engine.placement == "colocated" and engine.replicas == engine.tensor_parallel == 1:
        return None
    place = "on devices of their own" if engine.placement == "own" else "on the trainer's devices"
    return f"{_count(engine.replicas, 'replica')} {place}{cut}"


def _reward(stage: Stage) -> str:
    rewards = reward_formula(stage.rewards)
    if stage.environment is None:
        return rewards
    episode = f"return of an episode in {stage.environment.title}, at most {stage.environment.max_turns} turns"
    return f"{episode} + {rewards}" if rewards else episode


def _besides(stage: Stage, *, mixed: bool) -> Iterator[str]:
    """What the stage does to the algorithm's objective from outside: what is sampled, paid, left out and taken back."""
    rollouts, train = stage.rollouts, stage.train
    if share := rollouts.guide_roll_in:
        yield f"{share:g} of the prompts go on from part of their task's completion, which is not trained on"
    if rollouts.guide_roll_out:
        guide, what = rollouts.guide or "the reference", "completions" if stage.environment is None else "utterances"
        yield f"{rollouts.guide_roll_out:g} of the {what} go over to {guide} midway, whose part is not trained on"
    if rollouts.dynamic_sampling:
        rounds = _count(rollouts.refill_rounds, "round")
        yield f"groups of equal rewards give way to new prompts, in at most {rounds} a step"
    if stage.constraints and mixed:
        names = [each.of for each in stage.constraints]
        costs, total = " - ".join(f"m({name}) x {name}" for name in names), " + ".join(f"m({name})" for name in names)
        yield f"paid is (reward - {costs}) / (1 + {total}), m the multipliers of the constraints"
    for each in stage.constraints:
        moves = f"m begins at {each.multiplier:g} and rises to {each.cap:g} at most"
        yield f"constraint: mean {each.of} at most {each.limit:g}; {moves}"
    if train.critic_warmup_steps:
        yield f"in the first {_count(train.critic_warmup_steps, 'step')} only the critic learns"
    if stage.critic is not None and (stage.critic.epochs or stage.critic.minibatches):
        updates = (stage.critic.epochs or train.epochs) * (stage.critic.minibatches or train.minibatches)
        yield f"the critic makes {_count(updates, 'update')} a step, the policy {train.epochs * train.minibatches}"
    if train.drop_confident:
        yield f"{train.drop_confident:g} of each step's completions are not trained on, those the policy was surest of"
    if train.max_update_kl is not None:
        yield f"a step's updates end once the policy is {train.max_update_kl:g} in KL per token from where it began"
    if train.fixup is not None:
        steps = _count(train.fixup.max_steps, "step")
        yield f"after each update at most {steps} on the KL alone, until no token's is above {train.fixup.kl:g}"


def _without_effect(stage: Stage, source: Kind) -> Iterator[str]:
    """Settings that were given but change nothing, each with the reason."""
    rollouts, optimizer, data = stage.rollouts, stage.optimizer, stage.data
    if "final_lr_fraction" in optimizer.model_fields_set and optimizer.schedule == "constant":
        yield "optimizer.final_lr_fraction (the schedule is constant)"
    if "refill_rounds" in rollouts.model_fields_set and not rollouts.dynamic_sampling:
        yield "rollouts.refill_rounds (dynamic_sampling is false)"
    if not source.samples and rollouts.model_fields_set:
        yield f"rollouts (this stage learns from offline data: {source.name})"
    yield from reward_without_effect(stage.rewards)
    if data.revision is not None and not data.source.startswith("hub:"):
        yield "data.revision (the source is not a hub dataset)"
