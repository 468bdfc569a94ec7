"""Episodes in an environment: all that are alive take their turns together, one call of the engine per turn."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alignkit.data.turns import Renderer, Transcript
from alignkit.environments.base import Environment, Observation
from alignkit.errors import BatchError
from alignkit.rollout.collect import Collected, Collector, Prompt
from alignkit.rollout.placement import place
from alignkit.types.batch import DIRECTION, Item
from alignkit.types.rollout import Completion, EpisodeEnd, Request, Rollout, StopReason, Turn
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.seeds import child
from alignkit.types.task import Task

SUCCESS = "success"


@dataclass(frozen=True, kw_only=True)
class EpisodeCollector(Collector):
    """Collects episodes instead of single answers; the environment pays for them, and rewards where there are any.

    make: gives a fresh environment per episode. name: what faults call it. context: most tokens of one episode.
    A rollout's score is its return: the sum of what its turns were paid, undiscounted; rewards are added to it. Parts:
    `return`, `success` as the last observation states it, and those of the rewards.
    """

    make: Callable[[], Environment]
    name: str
    renderer: Renderer
    max_turns: int
    context: int
    deadline_s: float

    async def sample(self, prompts: Sequence[Prompt], *, first_group: int = 0) -> list[list[Rollout]]:
        """`settings.group` episodes per prompt, played to their end and scored.

        All members of a group, and all runs of one recipe, get the same episode for the same position.
        """
        size = self.settings.group
        episodes = [Episode(collector=self, prompt=prompt, member=m) for prompt in prompts for m in range(size)]
        await self.play(episodes)
        return [
            [episode.rollout(first_group + number) for episode in episodes[number * size : (number + 1) * size]]
            for number in range(len(prompts))
        ]

    async def play(self, episodes: Sequence[Episode]) -> None:
        """Starts the episodes and plays them to their end, all that are alive together."""
        await asyncio.gather(*(episode.start() for episode in episodes))
        while alive := [episode for episode in episodes if episode.wants_turn()]:
            completions = await self.engine.generate([episode.request() for episode in alive])
            answered = zip(alive, completions, strict=True)
            await asyncio.gather(*(episode.take_turn(completion) for episode, completion in answered))

    async def score(self, groups: list[list[Rollout]]) -> list[list[Rollout]]:
        """The same rollouts: the environment scored them while they were played; rewards judge them now."""
        return groups if self.scorer is None else await super().score(groups)

    def scored(self, rollout: Rollout, score: Score) -> Rollout:
        """The episode paid by the environment and by the rewards; without a value where either could not score it."""
        own = rollout.score
        assert own is not None, "an episode has its return"
        parts = {**own.parts, **score.parts}
        if own.value is None or score.value is None:
            return replace(rollout, score=Score(value=None, parts=parts, fault=own.fault or score.fault))
        paid = place(replace(rollout, score=score), self.decode).paid or ()
        paid = [list(tokens) for tokens in paid]
        for turn, tokens in zip(rollout.turns, paid, strict=bool(paid)):
            tokens[-1] += turn.reward or 0.0
        total = replace(score, value=own.value + score.value, parts=parts)
        return replace(rollout, score=total, paid=tuple(map(tuple, paid)) or None)

    def describe(self, collected: Collected) -> dict[str, Any]:
        rollouts = collected.everything
        turns = {"rollout/turns_mean": sum(len(rollout.turns) for rollout in rollouts) / len(rollouts)}
        return super().describe(collected) | turns


@dataclass(kw_only=True)
class Episode:
    """One environment, the transcript of what it and the policy said, and how it ended."""

    collector: EpisodeCollector
    prompt: Prompt
    member: int
    task: Task = field(init=False)
    transcript: Transcript = field(init=False)
    environment: Environment | None = None
    turns: list[Turn] = field(default_factory=list)
    end: EpisodeEnd | None = None
    fault: Fault | None = None
    success: bool | None = None
    policy_version: int = field(init=False)

    def __post_init__(self) -> None:
        self.task = self.prompt.task
        self.transcript = self.collector.renderer.begin()
        self.policy_version = self.collector.engine.policy_version

    async def start(self) -> None:
        """Makes the environment and reads its first observation."""
        seed = child(self.collector.seed, "environment", self.prompt.position)

        async def begin() -> Observation:
            self.environment = self.collector.make()
            return await self.environment.start(self.prompt.task, seed)

        observation = await self._guarded(begin(), "start")
        if observation is not None:
            self._observe(observation)
            self.task = self._as_seen(observation.text)
        if len(self.transcript.ids) >= self.collector.context:
            size = f"{len(self.transcript.ids)} tokens, an episode may have {self.collector.context}"
            self._fail(FaultKind.CONTRACT, "start", f"the first observation has {size}; raise environment.max_tokens")

    def wants_turn(self) -> bool:
        """Whether the policy is to speak; ends the episode at the limits of turns and tokens."""
        if self.end is None and len(self.turns) == self.collector.max_turns:
            self.end = EpisodeEnd.MAX_TURNS
        if self.end is None and len(self.transcript.ids) >= self.collector.context:
            self.end = EpisodeEnd.CONTEXT_FULL
        return self.end is None

    def request(self) -> Request:
        """The next utterance, sampled with randomness of its own: by position, member and turn."""
        collector, ids = self.collector, self.transcript.ids
        return Request(
            prompt_ids=tuple(ids),
            seed=child(collector.seed, "sample", self.prompt.position, self.member, len(self.turns)),
            max_new_tokens=min(collector.settings.max_new_tokens, collector.context - len(ids)),
            temperature=collector.settings.temperature,
            stop_token_ids=collector.stop_token_ids,
        )

    async def take_turn(self, completion: Completion) -> None:
        """Appends the policy's tokens as they are, tells the environment, and reads its answer."""
        before = tuple(self.transcript.ids)
        self.transcript.act(completion.token_ids)
        self.policy_version = completion.policy_version
        text = self.collector.decode(completion.token_ids)
        observation = None
        if completion.stop is StopReason.ERROR:
            self._fail(FaultKind.CRASH, "engine", "it failed on this request")
        elif self._cut_by_context(completion):
            self.end = EpisodeEnd.CONTEXT_FULL
        else:
            assert self.environment is not None, "an episode that takes turns was started"
            observation = await self._guarded(self.environment.step(text), f"turn {len(self.turns) + 1}")
        self.turns.append(
            Turn(
                prompt_ids=before,
                completion_ids=completion.token_ids,
                sampler_logprobs=completion.logprobs,
                stop=completion.stop,
                text=text,
                reward=observation.reward if observation else None,
                observation=observation.text if observation else None,
            )
        )
        if observation is not None:
            self._observe(observation)

    def rollout(self, group: int) -> Rollout:
        """The finished episode."""
        total = sum(turn.reward for turn in self.turns if turn.reward is not None)
        parts = {"return": total, SUCCESS: None if self.success is None else float(self.success)}
        score = Score(value=total, parts=parts)
        if self.fault is not None:
            score = Score(value=None, parts=dict.fromkeys(parts), fault=self.fault)
        return Rollout(
            task=self.task,
            group=group,
            member=self.member,
            turns=tuple(self.turns),
            policy_version=self.policy_version,
            adapter=self.collector.adapter,
            score=score,
            end=self.end,
        )

    def _as_seen(self, text: str) -> Task:
        """The task with the first observation as its prompt."""
        messages = tuple(self.transcript.messages)
        return replace(self.prompt.task, messages=messages or None, text=None if messages else text)

    def _observe(self, observation: Observation) -> None:
        self.success = observation.success
        if observation.done:
            self.end = EpisodeEnd.DONE
        else:
            self.transcript.observe(observation.text)

    def _cut_by_context(self, completion: Completion) -> bool:
        """Whether the utterance is unfinished because the episode has no more room, not because it was too long."""
        full = len(self.transcript.ids) >= self.collector.context
        return full and completion.stop in (StopReason.LENGTH, StopReason.CONTEXT_FULL)

    async def _guarded(self, answer: Awaitable[Observation], when: str) -> Observation | None:
        """The environment's answer; None, and a fault, when it raises, hangs or answers out of contract."""
        try:
            observation = await asyncio.wait_for(answer, self.collector.deadline_s)
        except TimeoutError:
            return self._fail(FaultKind.TIMEOUT, when, f"no answer within {self.collector.deadline_s:g} s")
        except Exception as error:  # the driver is the fence: one broken episode must not end the run
            return self._fail(FaultKind.CRASH, when, f"{type(error).__name__}: {error}".partition("\n")[0])
        if not isinstance(observation, Observation) or not isinstance(observation.text, str):
            return self._fail(FaultKind.CONTRACT, when, f"answered {type(observation).__name__}; wanted an Observation")
        if not math.isfinite(observation.reward):
            return self._fail(FaultKind.NOT_A_NUMBER, when, f"the reward is {observation.reward}")
        return observation

    def _fail(self, kind: FaultKind, when: str, message: str) -> None:
        self.end = EpisodeEnd.FAULT
        self.fault = Fault(kind=kind, where=self.collector.name, message=f"{when}: {message}")


