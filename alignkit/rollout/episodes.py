"""Episodes in an environment: in lockstep all that are alive take their turns together, else each at its own pace."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, SupportsFloat, cast

from alignkit.data.turns import Renderer, Transcript
from alignkit.environments.base import Environment, EnvironmentFault, Observation, ToolEnvironment, told
from alignkit.rollout.play import RolloutStart, Speaker, Utterance
from alignkit.types.rollout import Completion, Rollout
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.seeds import child
from alignkit.types.task import Message, Task, message_text
from alignkit.types.turn import EpisodeEnd, StopReason, Turn

SUCCESS = "success"
MOST_TEXT = 1_000_000
"""Characters of an observation: more would be tokenised for seconds, and no context holds it."""


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Episodes instead of single answers; the environment pays for them.

    make: gives a fresh environment per episode. name: what faults call it. context: most tokens of one episode.
    max_seconds, max_tool_calls: at most so many of an episode; None: any number. lockstep: all that are alive take
    their turns together, one call of the speaker per turn; else each goes on as soon as it can.
    pays: whether the environment does; else rewards alone score what becomes of its tools.
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
    max_seconds: float | None = None
    max_tool_calls: int | None = None
    lockstep: bool = True
    pays: bool = True

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        episodes = [Episode(rules=self, start=start, speaker=speaker) for start in starts]
        await self.play_out(episodes, speaker)
        return [episode.rollout() for episode in episodes]

    async def play_out(self, episodes: Sequence[Episode], speaker: Speaker) -> None:
        """Begins the episodes and plays them to their end."""
        together = [episodes] if self.lockstep else [[episode] for episode in episodes]
        try:
            await asyncio.gather(*(_play_out(some, speaker) for some in together))
        finally:
            for episode in episodes:
                episode.close()


async def _play_out(episodes: Sequence[Episode], speaker: Speaker) -> None:
    await asyncio.gather(*(episode.begin() for episode in episodes))
    while alive := [episode for episode in episodes if await episode.wants_turn()]:
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
    tool_calls: int = 0
    begun: float = field(default_factory=time.monotonic)

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
        if self.end is None and len(self.transcript.ids) >= self.rules.context:
            size = f"{len(self.transcript.ids)} tokens, an episode may have {self.rules.context}"
            self._fail(FaultKind.CONTRACT, "start", f"the first observation has {size}; raise environment.max_tokens")

    async def wants_turn(self) -> bool:
        """Whether the policy is to speak; ends the episode at the limits of turns, tokens and time."""
        limit = self.rules.max_seconds
        if self.end is None and len(self.turns) == self.rules.max_turns:
            await self._cut(EpisodeEnd.MAX_TURNS)
        if self.end is None and len(self.transcript.ids) >= self.rules.context:
            await self._cut(EpisodeEnd.CONTEXT_FULL)
        if self.end is None and limit is not None and time.monotonic() - self.begun > limit:
            await self._cut(EpisodeEnd.MAX_SECONDS)
        if self.end is not None:
            self.close()
        return self.end is None

    def close(self) -> None:
        """Lets go of the environment, and closes one that has a `close`. May be called twice."""
        environment, self.environment = self.environment, None
        with contextlib.suppress(Exception):  # the episode is over: what goes wrong now changes nothing of it
            getattr(environment, "close", lambda: None)()

    def utterance(self) -> Utterance:
        """What the policy is to say next."""
        ids, name = self.transcript.ids, (self.start.prompt.position, self.start.member, len(self.turns))
        return Utterance(ids=tuple(ids), name=name, room=self.rules.context - len(ids))

    async def take_turn(self, completion: Completion) -> None:
        """Appends the policy's tokens, and a guide's, as they are, tells the environment, and reads its answer."""
        before, opened = tuple(self.transcript.ids), self.transcript.opened
        said = completion.token_ids + completion.finish_ids
        message = self.transcript.act(said)
        self.policy_version = completion.policy_version
        text = opened + self.rules.renderer.decode(said)
        self.tool_calls += len(message.get("tool_calls", ()))
        observation, cut = None, self._limit(completion)
        if completion.stop is StopReason.ERROR:
            self._fail(FaultKind.CRASH, "engine", "it failed on this request")
        elif cut is None:
            observation = await self._guarded(self._answer(text, message), f"turn {len(self.turns) + 1}")
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
                observation=_text(observation) if observation else None,
                message=message if self.transcript.tools else None,
                answers=tuple(observation.messages) if observation else (),
                tool_faults=tuple(observation.tool_faults) if observation else (),
                info=told(observation.info) if observation else {},
                info_before=self.info,
            )
        )
        if observation is not None:
            self._observe(observation)
        elif cut is not None:
            await self._cut(cut)

    async def _answer(self, text: str, message: Message) -> Observation:
        assert self.environment is not None, "an episode that takes turns was started"
        if self.transcript.tools:
            return await cast(ToolEnvironment, self.environment).answer(message)
        return await self.environment.step(text)

    def _limit(self, completion: Completion) -> EpisodeEnd | None:
        """At which limit the utterance ends the episode before it is answered: it is unfinished because there is no
        more room (not because it was too long), or asks for one call too many."""
        full = len(self.transcript.ids) >= self.rules.context
        if full and completion.stop in (StopReason.LENGTH, StopReason.CONTEXT_FULL):
            return EpisodeEnd.CONTEXT_FULL
        most = self.rules.max_tool_calls
        return EpisodeEnd.MAX_TOOL_CALLS if most is not None and self.tool_calls > most else None

    async def _cut(self, end: EpisodeEnd) -> None:
        """Ends the episode at a limit; one that pays at the end is asked what it pays for what there is."""
        self.end = end
        if self.turns and self.transcript.tools and isinstance(self.environment, ToolEnvironment):
            paid = await self._guarded(self.environment.cut(), "the end")
            if paid is not None:
                self.success = paid.success
                last = self.turns[-1]
                self.turns[-1] = replace(last, reward=(last.reward or 0.0) + paid.reward)

    def rollout(self) -> Rollout:
        """The finished episode."""
        total = sum(turn.reward for turn in self.turns if turn.reward is not None)
        parts = {"return": total, SUCCESS: None if self.success is None else float(self.success)}
        parts = parts if self.rules.pays else {}
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
        self.success, self.info = observation.success, told(observation.info)
        if observation.done:
            self.end = EpisodeEnd.DONE
            return
        if observation.new_context:
            self.transcript.begin_anew()
        if observation.tools:
            self.transcript.offer(observation.tools)
        self.transcript.observe(observation.text, observation.messages)

    async def _guarded(self, answer: Awaitable[Observation], when: str) -> Observation | None:
        """The environment's answer; None, and a fault, when it raises, hangs or answers out of contract."""
        try:
            async with asyncio.timeout(self.rules.deadline_s):
                observation = await answer
            problem = _problem(observation)
        except EnvironmentFault as error:
            return self._fail(error.kind, when, str(error))
        except TimeoutError:
            return self._fail(FaultKind.TIMEOUT, when, f"no answer within {self.rules.deadline_s:g} s")
        except (Exception, SystemExit) as error:  # the driver is the fence: one broken episode must not end the run
            return self._fail(FaultKind.CRASH, when, f"{type(error).__name__}: {error}".partition("\n")[0])
        if problem is not None:
            return self._fail(FaultKind.CONTRACT, when, problem)
        if not math.isfinite(observation.reward):
            return self._fail(FaultKind.NOT_A_NUMBER, when, f"the reward is {observation.reward}")
        return observation

    def _fail(self, kind: FaultKind, when: str, message: str) -> None:
        self.end = EpisodeEnd.FAULT
        self.fault = Fault(kind=kind, where=self.rules.name, message=f"{when}: {message}")


def _text(observation: Observation) -> str:
    """What it says, for people."""
    return "\n".join(map(message_text, observation.messages)) or observation.text


def _problem(observation: Any) -> str | None:
    """What of an answer is no Observation that the policy could read."""
    if not isinstance(observation, Observation) or not isinstance(observation.text, str):
        return f"answered {type(observation).__name__}; wanted an Observation"
    for name in ("messages", "tools", "tool_faults"):
        if not isinstance(value := getattr(observation, name), tuple | list):
            return f"answered {name}={value!r:.60}; wanted a tuple"
    if not isinstance(observation.reward, SupportsFloat) or observation.success not in (None, True, False):
        said = f"reward={observation.reward!r}, success={observation.success!r}"[:80]
        return f"answered {said}; wanted a number, and True, False or None"
    for message in observation.messages:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            return f"answered the message {str(message)[:60]!r}; wanted a role and a content, both text"
    texts = [observation.text, *(message["content"] for message in observation.messages)]
    for text in texts:
        text.encode()  # half a surrogate pair raises here: no tokenizer reads it
    size = sum(map(len, texts))
    return None if size <= MOST_TEXT else f"answered {size:,} characters; wanted at most {MOST_TEXT:,}"
