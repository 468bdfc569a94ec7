"""Rollouts made of plain text, for the reward tests."""

from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.task import Task


def question(reference=None, **columns) -> Task:
    return Task(id="t", messages=({"role": "user", "content": "?"},), reference=reference, columns=columns)


def rollouts(task: Task, *texts: str, tokens: int = 3, stop: StopReason = StopReason.END_OF_TEXT) -> list[Rollout]:
    turns = [
        Turn(
            prompt_ids=(1,),
            completion_ids=tuple(range(tokens)),
            sampler_logprobs=(0.0,) * tokens,
            stop=stop,
            text=text,
        )
        for text in texts
    ]
    return [
        Rollout(task=task, group=0, member=member, turns=(turn,), policy_version=7) for member, turn in enumerate(turns)
    ]