def episode_item(rollout: Rollout, *, reward: float) -> Item:
    """One sequence of all turns: the first prompt, then everything after it, with the policy's tokens as actions.

    Rewards lie where the rollout's `paid` says, else each turn's on the last token of its action; without either
    `reward` is paid at the end.
    Raises BatchError, naming the turn, when a turn's context does not begin with the turns before it.
    """
    first = rollout.turns[0]
    ids: list[int] = list(first.prompt_ids)
    start = len(ids)
    action: list[bool] = []
    logprobs: list[float] = []
    rewards: list[float] = []
    for number, turn in enumerate(rollout.turns, start=1):
        seen = turn.prompt_ids[len(ids) :]
        if list(turn.prompt_ids[: len(ids)]) != ids:
            raise BatchError(
                f"task {rollout.task.id}: the context of turn {number} does not begin with the tokens of the turns "
                "before it; a context may only be appended to"
            )
        size, tail = len(turn.completion_ids), len(turn.finish_ids)
        ids += [*seen, *turn.completion_ids, *turn.finish_ids]
        action += [False] * len(seen) + [True] * size + [False] * tail
        logprobs += [0.0] * len(seen) + list(turn.sampler_logprobs) + [0.0] * tail
        rewards += [0.0] * len(seen)
        rewards += [0.0] * (size - 1) + [turn.reward or 0.0] if rollout.paid is None else rollout.paid[number - 1]
        rewards += [0.0] * tail
    parts = rollout.score.parts if rollout.score else {}
    return Item(
        prompt_ids=first.prompt_ids,
        completion_ids=ids[start:],
        action=action,
        sampler_logprobs=logprobs,
        group=rollout.group,
        member=rollout.member,
        reward=reward,
        rewards=rewards if rollout.paid is not None or rollout.end is not None else None,
        truncated=rollout.truncated,
        policy_version=rollout.policy_version,
        channels={name: math.nan if part is None else part for name, part in parts.items()} | _direction(rollout),
    )


def _direction(rollout: Rollout) -> dict[str, float]:
    """How much of each part the task asks for, by its column `direction`, a mapping from parts to weights."""
    direction = rollout.task.columns.get("direction")
    weights = direction if isinstance(direction, Mapping) else {}
    return {f"{DIRECTION}{name}": float(weight) for name, weight in weights.items()}
