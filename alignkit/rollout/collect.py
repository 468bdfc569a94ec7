"""From prompts to scored groups: samples through the engine, scores through the pool, drops what cannot teach."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

from alignkit.engines.engine import Sampler
from alignkit.errors import RewardError
from alignkit.recipe.schema import Rollouts
from alignkit.rollout.episode_metrics import episode_metrics
from alignkit.rollout.placement import pay_too, place
from alignkit.rollout.play import Play, Prompt, RolloutStart, Speaker, Utterance
from alignkit.types.rollout import Completion, Request, Rollout
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task

FAILED = "the engine failed on it"


class Scorer(Protocol):
    async def score(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]: ...


@dataclass(kw_only=True)
class Collected:
    """A step's rollouts. groups: those to train on, every rollout scored. dropped: the others, for the record."""

    groups: list[list[Rollout]] = field(default_factory=list)
    dropped: list[list[Rollout]] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)
    rounds: int = 0
    sample_s: float = 0.0
    score_s: float = 0.0

    @property
    def everything(self) -> list[Rollout]:
        return [rollout for group in self.groups + self.dropped for rollout in group]


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Samples and scores groups of rollouts, which come about as `play` says.

    scorer: None where an environment alone scores. decode: what was said, as text without stop and pad tokens.
    places_steps: scores say what of them is paid before the end. seed: every sample's randomness is named from it.
    """

    engine: Sampler
    play: Play
    scorer: Scorer | None
    decode: Callable[[Sequence[int]], str]
    stop_token_ids: tuple[int, ...]
    settings: Rollouts
    seed: int
    adapter: str | None = None
    places_steps: bool = False

    async def collect(self, draw: Callable[[int], list[Prompt]]) -> Collected:
        """Groups for one step. draw(n) gives the next n prompts of the stage's order.

        Unscorable rollouts leave their group; groups of which fewer than 2 are left (of several) are dropped. With
        `dynamic_sampling` so are groups whose rewards are all equal, and dropped groups are replaced by new
        prompts for at most `refill_rounds` rounds. Raises RewardError when more than `max_unscorable` of the rollouts
        cannot be scored.
        """
        result, most_rounds = Collected(), 1 + self.settings.refill_rounds * self.settings.dynamic_sampling
        while len(result.groups) < self.settings.prompts and result.rounds < most_rounds:
            prompts = draw(self.settings.prompts - len(result.groups))
            result.rounds += 1
            result.consumed += [prompt.task.id for prompt in prompts]
            begun = time.perf_counter()
            groups = await self.sample(prompts, first_group=len(result.groups) + len(result.dropped))
            sampled = time.perf_counter()
            groups = await self.score(groups)
            result.sample_s += sampled - begun
            result.score_s += time.perf_counter() - sampled
            for group in groups:
                (result.groups if self._teaches(group) else result.dropped).append(group)
        self._check_scorable(result.everything)
        return result

    async def sample(self, prompts: Sequence[Prompt], *, first_group: int = 0) -> list[list[Rollout]]:
        """A group per prompt, of `settings.group` rollouts or those of them that there are, not scored by rewards."""
        starts = [
            RolloutStart(prompt=prompt, group=group, member=member)
            for group, prompt in enumerate(prompts, start=first_group)
            for member in range(self.settings.group)
        ]
        version = self.engine.policy_version
        speaker = Speaker(sample=self._say, request=self._request, seed=self.seed, policy_version=version)
        rollouts = [replace(rollout, adapter=self.adapter) for rollout in await self.play.run(starts, speaker)]
        return [list(group) for _, group in groupby(rollouts, key=lambda rollout: rollout.group)]

    async def score(self, groups: list[list[Rollout]]) -> list[list[Rollout]]:
        """The same rollouts, judged by the rewards; where an environment paid already, beside what it paid."""
        if self.scorer is None:
            return groups
        scores = await self.scorer.score([(group[0].task, group) for group in groups])
        return [
            [self._scored(rollout, score) for rollout, score in zip(group, group_scores, strict=True)]
            for group, group_scores in zip(groups, scores, strict=True)
        ]

    def _scored(self, rollout: Rollout, score: Score) -> Rollout:
        if rollout.score is not None:
            return pay_too(rollout, score, self.decode, places_steps=self.places_steps)
        rollout = replace(rollout, score=score)
        return place(rollout, self.decode) if self.places_steps else rollout

    async def _say(self, utterances: Sequence[Utterance]) -> list[Completion]:
        return await self.engine.generate([self._request(utterance) for utterance in utterances])

    def _request(self, utterance: Utterance) -> Request:
        longest = self.settings.max_new_tokens
        return Request(
            prompt_ids=utterance.ids,
            seed=child(self.seed, "sample", *utterance.name),
            max_new_tokens=longest if utterance.room is None else min(longest, utterance.room),
            temperature=self.settings.temperature,
            stop_token_ids=self.stop_token_ids,
            group=utterance.name[0],
        )

    def _teaches(self, group: list[Rollout]) -> bool:
        values = [value for rollout in group if (value := rollout.reward) is not None]
        return len(values) >= min(2, self.settings.group) and (
            not self.settings.dynamic_sampling or max(values) > min(values)
        )

    def _check_scorable(self, rollouts: list[Rollout]) -> None:
        unscorable = [rollout for rollout in rollouts if rollout.reward is None]
        if len(unscorable) > self.settings.max_unscorable * len(rollouts):
            score = unscorable[0].score
            fault = score.fault if score and score.value is None else None
            cause = ": ".join(filter(None, (f"{fault.kind} in {fault.where}", fault.message))) if fault else FAILED
            raise RewardError(
                f"{len(unscorable)} of {len(rollouts)} rollouts could not be scored (allowed: share "
                f"{self.settings.max_unscorable}); the first: {cause}; mend the reward or raise rollouts.max_unscorable"
            )


def trainable(groups: Sequence[Sequence[Rollout]]) -> list[Rollout]:
    """The rollouts of `groups` that have a reward and at least one token, in order."""
    return [r for group in groups for r in group if r.reward is not None and r.sampled_tokens]


def describe(collected: Collected, settings: Rollouts) -> dict[str, Any]:
    """The step's rollout and reward metrics, over everything that was sampled, dropped groups included.

    Returns, turns and ends are those of rollouts that the policy played from their start on.
    """
    rollouts = collected.everything
    groups = collected.groups + collected.dropped
    compared = groups if settings.group > 1 else [rollouts]  # single rollouts are compared with all others of the step
    lengths = [rollout.sampled_tokens for rollout in rollouts]
    own = [rollout for rollout in rollouts if rollout.reset is None or rollout.member == 0]
    values = [value for rollout in own if (value := rollout.reward) is not None]
    mean = sum(values) / len(values) if values else None
    metrics = {
        "reward/mean": mean,
        "reward/std": (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5 if mean is not None else None,
        "reward/unscorable_frac": 1 - sum(rollout.reward is not None for rollout in rollouts) / len(rollouts),
        "rollout/length_mean": sum(lengths) / len(lengths),
        "rollout/length_max": max(lengths),
        "rollout/tokens": sum(lengths),
        "rollout/completions": len(rollouts),
        "rollout/prompts": len(groups),
        "rollout/truncated_frac": sum(rollout.truncated for rollout in own) / len(own),
        "rollout/zero_spread_frac": sum(_equal(group) for group in compared) / len(compared),
        "rollout/unique_frac": sum(_different(group) / len(group) for group in groups) / len(groups),
        "rollout/dropped_frac": len(collected.dropped) / len(groups),
        "rollout/refill_rounds": collected.rounds - 1,
        "rollout/policy_version": rollouts[0].policy_version,
        "time/sample_s": collected.sample_s,
        "time/score_s": collected.score_s,
    }
    scores = [rollout.score for rollout in rollouts if rollout.score]
    for name in sorted({name for score in scores for name in score.parts}):
        parts = [value for rollout in own if rollout.score and (value := rollout.score.parts.get(name)) is not None]
        metrics[f"reward/part/{name}"] = sum(parts) / len(parts) if parts else None
    for kind in sorted({score.fault.kind for score in scores if score.fault}):
        metrics[f"reward/fault/{kind}"] = sum(score.fault is not None and score.fault.kind == kind for score in scores)
    if rollouts[0].end is not None:
        metrics |= episode_metrics(own)
    if settings.guide_roll_out:
        finished = [bool(turn.finish_ids) for rollout in rollouts for turn in rollout.turns]
        metrics["rollout/finished_frac"] = sum(finished) / max(1, len(finished))
    return metrics


def _different(group: Sequence[Rollout]) -> int:
    """How many different things the policy said in a group."""
    return len({tuple(turn.completion_ids for turn in rollout.turns) for rollout in group})


def _equal(group: Sequence[Rollout]) -> bool:
    """Whether all rollouts that could be scored got the same reward."""
    return len({rollout.reward for rollout in group} - {None}) <= 1
