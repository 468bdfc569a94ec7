"""One number from what a reward said: of an ensemble's members, of a distribution, or of the steps of a completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from alignkit.recipe.schema import Ensemble, RewardSpec, Risk, Steps
from alignkit.rewards.base import unscorable
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score, StepScore


def read(spec: RewardSpec, name: str, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> list[Score]:
    """The scores of one group, their values read as the spec's `ensemble`, `risk` or `steps` say.

    The parts gain what the reward itself called its value (`value`), and `disagreement` (deviation among members),
    `spread` (deviation of the distribution) or `steps` (their number). A score that lacks what is to be read, or whose
    steps do not lie in its text in order, becomes a CONTRACT fault; one without a value stays as it is.
    """
    if spec.ensemble is not None:
        return _reduced(spec.ensemble, name, scores)
    results = []
    for rollout, score in zip(rollouts, scores, strict=True):
        if score.value is not None and spec.risk is not None:
            score = _risked(spec.risk, name, score)
        elif score.value is not None and spec.steps is not None:
            score = _stepped(spec.steps, name, score, rollout)
        results.append(score)
    return results


def step_amounts(scores: Sequence[float], form: Steps) -> tuple[float, list[float]]:
    """(what the whole is worth, what each step is paid): the second sum to the first. At least one score."""
    import torch

    from alignkit.ops import process

    values = torch.tensor(scores, dtype=torch.float64)
    paid = process.step_rewards(values, form.returns)
    return float(process.step_returns(values, form.returns)[0]), paid.tolist()


def turn_of(step: StepScore, rollout: Rollout) -> int:
    """Number of the step's utterance, from 0."""
    return step.turn if step.turn >= 0 else len(rollout.turns) + step.turn


def _reduced(ensemble: Ensemble, name: str, scores: Sequence[Score]) -> list[Score]:
    """The usable scores of a group reduced, with the mean level of all members added again."""
    import torch

    from alignkit.ops.ensemble import centre_members, disagreement, reduce

    usable = [score.members for score in scores if score.value is not None and score.members]
    if len({len(members) for members in usable}) > 1:
        return [_broken(name, "members differ in number within a group") if s.value is not None else s for s in scores]
    lacking = "says no members: remove `ensemble`, or use a reward that has several models"
    if not usable:
        return [score if score.value is None else _broken(name, lacking) for score in scores]
    members = torch.tensor(usable, dtype=torch.float64).T
    centred = centre_members(members, torch.zeros(len(usable), dtype=torch.long))
    values = iter((reduce(centred, ensemble.reducer, weight=ensemble.weight) + members.mean()).tolist())
    apart = iter(disagreement(centred).tolist())
    return [
        score
        if score.value is None
        else _with(score, next(values), disagreement=next(apart))
        if score.members
        else _broken(name, lacking)
        for score in scores
    ]


def _risked(risk: Risk, name: str, score: Score) -> Score:
    import torch

    from alignkit.ops import risk as functionals

    if not score.spread:
        return _broken(name, "says no distribution: remove `risk`, or use a reward that has one")
    quantiles = torch.tensor(score.spread, dtype=torch.float64)
    measure = getattr(functionals, risk.measure)
    setting = {"cvar": (risk.level,), "low_quantile": (risk.level,), "mean": ()}.get(risk.measure, (risk.weight,))
    return _with(score, float(measure(quantiles, *setting)), spread=float(quantiles.std(correction=0)))


def _stepped(form: Steps, name: str, score: Score, rollout: Rollout) -> Score:
    """A completion without any step keeps the value that the reward gave it."""
    if score.steps is None:
        return _broken(name, "scores no steps: remove `steps`, or use a reward that does")
    places = [(turn_of(step, rollout), step.end) for step in score.steps]
    for turn, end in places:
        if not 0 <= turn < len(rollout.turns):
            return _broken(name, f"a step is of turn {turn}; there are {len(rollout.turns)}")
        length = len(rollout.turns[turn].text)
        if not 0 <= end <= length:
            return _broken(name, f"a step ends at character {end} of turn {turn}, which has {length}")
    if any(later < earlier for earlier, later in pairwise(places)):
        return _broken(name, f"steps are not in the order of the text: they end at {places}"[:200])
    if not score.steps:
        return _with(score, score.value, steps=0)
    worth, _ = step_amounts([step.value for step in score.steps], form)
    return _with(score, worth, steps=len(score.steps))


def _with(score: Score, value: float | None, **seen: float) -> Score:
    return replace(score, value=value, parts={**score.parts, "value": score.value, **seen})


def _broken(name: str, message: str) -> Score:
    return unscorable(FaultKind.CONTRACT, name, message)
