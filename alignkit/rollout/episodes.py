"""Episodes in an environment: all that are alive take their turns together, one call of the speaker per turn."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alignkit.data.turns import Renderer, Transcript
from alignkit.environments.base import Environment, Observation
from alignkit.rollout.play import RolloutStart, Speaker, Utterance
from alignkit.types.rollout import Completion, EpisodeEnd, Rollout, StopReason, Turn
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.seeds import child
from alignkit.types.task import Task

SUCCESS = "success"


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Episodes instead of single answers; the environment pays for them.

    make: gives a fresh environment per episode. name: what faults call it. context: most tokens of one episode.
    A rollout's score is its return: the sum of what its turns were paid, undiscounted. Parts: `return`, and `success`
    as the last observation states it. All members of a group, and all runs of one recipe, get the same episode for the
    same position.
    """

    make: Callable[[], Environment]
    name: str
    renderer: Renderer
    max_turns: int
    context: int
    deadline_s: float

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        episodes = [Episode(rules=self, start=start, speaker=speaker) for start in starts]
        await play_out(episodes, speaker)
        return [episode.rollout() for episode in episodes]


async def play_out(episodes: Sequence[Episode], speaker: Speaker) -> None:
    """Begins the episodes and plays them to their end, all that are alive together."""
    await asyncio.gather(*(episode.begin() for episode in episodes))
    while alive := [episode for episode in episodes if episode.wants_turn()]:
        said = zip(alive, await speaker.sample([episode.utterance() for episode in alive]), strict=True)
        await asyncio.gather(*(episode.take_turn(completion) for episode, completion in said))


@dataclass(kw_only=True)
class Episode:
    """One environment, the transcript of what it and the policy said, and how it ended."""

    rules: Episodes
    start: RolloutStart
    speaker: Speaker
    task: Task = field(init=False)
    transcript: Transcript = field(init=False)
    environment: Environment | None = None
    turns: list[Turn] = field(default_factory=list)
    end: EpisodeEnd | None = None
    fault: Fault | None = None
    success: bool | None = None
    info: Mapping[str, float | str] = field(default_factory=dict)
    policy_version: int = field(init=False)

    def __post_init__(self) -> None:
        self.task = self.start.prompt.task
        self.transcript = self.rules.renderer.begin()
        self.policy_version = self.speaker.policy_version

    async def begin(self) -> None:
        """Makes the environment and reads its first observation."""
        prompt = self.start.prompt
        seed = child(self.speaker.seed, "environment", prompt.position)

        async def first() -> Observation:
            self.environment = self.rules.make()
            return await self.environment.start(prompt.task, seed)

        observation = await self._guarded(first(), "start")
        if observation is not None:
            self._observe(observation)
            self.task = self._as_seen(observation.text)
        if len(self.transcript.ids) >= self.rules.context:
            size = f"{len(self.transcript.ids)} tokens, an episode may have {self.rules.context}"
            self._fail(FaultKind.CONTRACT, "start", f"the first observation has {size}; raise environment.max_tokens")

    def wants_turn(self) -> bool:
        """Whether the policy is to speak; ends the episode at the limits of turns and tokens."""
        if self.end is None and len(self.turns) == self.rules.max_turns:
            self.end = EpisodeEnd.MAX_TURNS
        if self.end is None and len(self.transcript.ids) >= self.rules.context:
            self.end = EpisodeEnd.CONTEXT_FULL
        return self.end is None

    def utterance(self) -> Utterance:
        """What the policy is to say next."""
        ids, name = self.transcript.ids, (self.start.prompt.position, self.start.member, len(self.turns))
        return Utterance(ids=tuple(ids), name=name, room=self.rules.context - len(ids))

    async def take_turn(self, completion: Completion) -> None:
        """Appends the policy's tokens, and a guide's, as they are, tells the environment, and reads its answer."""
        before, opened = tuple(self.transcript.ids), self.transcript.opened
        said = completion.token_ids + completion.finish_ids
        self.transcript.act(said)
        self.policy_version = completion.policy_version
        text = opened + self.rules.renderer.decode(said)
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
                finish_ids=completion.finish_ids,
                opened=len(opened),
                reward=observation.reward if observation else None,
                observation=observation.text if observation else None,
                info=_told(observation) if observation else {},
                info_before=self.info,
            )
        )
        if observation is not None:
            self._observe(observation)

    def rollout(self) -> Rollout:
        """The finished episode."""
        total = sum(turn.reward for turn in self.turns if turn.reward is not None)
        parts = {"return": total, SUCCESS: None if self.success is None else float(self.success)}
        score = Score(value=total, parts=parts)
        if self.fault is not None:
            score = Score(value=None, parts=dict.fromkeys(parts), fault=self.fault)
        return Rollout(
            task=self.task,
            group=self.start.group,
            member=self.start.member,
            turns=tuple(self.turns),
            policy_version=self.policy_version,
            score=score,
            end=self.end,
        )

    def _as_seen(self, text: str) -> Task:
        """The task with the first observation as its prompt."""
        messages = tuple(self.transcript.messages)
        return replace(self.start.prompt.task, messages=messages or None, text=None if messages else text)

    def _observe(self, observation: Observation) -> None:
        self.success, self.info = observation.success, _told(observation)
        if observation.done:
            self.end = EpisodeEnd.DONE
        else:
            self.transcript.observe(observation.text)

    def _cut_by_context(self, completion: Completion) -> bool:
        """Whether the utterance is unfinished because the episode has no more room, not because it was too long."""
        full = len(self.transcript.ids) >= self.rules.context
        return full and completion.stop in (StopReason.LENGTH, StopReason.CONTEXT_FULL)

    async def _guarded(self, answer: Awaitable[Observation], when: str) -> Observation | None:
        """The environment's answer; None, and a fault, when it raises, hangs or answers out of contract."""
        try:
            observation = await asyncio.wait_for(answer, self.rules.deadline_s)
        except TimeoutError:
            return self._fail(FaultKind.TIMEOUT, when, f"no answer within {self.rules.deadline_s:g} s")
        except Exception as error:  # the driver is the fence: one broken episode must not end the run
            return self._fail(FaultKind.CRASH, when, f"{type(error).__name__}: {error}".partition("\n")[0])
        if not isinstance(observation, Observation) or not isinstance(observation.text, str):
            return self._fail(FaultKind.CONTRACT, when, f"answered {type(observation).__name__}; wanted an Observation")
        if not math.isfinite(observation.reward):
            return self._fail(FaultKind.NOT_A_NUMBER, when, f"the reward is {observation.reward}")
        return observation

    def _fail(self, kind: FaultKind, when: str, message: str) -> None:
        self.end = EpisodeEnd.FAULT
        self.fault = Fault(kind=kind, where=self.rules.name, message=f"{when}: {message}")


def _told(observation: Observation) -> dict[str, float | str]:
    """The numbers and words of its `info`; whatever else an environment puts there stays with it."""
    info = observation.info if isinstance(observation.info, Mapping) else {}
    return {str(name): told for name, value in info.items() if (told := _number_or_word(value)) is not None}


def _number_or_word(value: Any) -> float | str | None:
    if isinstance(value, str):
        return value
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # numpy's scalars are numbers, too; lists are not
        return float(value)
    return None
