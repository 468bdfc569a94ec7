"""The process that runs rewards. It may be killed at any moment; whatever it prints goes nowhere.

Started by rewards/supervisor.py as `python -m alignkit.rewards.worker FD PARENT`. Over the socket FD it gets one
pickled setup, then pickled chunks of jobs; it answers one line of JSON per job, as soon as the job is done, so that
the supervisor knows which job hangs or kills the process. Answers are JSON because the supervisor must not unpickle
what a process that handles model output wrote.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError
from alignkit.rewards.base import FunctionReward, Reward, unscorable
from alignkit.rewards.lift import find_reward
from alignkit.rewards.trl import TrlReward
from alignkit.types.rollout import Rollout
from alignkit.types.score import Fault, FaultKind, Score, StepScore
from alignkit.types.task import Task

PR_SET_PDEATHSIG = 1


def main() -> None:
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rb") as requests, asyncio.Runner() as runner:
        names, beside = pickle.load(requests)
        try:
            rewards = [find_reward(name, options, beside) for name, options in names]
        except BaseException as error:  # a reward's file may do anything when it is imported
            _send(channel, {"error": _one_line(error)})
            return
        _send(channel, {"per_rollout": [isinstance(reward, FunctionReward) for reward in rewards]})
        while True:
            try:
                chunk = pickle.load(requests)
            except EOFError:
                return
            for number, task, rollouts in chunk:
                scores = _score(rewards[number], task, rollouts, runner)
                _send(channel, [encode(score, rewards[number].name) for score in scores])


def _score(reward: Reward, task: Task, rollouts: Sequence[Rollout], runner: asyncio.Runner) -> list[Score]:
    try:
        scores = _run(reward, task, rollouts, runner)
    except BaseException as error:  # includes SystemExit, MemoryError and the timers of math libraries
        return [unscorable(FaultKind.CRASH, reward.name, _one_line(error)) for _ in rollouts]
    if not isinstance(scores, list) or len(scores) != len(rollouts) or not all(isinstance(s, Score) for s in scores):
        got = f"{len(scores)} items" if isinstance(scores, list) else type(scores).__name__
        message = f"returned {got}; wanted a list of {len(rollouts)} Scores"
        return [unscorable(FaultKind.CONTRACT, reward.name, message) for _ in rollouts]
    return scores


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
        fault = score.fault and [score.fault.kind.value, str(score.fault.where), str(score.fault.message)]
        fields = [
            None if score.value is None else float(score.value),
            {str(name): None if part is None else float(part) for name, part in score.parts.items()},
            score.steps and [[int(step.end), float(step.value), int(step.turn)] for step in score.steps],
            score.spread and [float(quantile) for quantile in score.spread],
            score.members and [float(member) for member in score.members],
            fault,
        ]
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError, AttributeError) as error:
        return encode(unscorable(FaultKind.CONTRACT, where, f"a Score may hold finite numbers only: {error}"), where)
    return fields


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


def _send(channel: socket.socket, message: Any) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def _one_line(error: BaseException) -> str:
    """`ValueError: what (file.py:12)`, at most 300 characters, nothing that a terminal would obey."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    kind = "" if isinstance(error, AlignkitError) else f"{type(error).__name__}: "
    text = "".join(character if character.isprintable() else " " for character in str(error)[:300])
    return kind + " ".join(text.split()) + ("" if isinstance(error, AlignkitError) else where)


def _die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies, even while a reward hangs in C code (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, a worker goes before the trainer
    if os.getppid() != parent:
        sys.exit()


if __name__ == "__main__":
    main()
