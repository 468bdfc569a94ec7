"""A tokenizer's chat template: what it makes of a conversation, what it opens for the policy, how it ends a turn."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary, ref

from alignkit.data.cpu_limit import OverCpuLimit, cpu_limit
from alignkit.errors import DataError
from alignkit.types.task import Message

MARK = "alignkitMarksThisPlace"
"""Stands for a message's content where it is to be found in a rendering."""

OPEN_TAG = re.compile(
    r"(?:<(?:think|thinking|thought|thoughts|reasoning|reason|answer|seed:think|\|START_THINKING\|)>|\[THINK\]|◁think▷)\s*$"
)
RENDER_CPU_S = 20.0
"""Processor time of one rendering: thousands of times what a long conversation takes."""
TEMPLATE_FAULTS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError)

_templates: WeakKeyDictionary[Any, dict[str, ChatTemplate]] = WeakKeyDictionary()


def chat_template(tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> ChatTemplate:
    """The ChatTemplate of a tokenizer as it is now; what is found out about it is kept as long as the tokenizer.

    arguments: passed to every rendering (`enable_thinking: false`).
    """
    of_tokenizer = _templates.setdefault(tokenizer, {})
    key = json.dumps([tokenizer.chat_template, dict(arguments or {})], sort_keys=True, default=str)
    return of_tokenizer.setdefault(key, ChatTemplate(tokenizer=ref(tokenizer), arguments=dict(arguments or {})))


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """tokenizer: a weak reference to it. arguments: of every rendering. Made by `chat_template`."""

    tokenizer: ref[Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def text(
        self,
        messages: Sequence[Message],
        *,
        where: str,
        generation_prompt: bool,
        tools: Any = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text, with its special tokens; with the generation prompt the policy goes on from there.

        tools: as the row gives them. arguments: the row's own, before those of the recipe.
        Raises DataError, which begins with `where`, when there is no template, it refuses the messages or never ends.
        """
        from jinja2 import TemplateError

        tokenizer: Any = self.tokenizer()
        if not tokenizer.chat_template:
            raise DataError("the tokenizer has no chat template; set model.chat_template, or data.chat to false")
        try:
            with cpu_limit(RENDER_CPU_S):
                return tokenizer.apply_chat_template(
                    [_shown(message) for message in messages],
                    tools=tools,
                    add_generation_prompt=generation_prompt,
                    tokenize=False,
                    **{**self.arguments, **(arguments or {})},
                )
        except OverCpuLimit as error:
            raise DataError(
                f"{where}: the chat template takes more than {RENDER_CPU_S:g} s of processor time for one row, so a "
                "loop in it seems never to end; set model.chat_template to one that can be trusted"
            ) from error
        except (TemplateError, *TEMPLATE_FAULTS) as error:
            why = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise DataError(f"{where}: the chat template refuses its messages: {why}") from error

    @cached_property
    def turn_end(self) -> str | None:
        """The special token with which an assistant's last turn ends; None when the template writes none."""
        rendered = self._probe(("user", "x"), ("assistant", MARK))
        _, found, after = (rendered or "").rpartition(MARK)
        return self.special_at_start(after.lstrip()) if found else None

    @property
    def turn_end_id(self) -> int | None:
        """The token id that ends the policy's turn: the template's, else the tokenizer's EOS; None without either."""
        tokenizer: Any = self.tokenizer()
        end = self.turn_end if tokenizer.chat_template else None
        return tokenizer.eos_token_id if end is None else tokenizer.convert_tokens_to_ids(end)

    @cached_property
    def opened(self) -> str:
        """What the generation prompt writes of the answer itself (`<think>`) and leaves open; "" for most templates."""
        prompt = self._probe(("user", "x"), generation_prompt=True) or ""
        history = self._probe(("user", "x"), ("assistant", MARK), ("user", "x")) or ""
        header, found, _ = history.partition(MARK)
        tag = OPEN_TAG.search(prompt)
        begun = prompt[len(header) :] if found and prompt.startswith(header) else ""
        begun = begun if begun.strip() else tag.group() if tag else ""
        return "" if re.search(r"</|\[/THINK\]|◁/think▷|END_THINKING", begun) else begun

    def special_at_start(self, text: str) -> str | None:
        """The special token that a text begins with."""
        found = self._specials.match(text)
        return found.group() if found else None

    def special_at_end(self, text: str) -> str | None:
        """The special token that a text ends with."""
        return next((one for one in self._special_texts if text.endswith(one)), None)

    def without_specials(self, text: str) -> str:
        """The text with its special tokens taken out."""
        return self._specials.sub("", text)

    def shows_role(self, messages: Sequence[Message], index: int, **row: Any) -> bool:
        """Whether the message's role makes a difference: another one's words there are rendered in another way.

        Asked once per role, so what is asked about is no message's own. row: `tools`, `arguments` and
        `generation_prompt` of the rendering.
        """
        role = messages[index]["role"]
        if role not in self._roles:
            said: Any = {name: part for name, part in messages[index].items() if name != "tool_calls"}
            pages = []
            for speaker in (role, "user" if role != "user" else "assistant"):
                spoken: Message = {**said, "role": speaker, "content": MARK}
                try:
                    pages.append(self.text([*messages[:index], spoken, *messages[index + 1 :]], where="", **row))
                except DataError:  # a template that refuses one of the roles tells the two apart
                    pages.append(speaker)
            self._roles[role] = pages[0] != pages[1]
        return self._roles[role]

    @cached_property
    def _roles(self) -> dict[str, bool]:
        return {}

    @cached_property
    def _special_texts(self) -> list[str]:
        tokenizer: Any = self.tokenizer()
        added = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        return sorted(filter(None, {*tokenizer.all_special_tokens, *added}), key=len, reverse=True)

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._special_texts)) or r"(?!)")

    def _probe(self, *said: tuple[str, str], generation_prompt: bool = False) -> str | None:
        messages: list[Message] = [{"role": role, "content": content} for role, content in said]
        try:
            return self.text(messages, where="", generation_prompt=generation_prompt)
        except DataError:
            return None


def _shown(message: Message) -> dict[str, Any]:
    """The message as templates read it, its thoughts under both names that they go by."""
    shown: dict[str, Any] = {name: part for name, part in message.items() if name != "learnt"}
    return {"thinking": message["reasoning_content"], **shown} if "reasoning_content" in message else shown
