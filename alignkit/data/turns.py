"""Conversations as exact token ids that only ever grow at their end: to be sampled, or learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from alignkit.data.chat_template import OPEN_TAG, chat_template
from alignkit.data.rendering import eos_id
from alignkit.data.tokens import encode, plain_ids, said_text
from alignkit.data.tool_formats import read_calls, tool_format
from alignkit.errors import DataError
from alignkit.types.task import Message

SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """How environment text becomes tokens.

    chat: as user messages through the chat template; False: text as it is, the stop token standing between turns.
    system: system message put before the first observation of chats. arguments: of the chat template.
    stop_token_ids: what ends the policy's turns, besides the tokenizer's EOS.
    """

    tokenizer: Any
    chat: bool
    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()

    @property
    def end_id(self) -> int:
        """The token that ends a given utterance: the chat template's, else EOS. Raises DataError without either."""
        end = chat_template(self.tokenizer, self.arguments).turn_end_id if self.chat else None
        return eos_id(self.tokenizer) if end is None else end

    def opened(self, context: str) -> str:
        """What the context, as text, already holds of the policy's next utterance, such as an open `<think>`."""
        if self.chat:
            return chat_template(self.tokenizer, self.arguments).opened
        tag = OPEN_TAG.search(context)
        return tag.group() if tag else ""

    def begin(self) -> Transcript:
        """An empty transcript."""
        return Transcript(renderer=self)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text on its own, without special tokens of the tokenizer's making."""
        return plain_ids(self.tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        """What the policy said with these tokens, without stop and pad tokens."""
        return said_text(self.tokenizer, ids, self.stop_token_ids)

    def template(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), goes_on: bool = True
    ) -> str:
        """The conversation as text, with `goes_on` up to where the policy does. Raises DataError when the template
        refuses it."""
        template = chat_template(self.tokenizer, self.arguments)
        where = f"turn {_turns(messages)}"
        return template.text(messages, where=where, generation_prompt=goes_on, tools=list(tools) or None)

    def tool_format(self) -> dict[str, Any]:
        """How the policy writes tool calls; raises DataError where no one can say."""
        if not self.chat:
            raise DataError("tools: the chat template shows them, and data.chat is false; set it to true")
        return tool_format(self.tokenizer, self.arguments)


@dataclass(kw_only=True)
class Transcript:
    """The context of one episode. `observe` and `act` take turns; what is in `ids` never changes again.

    ids: everything so far, as the policy saw it. action: per token, whether it was said, by the policy or a guide.
    opened: what the context holds of the policy's next utterance already. tools: what the policy may call.
    """

    renderer: Renderer
    messages: list[Message] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    action: list[bool] = field(default_factory=list)
    opened: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    _format: Mapping[str, Any] = field(default_factory=dict, init=False)
    _rendered: str = field(default="", init=False)
    _said: str = field(default="", init=False)

    def offer(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """What the policy may call from now on; raises DataError where its template shows none."""
        self.tools, self._format = tools, self.renderer.tool_format() if tools else {}

    def observe(self, text: str, messages: Sequence[Message] = ()) -> None:
        """Appends what the environment said, tokenised on its own; what was there before stays token by token.

        messages: what a chat says instead of `text` as a message of the user.
        Raises DataError, naming the turn, when the chat template changes what it rendered before.
        """
        new: Sequence[Message] = messages or [{"role": "user", "content": text}]
        if self.renderer.chat:
            ids = self._chat_ids(new)
        else:
            ids = self._plain_ids("\n".join(message["content"] for message in new))
        self.ids += ids
        self.action += [False] * len(ids)
        self.opened = self.renderer.opened(text)

    def act(self, ids: Sequence[int]) -> Message:
        """Appends an utterance's tokens exactly as they were sampled, its stop token included; what they say."""
        self.ids += ids
        self.action += [True] * len(ids)
        self._said = self.renderer.decode(ids)
        message: Message = {"role": "assistant", "content": self.opened + self._said}
        if self.tools:
            message = read_calls(message["content"], self._format, self.tools)
        self.messages.append(message)
        return message

    def begin_anew(self) -> None:
        """Forgets everything but the tools."""
        self.messages, self.ids, self.action, self._rendered, self._said = [], [], [], "", ""

    def _plain_ids(self, text: str) -> list[int]:
        if not self.ids:
            return encode(self.renderer.tokenizer, text)
        closing = self.renderer.tokenizer.eos_token_id
        cut = closing is not None and self.ids[-1] != closing  # an utterance cut at its length: we close it
        return [*([closing] if cut else []), *self.renderer.encode(text)]

    def _chat_ids(self, answers: Sequence[Message]) -> list[int]:
        before, renderer = self.messages, self.renderer
        if not before and renderer.system is not None and answers[0]["role"] != "system":
            before = [Message(role="system", content=renderer.system)]
        messages = [*before, *answers]
        rendered = renderer.template(messages, tools=self.tools)
        called = before and "tool_calls" in before[-1]
        kept = self._closed(rendered) if called else self._kept(rendered, _turns(messages))
        new = renderer.encode(rendered[kept:])
        if self.ids and new[:1] == self.ids[-1:] and self.ids[-1] in renderer.tokenizer.all_special_ids:
            new = new[1:]  # the policy's own stop token ended its turn
        self.messages, self._rendered = messages, rendered
        return new

    def _closed(self, rendered: str) -> int:
        """The same after tool calls, which a template writes in its own way: where the text that ends them begins."""
        closed = self.renderer.template(self.messages, tools=self.tools, goes_on=False)
        for before, after in ((self._rendered, closed), (closed, rendered)):
            if not after.startswith(before):
                self._rewrites(before, after, _turns(self.messages))
        end = closed.rstrip()
        return len(end) - len(chat_template(self.renderer.tokenizer, self.renderer.arguments).special_at_end(end) or "")

    def _kept(self, rendered: str, turn: int) -> int:
        """How many characters of a rendering are in the context already; the rest is new."""
        for said in (self._said, self._said.strip()):  # templates may trim an utterance: the sampled tokens stay
            if rendered.startswith(self._rendered + said):
                return len(self._rendered) + len(said)
        self._rewrites(self._rendered + self._said, rendered, turn)

    def _rewrites(self, before: str, rendered: str, turn: int) -> NoReturn:
        same = next((i for i, (a, b) in enumerate(zip(before, rendered, strict=False)) if a != b), len(rendered))
        start = max(0, same - SHOWN // 2)
        raise DataError(
            f"turn {turn}: the chat template rewrites earlier turns: {before[start : start + SHOWN]!r} became "
            f"{rendered[start : start + SHOWN]!r}; set model.chat_template to one that only appends"
        )


def _turns(messages: Sequence[Message]) -> int:
    """Number of the turn that comes next, from 1."""
    return 1 + sum(message["role"] == "assistant" for message in messages)
