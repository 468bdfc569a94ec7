"""How tasks, completions and scores travel over HTTP. Both ends check everything: the other end may be anybody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, StringConstraints, ValidationError

from alignkit.types.messages import read_messages
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import Fault, FaultKind, Score, StepScore
from alignkit.types.task import Task

MOST_COMPLETIONS = 4096


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WireTurn(_Part):
    """One utterance of the policy. Rewards that count tokens need `token_ids`."""

    text: str
    token_ids: tuple[int, ...] | None = None
    stop: StopReason = StopReason.END_OF_TEXT


class WireGroup(_Part):
    """Completions of one prompt. A completion is its text, or its turns."""

    prompt: str | list[dict[str, Any]]
    completions: list[str | list[WireTurn]] = Field(max_length=MOST_COMPLETIONS)
    reference: Any = None
    columns: dict[str, Any] = {}
    id: str = "request"
    policy_version: int = 0


class ScoreRequest(_Part):
    groups: Annotated[list[WireGroup], Field(min_length=1, max_length=MOST_COMPLETIONS)]


class WireFault(_Part):
    kind: FaultKind
    where: str
    message: str = ""


PartName = Annotated[str, StringConstraints(pattern=r"^[\w.#: -]{1,100}$")]
"""Parts become metric names, so that a slash or a control character from the other end must not get into them."""


class WireStep(_Part):
    """One step of a turn's text: the character after its last, and what it is worth."""

    end: NonNegativeInt
    value: FiniteFloat
    turn: int = -1


class WireScore(_Part):
    value: FiniteFloat | None
    parts: Annotated[dict[PartName, FiniteFloat | None], Field(max_length=100)] = {}
    steps: list[WireStep] | None = None
    spread: list[FiniteFloat] | None = None
    members: list[FiniteFloat] | None = None
    fault: WireFault | None = None


class ScoreResponse(_Part):
    """scores: one list per group, one score per completion, in the order of the request. fingerprint: of what scored
    them, the reward with its options and code; the same fingerprint gives the same scores."""

    reward: str
    fingerprint: str
    scores: list[list[WireScore]]


def group_to_wire(task: Task, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The JSON object of a WireGroup; a column that JSON does not know is sent as its `str`."""
    return {
        "prompt": task.text if task.messages is None else [dict(message) for message in task.messages],
        "completions": [[_turn_to_wire(turn) for turn in rollout.turns] for rollout in rollouts],
        "reference": task.reference,
        "columns": dict(task.columns),
        "id": task.id,
        "policy_version": rollouts[0].policy_version if rollouts else 0,
    }


def group_from_wire(group: WireGroup) -> tuple[Task, list[Rollout]]:
    """The task and its rollouts. A turn without token ids counts one token per character."""
    known: dict[str, Any] = {"id": group.id, "reference": group.reference, "columns": group.columns}
    if isinstance(group.prompt, str):
        task = Task(text=group.prompt, **known)
    else:
        task = Task(messages=tuple(read_messages(group.prompt, where=f"{group.id}: prompt")), **known)
    rollouts = []
    for member, completion in enumerate(group.completions):
        turns = [WireTurn(text=completion)] if isinstance(completion, str) else completion
        rollouts.append(
            Rollout(
                task=task,
                group=0,
                member=member,
                turns=tuple(_turn_from_wire(turn) for turn in turns),
                policy_version=group.policy_version,
            )
        )
    return task, rollouts


def text_rollouts(task: Task, completions: Sequence[str]) -> list[Rollout]:
    """Rollouts of completions of which only the text is known."""
    turns = [_turn_from_wire(WireTurn(text=text)) for text in completions]
    return [
        Rollout(task=task, group=0, member=member, turns=(turn,), policy_version=0) for member, turn in enumerate(turns)
    ]


def score_to_wire(score: Score, where: str) -> dict[str, Any]:
    """The JSON object of a WireScore; a score that holds anything but finite numbers becomes a CONTRACT fault."""
    fault = score.fault and {"kind": score.fault.kind, "where": score.fault.where, "message": score.fault.message}
    steps = score.steps and [asdict(step) for step in score.steps]
    lists = {"steps": steps, "spread": score.spread, "members": score.members}
    try:
        fields = {"value": score.value, "parts": dict(score.parts), **lists, "fault": fault}
        return WireScore.model_validate(fields).model_dump(mode="json")
    except ValidationError as error:
        message = f"a Score may hold finite numbers under plain names only: {first_problem(error)}"
        broken = {"kind": FaultKind.CONTRACT, "where": where, "message": message}
        return {"value": None, "parts": {where: None}, **dict.fromkeys(lists), "fault": broken}


def score_from_wire(wire: WireScore) -> Score:
    """Raises ValueError for a score that has neither a value nor a fault."""
    told = wire.fault
    fault = (
        None if told is None else Fault(kind=told.kind, where=printable(told.where), message=printable(told.message))
    )
    return Score(
        value=wire.value,
        parts=wire.parts,
        steps=None if wire.steps is None else tuple(StepScore(s.end, s.value, s.turn) for s in wire.steps),
        spread=None if wire.spread is None else tuple(wire.spread),
        members=None if wire.members is None else tuple(wire.members),
        fault=fault,
    )


def printable(text: str) -> str:
    """At most 300 characters on one line, nothing that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text[:300])


def dump(value: Any) -> bytes:
    """Canonical JSON: the same content gives the same bytes; lone surrogates are escaped."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def first_problem(error: ValidationError) -> str:
    """`groups.0.completions: Field required`, without the input, which may be long and may be anything."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _turn_to_wire(turn: Turn) -> dict[str, Any]:
    return {"text": turn.text, "token_ids": [*turn.completion_ids, *turn.finish_ids], "stop": turn.stop.value}


def _turn_from_wire(turn: WireTurn) -> Turn:
    ids = tuple(0 for _ in turn.text) if turn.token_ids is None else turn.token_ids
    return Turn(prompt_ids=(), completion_ids=ids, sampler_logprobs=(), stop=turn.stop, text=turn.text)
