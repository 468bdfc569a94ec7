"""Conversations as exact token ids that only ever grow at their end: to be sampled, or learnt from given turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.data.prompts import encode, plain_ids
from alignkit.errors import DataError
from alignkit.types.task import Message, Task

SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """How environment text becomes tokens.

    chat: as user messages through the chat template; False: text as it is, the stop token standing between turns.
    system: system message put before the first observation of chats.
    """

    tokenizer: Any
    chat: bool
    system: str | None = None

    def begin(self) -> Transcript:
        """An empty transcript."""
        messages: list[Message] = []
        if self.chat and self.system is not None:
            messages.append({"role": "system", "content": self.system})
        return Transcript(renderer=self, messages=messages)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text on its own, without special tokens of the tokenizer's making."""
        return plain_ids(self.tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def template(self, messages: Sequence[Message]) -> str:
        """The conversation up to where the policy goes on, as text. Raises DataError when the template refuses it."""
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise DataError("the tokenizer has no chat template; set model.chat_template, or data.chat to false")
        try:
            return self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise DataError(f"turn {_turns(messages)}: the chat template refuses the messages: {error}") from error


@dataclass(kw_only=True)
class Transcript:
    """The context of one episode. `observe` and `act` take turns; what is in `ids` never changes again.

    ids: everything so far, as the policy saw it. action: per token, whether the policy chose it.
    """

    renderer: Renderer
    messages: list[Message] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    action: list[bool] = field(default_factory=list)
    _rendered: str = field(default="", init=False)
    _said: str = field(default="", init=False)

    def observe(self, text: str) -> None:
        """Appends what the environment said, tokenised on its own; what was there before stays token by token.

        Raises DataError, naming the turn, when the chat template changes what it rendered before.
        """
        new = self._chat_ids(text) if self.renderer.chat else self._plain_ids(text)
        self.ids += new
        self.action += [False] * len(new)

    def act(self, ids: Sequence[int]) -> None:
        """Appends the policy's tokens exactly as they were sampled, its stop token included."""
        self.ids += ids
        self.action += [True] * len(ids)
        self._said = self.renderer.decode(ids)
        self.messages.append({"role": "assistant", "content": self._said})

    def _plain_ids(self, text: str) -> list[int]:
        if not self.ids:
            return encode(self.renderer.tokenizer, text)
        closing = self.renderer.tokenizer.eos_token_id
        cut = closing is not None and self.ids[-1] != closing  # an utterance cut at its length: we close it
        return [*([closing] if cut else []), *self.renderer.encode(text)]

    def _chat_ids(self, text: str) -> list[int]:
        messages: list[Message] = [*self.messages, {"role": "user", "content": text}]
        rendered = self.renderer.template(messages)
        new = self.renderer.encode(rendered[self._kept(rendered, _turns(messages)) :])
        if self.ids and new[:1] == self.ids[-1:] and self.ids[-1] in self.renderer.tokenizer.all_special_ids:
            new = new[1:]  # the policy's own stop token ended its turn
        self.messages, self._rendered = messages, rendered
        return new

    def _kept(self, rendered: str, turn: int) -> int:
        """How many characters of a rendering are in the context already; the rest is new."""
        for said in (self._said, self._said.strip()):  # templates may trim an utterance: the sampled tokens stay
            if rendered.startswith(self._rendered + said):
                return len(self._rendered) + len(said)
        before = self._rendered + self._said
        same = next((i for i, (a, b) in enumerate(zip(before, rendered, strict=False)) if a != b), len(rendered))
        start = max(0, same - SHOWN // 2)
        raise DataError(
            f"turn {turn}: the chat template rewrites earlier turns: {before[start : start + SHOWN]!r} became "
            f"{rendered[start : start + SHOWN]!r}; set model.chat_template to one that only appends"
        )


@dataclass(frozen=True, slots=True)
class GivenTurn:
    """A turn that has been, as exact tokens: the state before it, the utterance with its stop token, what was answered
    (nothing: the episode ended there), and the reward that the environment paid."""

    state: tuple[int, ...]
    action: tuple[int, ...]
    answer: tuple[int, ...]
    reward: float


def given_turns(renderer: Renderer, task: Task, limit: int) -> list[GivenTurn]:
    """The turns of a task's column `turns`, a list of {observation, action, reward}; the last one ends the episode.

    Raises DataError for other columns, a missing reward, and an episode of more than `limit` tokens.
    """
    learn(renderer, task, limit)
    transcript, spoken = renderer.begin(), []
    for number, (observation, action) in enumerate(_given_turns(task)):
        reward = task.columns["turns"][number].get("reward")
        if not isinstance(reward, int | float):
            raise DataError(f"task {task.id}: turn {number + 1} has no reward; wanted observation, action and reward")
        transcript.observe(observation)
        state = tuple(transcript.ids)
        transcript.act([*renderer.encode(action), renderer.tokenizer.eos_token_id])
        spoken.append((state, tuple(transcript.ids[len(state) :]), float(reward)))
    states = [state for state, _, _ in spoken[1:]]
    turns = []
    for number, (state, action, reward) in enumerate(spoken):
        answer = states[number][len(state) + len(action) :] if number < len(states) else ()
        turns.append(GivenTurn(state, action, answer, reward))
    return turns


def learn(renderer: Renderer, task: Task, limit: int) -> tuple[list[int], list[int], list[bool]]:
    """(prompt ids, completion ids, action mask) of the given turns of a task, its column `turns`.

    Every turn is `{observation, action}`: the observation is masked, the action with its stop token is learnt.
    Raises DataError for other columns and for an episode of more than `limit` tokens.
    """
    transcript, first = renderer.begin(), 0
    for observation, action in _given_turns(task):
        transcript.observe(observation)
        first = first or len(transcript.ids)
        transcript.act([*renderer.encode(action), renderer.tokenizer.eos_token_id])
    if len(transcript.ids) > limit:
        raise DataError(f"task {task.id}: its turns have {len(transcript.ids)} tokens, the limit is {limit}")
    return transcript.ids[:first], transcript.ids[first:], transcript.action[first:]


def _given_turns(task: Task) -> Iterable[tuple[str, str]]:
    turns = task.columns.get("turns")
    if not isinstance(turns, Sequence) or not turns:
        raise DataError(f"task {task.id}: column 'turns' is {turns!r}; wanted a list of {{observation, action}}")
    for number, turn in enumerate(turns, start=1):
        texts = [turn.get(name) for name in ("observation", "action")] if isinstance(turn, Mapping) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"task {task.id}: turn {number} is {str(turn)[:SHOWN]!r}; wanted observation and action")
        yield texts[0], texts[1]


def _turns(messages: Sequence[Message]) -> int:
    """Number of the turn that the last message begins, from 1."""
    return sum(message["role"] == "user" for message in messages)
