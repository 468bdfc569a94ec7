"""The process that runs rewards. It may be killed at any moment; whatever it prints goes nowhere.

Started by supervisor.py through processes/keeper.py. Over its channel it gets one setup, then jobs, and answers each
as soon as it is done, so that the supervisor knows which one hangs or kills the process. Answers are plain JSON because
the supervisor must not unpack what a process that handles model output wrote, and each begins with its job's own key,
drawn at random, so that a line that a reward writes into the socket counts for nothing.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import json
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError
from alignkit.processes import channel as channel_types
from alignkit.processes.keeper import OUT_OF_MEMORY
from alignkit.processes.session import how_it_ended
from alignkit.recipe.lookup.secrets import in_environment
from alignkit.rewards import base
from alignkit.rewards.base import FunctionReward, Reward, unscorable
from alignkit.rewards.pool import apart, seal
from alignkit.rewards.pool.lift import find_reward
from alignkit.rewards.pool.seal import Seal
from alignkit.rewards.serve.trl import TrlReward
from alignkit.types import score as score_types
from alignkit.types.rollout import Rollout
from alignkit.types.score import Fault, FaultKind, Score, StepScore
from alignkit.types.task import Task

LONGEST_MESSAGE = 1000
LONGEST_NAME = 200
OVER_MEMORY = "it needs more memory than the `memory_mib` of the rewards"
to_json = json.JSONEncoder(allow_nan=False).encode  # bound now: a reward may patch the module


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One reward of the setup. secrets: environment variables that it alone gets. apart: a process for each answer.

    one_process: it holds a model, of which a second copy in a second worker would cost as much again.
    """

    name: str
    options: Mapping[str, Any]
    secrets: Mapping[str, str]
    apart: bool
    one_process: bool = False


def main(descriptor: str) -> None:
    intact = Seal(_own_code())
    own_end = channel_types.Channel(socket.socket(fileno=int(descriptor)))
    with closing(own_end) as channel, asyncio.Runner() as runner:
        wanted, beside = channel_types.unpacked(channel.receive()["setup"])
        try:
            rewards = tuple(_loaded(one, beside) for one in wanted)
            if changed := intact.broken():
                raise AlignkitError(f"a reward's file changes {changed}, which scores other answers; remove that")
        except BaseException as error:  # a reward's file may do anything when it is imported
            channel.send({"error": _one_line(error)})
            return
        channel.send({"rewards": [_described(reward) for reward in rewards]})
        while True:
            try:
                asked = channel.receive()
            except EOFError:
                return
            number, task, rollouts, state = channel_types.unpacked(asked["job"])
            reward, how = rewards[number], wanted[number]
            if isinstance(reward, TrlReward):
                reward = replace(reward, state=state)
            with in_environment(how.secrets):
                if how.apart:
                    scores = _score_apart(reward, task, rollouts, channel.fileno())
                else:
                    scores = _score(reward, task, rollouts, runner)
            changed = intact.broken()
            if changed:
                message = f"it changed {changed}, which scores other answers"
                scores = [unscorable(FaultKind.CONTRACT, reward.name, message) for _ in rollouts]
            said = [encode(score, reward.name) for score in scores]
            is_spent = bool(changed) or any(fault and fault[0] == FaultKind.MEMORY for *_, fault in said)
            channel.send([asked["key"], said, is_spent])
            if is_spent:  # the supervisor starts another
                return


def _described(reward: Reward) -> dict[str, Any]:
    """per_rollout: whether it scores one rollout at a time. columns: those that a TRL function must have, else None.
    longest_s: in which it ends what it does by itself, 0 when it does not."""
    columns = reward.required if isinstance(reward, TrlReward) else None
    return {"per_rollout": isinstance(reward, FunctionReward), "columns": columns, "longest_s": _longest_s(reward)}


def _own_code() -> list[tuple[Any, tuple[str, ...] | None]]:
    """What a score passes through on its way out."""
    modules = (sys.modules[__name__], base, seal, apart, channel_types, score_types)
    own = (*modules, channel_types.Channel, Score, Fault, FunctionReward, TrlReward, Seal)
    return [(builtins, ("float", "int", "str", "len", "isinstance")), *((one, None) for one in own)]


def _loaded(wanted: Wanted, beside: Path | None) -> Reward:
    with in_environment(wanted.secrets):
        return find_reward(wanted.name, dict(wanted.options), beside)


