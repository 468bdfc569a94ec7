"""Episodes of offline data as turns to be learnt from, token by token as an episode that is sampled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alignkit.data.turns import Renderer, Transcript
from alignkit.errors import DataError
from alignkit.types.task import Task

SHOWN = 40  # characters of a turn that has another shape


@dataclass(frozen=True, slots=True)
class Transition:
    """A turn that has been, as exact tokens: the state before it, the utterance with its stop token, what was answered
    (nothing: the episode ended there), and the reward that the environment paid."""

    state: tuple[int, ...]
    action: tuple[int, ...]
    answer: tuple[int, ...]
    reward: float


def transitions_of(renderer: Renderer, task: Task, limit: int) -> list[Transition]:
    """The turns of a task's column `turns`, a list of {observation, action, reward}; the last one ends the episode.

    Raises DataError for other columns, a missing reward, and an episode of more than `limit` tokens.
    """
    learn(renderer, task, limit)
    transcript, spoken = renderer.begin(), []
    for number, (observation, action) in enumerate(_turns_of(task)):
        reward = task.columns["turns"][number].get("reward")
        if not isinstance(reward, int | float):
            raise DataError(f"task {task.id}: turn {number + 1} has no reward; wanted observation, action and reward")
        _observe(transcript, observation, task)
        state = tuple(transcript.ids)
        transcript.act([*renderer.encode(action), renderer.end_id])
        spoken.append((state, tuple(transcript.ids[len(state) :]), float(reward)))
    states = [state for state, _, _ in spoken[1:]]
    turns = []
    for number, (state, action, reward) in enumerate(spoken):
        answer = states[number][len(state) + len(action) :] if number < len(states) else ()
        turns.append(Transition(state, action, answer, reward))
    return turns


def learn(renderer: Renderer, task: Task, limit: int) -> tuple[list[int], list[int], list[bool]]:
    """(prompt ids, completion ids, action mask) of the turns of a task, its column `turns`.

    Every turn is `{observation, action}`: the observation is masked, the action with its stop token is learnt.
    Raises DataError for other columns and for an episode of more than `limit` tokens.
    """
    transcript, first = renderer.begin(), 0
    for observation, action in _turns_of(task):
        _observe(transcript, observation, task)
        first = first or len(transcript.ids)
        transcript.act([*renderer.encode(action), renderer.end_id])
    if len(transcript.ids) > limit:
        raise DataError(f"task {task.id}: its turns have {len(transcript.ids)} tokens, the limit is {limit}")
    return transcript.ids[:first], transcript.ids[first:], transcript.action[first:]


def _observe(transcript: Transcript, observation: str, task: Task) -> None:
    try:
        transcript.observe(observation)
    except DataError as error:
        raise DataError(f"task {task.id}: {error}") from error


def _turns_of(task: Task) -> Iterable[tuple[str, str]]:
    turns = task.columns.get("turns")
    if not isinstance(turns, Sequence) or not turns:
        raise DataError(f"task {task.id}: column 'turns' is {turns!r}; wanted a list of {{observation, action}}")
    for number, turn in enumerate(turns, start=1):
        texts = [turn.get(name) for name in ("observation", "action")] if isinstance(turn, Mapping) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"task {task.id}: turn {number} is {str(turn)[:SHOWN]!r}; wanted observation and action")
        yield texts[0], texts[1]
