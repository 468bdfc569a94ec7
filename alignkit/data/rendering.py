"""What is learnt of a conversation or a text: its tokens, and which of them the policy is to say.

The answer to learn is what stands in the rendered conversation behind the prompt that the policy would be given there,
up to the token that ends its turn. Pieces are tokenised one by one, so that the prompt's tokens are those the sampler
would see, whatever follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.data.chat_template import MARK, ChatTemplate, chat_template
from alignkit.data.cures import cure_for
from alignkit.data.shown import check_shown, lost_thoughts
from alignkit.data.tokens import continuation_ids, encode, plain_ids
from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from alignkit.types.task import Message, Task

ONE_TURN = "set data.turns to last, or give one row for each answer"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Text, and whether it is learnt."""

    text: str
    learnt: bool


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A row as it is learnt from.

    pieces: all of its text, in order. prompt: token ids before the first learnt one. completion: those from there to
    the last learnt one. action: which of the completion's are learnt. turns: number of learnt turns.
    """

    pieces: tuple[Piece, ...]
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    action: tuple[bool, ...]
    turns: int


def render_learnt(tokenizer: Any, task: Task, data: Data) -> Rendering:
    """The task's prompt and what is to be learnt after it: its completion, or of a conversation every assistant's turn.

    Of `Task.conversation` all assistant turns are learnt, with `data.turns: last` the last one only; a message's own
    `learnt` decides where it is given. Each learnt turn ends with the token that ends the turn (EOS where the template
    or the text has none). A row of which nothing is to be learnt has an empty completion.
    Raises DataError, which names the task, when there is no completion, when the template does not show a message, and
    when it does not write a turn as the policy would have to say it.
    """
    if task.messages is None:
        return _tokenised(tokenizer, _text_pieces(task), task, chat=False, end=eos_id(tokenizer))
    template = chat_template(tokenizer, data.chat_template_kwargs)
    pieces = _chat_pieces(template, task, data)
    end = None if template.turn_end is not None else eos_id(tokenizer)
    return _tokenised(tokenizer, pieces, task, chat=True, end=end)


def _text_pieces(task: Task) -> list[Piece]:
    completion = task.columns.get("completion")
    if completion is None:
        raise DataError(f"task {task.id}: no column 'completion' to learn; {cure_for('completion', task.columns)}")
    if not isinstance(completion, str):
        raise DataError(f"task {task.id}: the completion is a list of messages; set data.chat to true")
    return [Piece(text=task.text or "", learnt=False), Piece(text=completion, learnt=True)]


def _chat_pieces(template: ChatTemplate, task: Task, data: Data) -> list[Piece]:
    whole = _Conversation.of(template, task)
    chosen = _learnt_messages(whole, task, data)
    pieces, done = [], 0
    for index in chosen:
        span = whole.span(index)
        if span is None:
            return [*pieces, *whole.continued(index, done)]
        start, end = span
        if start < done:
            raise DataError(f"{whole.where}: the chat template writes two answers into one place; {ONE_TURN}")
        pieces += [Piece(text=whole.text[done:start], learnt=False), Piece(text=whole.text[start:end], learnt=True)]
        done = end
    return pieces or [Piece(text=whole.text, learnt=False)]


def _learnt_messages(whole: _Conversation, task: Task, data: Data) -> list[int]:
    """The places of the messages to learn."""
    first = 0 if task.conversation else len(task.messages or ()) - (whole.begun is not None)
    spoken = [index for index, message in enumerate(whole.messages) if message["role"] == "assistant"]
    spoken = [index for index in spoken if index >= first]
    if task.conversation and data.turns == "last":
        spoken = spoken[-1:]
    return [index for index in spoken if whole.messages[index].get("learnt", True)]


class _NotAsSaid(Exception):
    """What the chat template does with a turn that the policy would not say so."""


@dataclass(frozen=True, kw_only=True)
class _Conversation:
    """A whole row, rendered. begun: the part of the last answer that the prompt already holds, where it holds one."""

    template: ChatTemplate
    messages: tuple[Message, ...]
    begun: str | None
    text: str
    where: str
    row: dict[str, Any]

    @classmethod
    def of(cls, template: ChatTemplate, task: Task) -> _Conversation:
        given = task.columns.get("completion")
        if given is None and not task.conversation:
            raise DataError(f"task {task.id}: no column 'completion' to learn; {cure_for('completion', task.columns)}")
        plain: tuple[Message, ...] = ({"role": "assistant", "content": given},) if isinstance(given, str) else ()
        before, said = task.messages or (), plain or tuple(given or ())
        begun = None
        if before and continues(before) and said and said[0]["role"] == "assistant" and not task.conversation:
            begun = before[-1]["content"]
            joined: Message = {**said[0], "content": begun + said[0]["content"]}
            before, said = before[:-1], (joined, *said[1:])
        row, where = template_row(task), f"task {task.id}"
        messages = (*before, *said)
        text = template.text(messages, where=where, generation_prompt=False, **row)
        check_shown(template, messages, text, where=where, generation_prompt=False, **row)
        return cls(template=template, messages=messages, begun=begun, text=text, where=where, row=row)

    def span(self, index: int) -> tuple[int, int] | None:
        """Where the turn stands in the text: from what the policy would be given to the token that ends it.

        None when it is the last message and not written as the policy would say it; raises DataError for others.
        """
        try:
            start = self._start(index)
            end = self._end(index, start)
            if lost_thoughts(self.messages[index], (self.begun or "") + self.text[start:end]):
                raise _NotAsSaid("leaves out thoughts of {answer}")
        except _NotAsSaid as reason:
            if index == len(self.messages) - 1:
                return None
            told = str(reason).format(answer=f"the answer in message {index}")
            raise DataError(f"{self.where}: the chat template {told}; {ONE_TURN}") from reason
        return start, end

    def continued(self, index: int, done: int) -> list[Piece]:
        """The pieces from character `done` on, when the last answer is put behind its prompt as the policy would say
        it: without what the template opens, and ended by the template's token."""
        message, prompt, end = self.messages[index], self._prompt(index), self.template.turn_end or ""
        if not prompt.startswith(self.text[:done]) or message.get("tool_calls"):
            raise DataError(f"{self.where}: the chat template does not write the last answer where it asks for it")
        opened = self.template.opened if self.begun is None else ""
        if message.get("reasoning_content") and not opened:
            raise DataError(
                f"{self.where}: the chat template does not show the thoughts of the last answer; write them into its "
                "content, take `reasoning_content` out, or set model.chat_template"
            )
        answer = _spelled(message, opened)[len(self.begun or "") :]
        if opened:
            tag = opened.strip()
            if not answer.lstrip().startswith(tag):
                raise DataError(
                    f"{self.where}: the chat template opens {opened!r} for the policy, and the answer does not go on "
                    f"from there ({answer[:20]!r}); begin it with {tag!r}, or set model.chat_template"
                )
            answer = answer.lstrip().removeprefix(tag)
            answer = answer.removeprefix(opened[opened.index(tag) + len(tag) :])
        return [Piece(text=prompt[done:], learnt=False), Piece(text=answer + end, learnt=True)]

    def _prompt(self, index: int) -> str:
        before = self.messages[:index]
        if self.begun is not None and index == len(self.messages) - 1:
            held: Message = {**self.messages[index], "content": self.begun}
            return prompt_text(self.template, (*before, held), where=self.where, **self.row)
        # a turn of its own, even behind another one of the assistant's
        return self.template.text(before, where=self.where, generation_prompt=True, **self.row)

    def _start(self, index: int) -> int:
        prompt = self._prompt(index)
        if not self.text.startswith(prompt):
            raise _NotAsSaid("does not write {answer} as the policy would say it")
        return len(prompt)

    def _end(self, index: int, start: int) -> int:
        """Behind the token that ends the turn."""
        message, turn_end = self.messages[index], self.template.turn_end
        upto = self._rendered(self.messages[: index + 1])
        if turn_end is None:
            if upto != self.text:
                raise _NotAsSaid("writes no token that ends {answer}")
            return len(upto)
        if self.text.startswith(upto):  # what comes later changes nothing
            turn = self.text[start : len(upto)].rstrip()
            place = turn.rfind(turn_end)
            if place >= 0 and not self.template.without_specials(turn[place:]).strip():
                return start + place + len(turn_end)
            if message.get("tool_calls") and self.template.special_at_end(turn):
                return start + len(turn)
            raise _NotAsSaid("does not end {answer} as it ends a last one")
        marked: Message = {**message, "content": MARK}
        before, _, after = self._rendered((*self.messages[:index], marked, *self.messages[index + 1 :])).partition(MARK)
        place = after.find(turn_end) if message.get("tool_calls") else len(after) - len(after.lstrip())
        if not (self.text.startswith(before) and self.text.endswith(after) and after.startswith(turn_end, place)):
            raise _NotAsSaid("does not end {answer} as it ends a last one")
        return len(self.text) - len(after) + place + len(turn_end)

    def _rendered(self, messages: Sequence[Message]) -> str:
        return self.template.text(messages, where=self.where, generation_prompt=False, **self.row)


