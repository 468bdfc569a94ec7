"""What the settings of a reward mean, in words, and which of them cannot go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from alignkit.recipe.document import KeyPath
from alignkit.recipe.schema import RewardSpec, Stage

Broken = Iterator[tuple[KeyPath, str]]


def broken_reward_settings(stage: Stage, algorithm: Any, config: Any, key: KeyPath) -> Broken:
    """Every impossible combination of a stage that samples: (key path, problem with its cure)."""
    for i, spec in enumerate(stage.rewards):
        own = (*key, "rewards", i)
        yield from _reading(spec, stage, own)
        yield from _placing(spec, stage, "rewards" in algorithm.needs(config).columns, own)
        if spec.normalise is not None and spec.gate:
            yield (*own, "normalise"), "would make a gate 0 on average; remove it, or the gate"
        if spec.normalise is not None and stage.rollouts.dynamic_sampling:
            problem = "compares all completions of a step, which is sampled in rounds; set `rollouts.dynamic_sampling`"
            yield (*own, "normalise"), f"{problem} to false"
        if spec.clip is not None and spec.clip[0] >= spec.clip[1]:
            yield (*own, "clip"), f"must be [lowest, highest]; got {list(spec.clip)}"


def reward_formula(specs: Sequence[RewardSpec]) -> str:
    """The blend: weighted sum times gates, with what is made of each reward."""
    terms = [f"{spec.weight:g} x {_words(spec)}" for spec in specs if not spec.gate]
    gates = [_words(spec) for spec in specs if spec.gate]
    total = " + ".join(terms)
    return " x ".join([f"({total})" if len(terms) > 1 else total, *gates]) if gates else total


def reward_without_effect(specs: Sequence[RewardSpec]) -> Iterator[str]:
    """Settings that were given but change nothing, each with the reason."""
    for i, spec in enumerate(specs):
        for name, used in (("level", ("cvar", "low_quantile")), ("weight", ("entropic", "mean_minus_std"))):
            if spec.risk and name in spec.risk.model_fields_set and spec.risk.measure not in used:
                yield f"rewards.{i}.risk.{name} (the measure is {spec.risk.measure})"
        ensemble = spec.ensemble
        if ensemble and "weight" in ensemble.model_fields_set and not ensemble.reducer.startswith("mean_minus"):
            yield f"rewards.{i}.ensemble.weight (the reducer is {ensemble.reducer})"


def _reading(spec: RewardSpec, stage: Stage, own: KeyPath) -> Broken:
    given = [name for name in ("ensemble", "risk", "steps") if getattr(spec, name) is not None]
    if len(given) > 1:
        yield own, f"a reward is read in one way; got {' and '.join(given)}: keep one of them"
    if spec.ensemble is not None and spec.ensemble.reducer != "mean" and stage.rollouts.group < 2:
        problem = (
            "centres its members on a prompt's completions; set `rollouts.group` to at least 2, or `reducer: mean`"
        )
        yield (*own, "ensemble"), problem


def _placing(spec: RewardSpec, stage: Stage, read: bool, own: KeyPath) -> Broken:
    if spec.steps is None or spec.steps.place == "end":
        return
    place = (*own, "steps", "place")
    if not read:
        problem = f"{stage.algorithm['type']} sees one reward per completion, not where it is paid; set this to `end`"
        yield place, f"{problem}, or use ppo, reinforce or dqo"
    if spec.gate:
        yield place, "a gate multiplies whole completions; set this to `end`"
    for name in ("guide_roll_in", "guide_roll_out"):
        if getattr(stage.rollouts, name):
            yield (
                place,
                f"a guide's steps are not the policy's; set this to `end`, or remove `{name}`",
            )


def _words(spec: RewardSpec) -> str:
    """`cvar 0.25 of name, clipped to -1..1`."""
    said = spec.name
    if spec.ensemble is not None:
        weight = f" {spec.ensemble.weight:g}" if spec.ensemble.reducer.startswith("mean_minus") else ""
        said = f"{spec.ensemble.reducer}{weight} of the members of {said}"
    if spec.risk is not None:
        levels = {"cvar": f" {spec.risk.level:g}", "low_quantile": f" {spec.risk.level:g}", "mean": ""}
        said = f"{spec.risk.measure}{levels.get(spec.risk.measure, f' {spec.risk.weight:g}')} of {said}"
    if spec.steps is not None:
        where = {"step": "where each ends", "turn": "at the end of their turn", "end": "at the end"}[spec.steps.place]
        said = f"{spec.steps.returns} of the steps of {said}, paid {where}"
    if spec.normalise is not None:
        said += ", normalised" + (f" by {spec.normalise.by}" if spec.normalise.by else "")
    if spec.clip is not None:
        said += f", clipped to {spec.clip[0]:g}..{spec.clip[1]:g}"
    if spec.only:
        said += ", only where " + " and ".join(f"{column} is {wanted}" for column, wanted in spec.only.items())
    return f"[{said}]" if said != spec.name else said
