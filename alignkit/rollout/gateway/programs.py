"""Agent programs as a play: each speaks to the policy as to OpenAI, and says at its end what its work was worth."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.data.traces.recording import Call
from alignkit.data.turns import Renderer
from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import find, load
from alignkit.rollout.gateway.command import Program, command
from alignkit.rollout.gateway.gateway import Gateway
from alignkit.rollout.gateway.session import Session
from alignkit.rollout.play import RolloutStart, Speaker
from alignkit.types.rollout import Rollout
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.turn import EpisodeEnd, Turn

SUCCESS = "success"


@dataclass(frozen=True, kw_only=True)
class Programs:
    """One run of a program per rollout, all of them together, each at its own pace.

    program: an async function of the task and of the access to the policy, which says what it was worth: a number, a
    mapping with `reward`, perhaps `success`, and parts by name, or None where the recipe's rewards judge its last
    answer (judged: whether there are any). name: what faults call it. context, max_turns, max_seconds: of a Session.
    deadline_s: for a whole program. One that ends with an error because a limit of the Session cut it short counts as
    truncated where rewards judge what it came to; else it is a fault, as any other error.
    """

    program: Program
    name: str
    renderer: Renderer
    context: int
    max_turns: int
    deadline_s: float
    max_seconds: float | None = None
    judged: bool = True

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        gateway = Gateway()
        try:
            await asyncio.to_thread(gateway.start)
            return list(await asyncio.gather(*(self._played(start, speaker, gateway) for start in starts)))
        finally:
            await asyncio.to_thread(gateway.close)  # what is still being answered is sampled in this loop

    async def _played(self, start: RolloutStart, speaker: Speaker, gateway: Gateway) -> Rollout:
        prompt = start.prompt
        session = Session(
            renderer=self.renderer,
            speaker=speaker,
            name=(prompt.position, start.member),
            context=self.context,
            max_turns=self.max_turns,
            max_seconds=self.max_seconds,
        )
        worth, fault = None, None
        with gateway.open(session) as access:
            try:
                async with asyncio.timeout(self.deadline_s):
                    worth = await self.program(prompt.task, access)
            except TimeoutError:
                fault = self._fault(FaultKind.TIMEOUT, f"it was not over within {self.deadline_s:g} s")
            except (Exception, SystemExit) as error:  # the driver is the fence: one broken program must not end the run
                if session.end is None or not self.judged:  # one that a limit cut short is judged by what there is
                    fault = self._fault(FaultKind.CRASH, f"{type(error).__name__}: {error}".partition("\n")[0])
        if session.engine_failed:
            fault = self._fault(FaultKind.CRASH, "the engine failed on one of its calls")
        if fault is None and not session.recording.calls:
            fault = self._fault(FaultKind.CONTRACT, "it never asked the policy")
        return self._rollout(start, speaker, session, worth, fault)

    def _rollout(
        self, start: RolloutStart, speaker: Speaker, session: Session, worth: Any, fault: Fault | None
    ) -> Rollout:
        score: Score | None = None
        if fault is None:
            try:
                score = _score(worth)
            except ValueError as error:
                fault = self._fault(FaultKind.CONTRACT, str(error))
            if score is None and fault is None and not self.judged:
                fault = self._fault(FaultKind.CONTRACT, "it said no `reward`, and the recipe has no rewards")
        if fault is not None:
            score = Score(value=None, fault=fault)
        return Rollout(
            task=start.prompt.task,
            group=start.group,
            member=start.member,
            turns=turns_of(session, score.value if score else None),
            policy_version=speaker.policy_version,
            score=score,
            end=EpisodeEnd.FAULT if fault else session.end or EpisodeEnd.DONE,
        )

    def _fault(self, kind: FaultKind, message: str) -> Fault:
        return Fault(kind=kind, where=self.name, message=message)


def turns_of(session: Session, reward: float | None) -> tuple[Turn, ...]:
    """The calls of a session as turns, chain after chain, the one with the last call at the end.

    A chain that forks off begins with all that was said before it as its prompt, of which it counts no token as said.
    reward: lies on the last call.
    """
    recording, last = session.recording, session.recording.last
    chains = sorted(recording.chains(), key=lambda chain: last in chain)
    return tuple(_turn(call, reward if call is last else 0.0) for chain in chains for call in chain)


def _turn(call: Call, reward: float | None) -> Turn:
    return Turn(
        prompt_ids=call.prompt_ids,
        completion_ids=call.completion.token_ids,
        sampler_logprobs=call.completion.logprobs,
        stop=call.completion.stop,
        text=call.text,
        opened=call.opened,
        reward=reward,
        message=call.answer,
    )


def _score(worth: Any) -> Score | None:
    """What a program said of its work; None where rewards are to judge it. Raises ValueError for anything else."""
    if worth is None:
        return None
    told = dict(worth) if isinstance(worth, Mapping) else {"reward": worth}
    if told.get("reward") is None and set(told) <= {"reward"}:
        return None
    numbers: dict[str, float] = {}
    for name, value in told.items():
        if "/" in str(name):  # no metric could be called so
            raise ValueError(f"it said {str(name)[:40]!r} of its work; wanted a name without a slash")
        if isinstance(value, bool | int | float) and math.isfinite(value):
            numbers[str(name)] = float(value)
        elif value is not None:
            raise ValueError(f"it said {name}={str(value)[:40]!r} of its work; wanted a finite number")
    if "reward" not in numbers:
        raise ValueError(f"it said {sorted(told)} of its work; wanted `reward`")
    value = numbers.pop("reward")
    return Score(value=value, parts={"return": value, SUCCESS: None, **numbers})


def program_of(named: str | Sequence[str], beside: Path | None) -> Program:
    """The program of a recipe: `./file.py:name` of an async function, or a command, which runs in the recipe's folder.

    Raises ContentError where there is none, or the function is not async.
    """
    if not isinstance(named, str):
        return command(named, folder=beside)
    found = load(find("environments", named, beside=beside))
    if not inspect.iscoroutinefunction(found):
        raise ContentError(
            f"environment.program '{named}' is no async function; write `async def`, or give a command as a list"
        )
    return found