def _score(reward: Reward, task: Task, rollouts: Sequence[Rollout], runner: asyncio.Runner) -> list[Score]:
    try:
        scores = _run(reward, task, rollouts, runner)
    except MemoryError:
        return [unscorable(FaultKind.MEMORY, reward.name, OVER_MEMORY) for _ in rollouts]
    except BaseException as error:  # includes SystemExit and the timers of math libraries
        message = _one_line(error)
        kind = FaultKind.MEMORY if "allocate memory" in message else FaultKind.CRASH  # as torch says it
        return [unscorable(kind, reward.name, message) for _ in rollouts]
    if not isinstance(scores, list) or len(scores) != len(rollouts) or not all(isinstance(s, Score) for s in scores):
        got = f"{len(scores)} items" if isinstance(scores, list) else type(scores).__name__
        message = f"returned {got}; wanted a list of {len(rollouts)} Scores"
        return [unscorable(FaultKind.CONTRACT, reward.name, message) for _ in rollouts]
    return scores


def _score_apart(reward: Reward, task: Task, rollouts: Sequence[Rollout], channel: int) -> list[Score]:
    """The same in a process of its own, which ends with the answer."""

    def work() -> list[list[Any]]:
        scores = _score(reward, task, rollouts, asyncio.Runner())  # which makes its loop at the first use
        return [encode(score, reward.name) for score in scores]

    try:
        return [decode(fields) for fields in apart.apart(work, closed=channel)]
    except apart.Ended as error:
        if error.code == OUT_OF_MEMORY:
            return [unscorable(FaultKind.MEMORY, reward.name, OVER_MEMORY) for _ in rollouts]
        return [unscorable(FaultKind.CRASH, reward.name, f"its process {how_it_ended(error.code)}") for _ in rollouts]
    except (ValueError, TypeError, LookupError) as error:
        return [unscorable(FaultKind.CONTRACT, reward.name, f"its reply cannot be read: {error}") for _ in rollouts]


def _run(reward: Reward, task: Task, rollouts: Sequence[Rollout], runner: asyncio.Runner) -> list[Score]:
    """Runs an async reward in the event loop. A plain function runs outside of it, as it would under TRL."""
    coroutine = reward.score(task, rollouts)
    if isinstance(reward, FunctionReward | TrlReward) and not _is_async(reward.function):
        try:
            coroutine.send(None)
        except StopIteration as finished:
            return finished.value
        raise TypeError("a function that returns an awaitable must be declared `async def`")
    return runner.run(coroutine)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def encode(score: Score, where: str) -> list[Any]:
    """A Score as plain JSON values; one that holds anything but finite numbers becomes a CONTRACT fault."""
    try:
        fault = score.fault and [score.fault.kind.value, printable(score.fault.where), printable(score.fault.message)]
        fields = [
            None if score.value is None else float(score.value),
            {_part(name): None if part is None else float(part) for name, part in score.parts.items()},
            score.steps and [[int(step.end), float(step.value), int(step.turn)] for step in score.steps],
            score.spread and [float(quantile) for quantile in score.spread],
            score.members and [float(member) for member in score.members],
            fault,
        ]
        to_json(fields)
    except Exception as error:  # a number of its own class may raise anything
        return encode(unscorable(FaultKind.CONTRACT, where, f"a Score may hold finite numbers only: {error}"), where)
    return fields


def _part(name: object) -> str:
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"a part is called {printable(repr(name))[:60]}")
    return name


def decode(fields: list[Any]) -> Score:
    """The Score that `encode` wrote. Raises ValueError or TypeError for anything else."""
    value, parts, steps, spread, members, fault = fields
    return Score(
        value=value,
        parts=parts,
        steps=None if steps is None else tuple(StepScore(*step) for step in steps),
        spread=None if spread is None else tuple(spread),
        members=None if members is None else tuple(members),
        fault=None if fault is None else Fault(kind=FaultKind(fault[0]), where=fault[1], message=fault[2]),
    )


def _one_line(error: BaseException) -> str:
    """`ValueError: what (file.py:12)`, at most 300 characters, nothing that a terminal would obey."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    kind = "" if isinstance(error, AlignkitError) else f"{type(error).__name__}: "
    text = printable(str(error)[:300])
    return kind + text + ("" if isinstance(error, AlignkitError) else where)


def printable(text: object) -> str:
    """At most 1,000 characters on one line, nothing that a terminal would obey or a file could not hold."""
    cut = str(text)[:LONGEST_MESSAGE]
    return " ".join("".join(character if character.isprintable() else " " for character in cut).split())


def _longest_s(reward: Reward) -> float:
    """What a shelf's reward says that it may take by itself (`longest_s` in its file), which the pool then grants."""
    function = getattr(reward, "function", None)
    module = getattr(function, "__module__", None) or ""
    longest = getattr(sys.modules.get(module), "longest_s", None)
    if longest is None or not module.startswith("alignkit."):
        return 0.0
    return float(longest(**getattr(reward, "options", {})))