def continues(messages: Sequence[Message]) -> bool:
    """Whether the policy goes on with the last message, which is its own."""
    return bool(messages) and messages[-1]["role"] == "assistant"


def template_row(task: Task) -> dict[str, Any]:
    """What a row gives to the chat template besides its messages."""
    return {"tools": task.columns.get("tools"), "arguments": task.columns.get("chat_template_kwargs")}


def prompt_text(template: ChatTemplate, messages: Sequence[Message], *, where: str, **row: Any) -> str:
    """The conversation up to where the policy goes on: behind the generation prompt, or within its last message."""
    if not continues(messages):
        return template.text(messages, where=where, generation_prompt=True, **row)
    marked: Message = {**messages[-1], "content": MARK}
    begun = template.text((*messages[:-1], marked), where=where, generation_prompt=False, **row)
    header, found, _ = begun.rpartition(MARK)
    if not found:
        raise DataError(f"{where}: the chat template does not show the last message, which the policy is to go on with")
    return header + messages[-1]["content"]


def eos_id(tokenizer: Any) -> int:
    """The token id that ends a text. Raises DataError when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no EOS token, so no answer could teach the policy to stop; give it one")
    return tokenizer.eos_token_id


def _spelled(message: Message, opened: str) -> str:
    """The answer with its thoughts, between the tag that the template opens and the one that closes it."""
    thought, tag = message.get("reasoning_content"), opened.strip()
    if not thought:
        return message["content"]
    closing = tag.replace("<", "</", 1).replace("[", "[/", 1).replace("◁", "◁/", 1)
    return f"{opened}{thought}\n{closing}\n\n{message['content']}" if tag else message["content"]


def _tokenised(tokenizer: Any, pieces: Sequence[Piece], task: Task, *, chat: bool, end: int | None) -> Rendering:
    """end: the token to put behind the last learnt piece where it has none; None where pieces hold it."""
    head, *rest = pieces
    prompt = plain_ids(tokenizer, head.text) if chat else encode(tokenizer, head.text)
    completion: list[int] = []
    action: list[bool] = []
    for piece in rest:
        ids = continuation_ids(tokenizer, piece.text)
        completion += ids
        action += [piece.learnt] * len(ids)
    if rest and end is not None and completion[-1:] != [end]:
        completion, action = [*completion, end], [*action, True]
    if not prompt and completion:  # nothing predicts the first token of a text
        prompt, completion, action = completion[:1], completion[1:], action[1:]
    return Rendering(
        pieces=tuple(pieces),
        prompt=tuple(prompt),
        completion=tuple(completion),
        action=tuple(action),
        turns=sum(piece.learnt for piece in pieces),
    )
