"""The exact tokens of a conversation that a program sends as text, going on from those that were sampled for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from alignkit.data.traces.recording import Call
from alignkit.data.turns import Renderer, Transcript
from alignkit.errors import DataError
from alignkit.types.task import Message


@dataclass(kw_only=True)
class Contexts:
    """What the policy was shown and said, as transcripts; `of` finds the one that a conversation goes on from.

    A conversation goes on from a call when it begins with that call's messages and the answer that the program got. Its
    tokens then begin with the call's own, sampled ones included, and only what is new is rendered. One that was edited,
    or whose template rewrites what it rendered before, begins anew where the edit is: none of what is rendered counts
    as said by the policy.
    """

    renderer: Renderer
    _after: dict[int, tuple[Call, Transcript]] = field(default_factory=dict)

    def of(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """The transcript of a conversation, up to where the policy speaks.

        Raises DataError where the template refuses the messages, or the last of them is the policy's own.
        """
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError("the last message is the assistant's; wanted one that it answers")
        for call, transcript in self._begun_by(messages, tools):
            try:
                return _gone_on(transcript, messages[len(call.messages) + 1 :])
            except DataError:  # the template rewrites what it rendered: a shorter beginning may still hold
                continue
        transcript = self.renderer.begin()
        transcript.offer(tools)
        transcript.observe("", messages)
        return transcript

    def answered(self, call: Call, transcript: Transcript) -> None:
        """Keeps what a call made of a transcript, so that conversations can go on from it."""
        self._after[call.number] = (call, transcript)

    def _begun_by(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Call, Transcript]]:
        """Calls that the conversation goes on from, the longest first; of equal ones the last."""
        identities = [_identity(message) for message in messages]
        found = [
            (call, transcript)
            for call, transcript in self._after.values()
            if list(call.tools) == list(tools) and _begins(identities, [*call.messages, call.answer])
        ]
        return sorted(found, key=lambda one: (len(one[0].messages), one[0].number), reverse=True)


def _gone_on(transcript: Transcript, new: Sequence[Message]) -> Transcript:
    own = copy(transcript)
    own.ids, own.action, own.messages = list(own.ids), list(own.action), list(own.messages)
    own.observe("", new)
    return own


def _begins(identities: Sequence[Any], beginning: Sequence[Message]) -> bool:
    return len(beginning) < len(identities) and all(
        identity == _identity(message) for identity, message in zip(identities, beginning, strict=False)
    )


def _identity(message: Message) -> tuple[Any, ...]:
    """What makes a message the same one, though a program spells it anew: its role, what it says, what it calls."""
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    return message["role"], message["content"].strip(), calls
