"""One program's access to the policy: its calls, exact tokens, and budgets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alignkit.data.traces.recording import Call, Recording
from alignkit.data.turns import Renderer, Transcript
from alignkit.errors import DataError
from alignkit.rollout.gateway.contexts import Contexts
from alignkit.rollout.gateway.wire import Refusal
from alignkit.rollout.play import Speaker, Utterance
from alignkit.types.task import Message
from alignkit.types.turn import EpisodeEnd, StopReason


@dataclass(kw_only=True)
class Session:
    """Answers one program with the policy, and records every token.

    name: position and member of its rollout, by which its sampling is named. context: most tokens of one call's prompt
    and answer. max_turns: most calls; max_seconds: after these none is answered. end: the limit at which it was cut.
    """

    renderer: Renderer
    speaker: Speaker
    name: tuple[int, int]
    context: int
    max_turns: int
    max_seconds: float | None = None
    recording: Recording = field(default_factory=Recording)
    end: EpisodeEnd | None = None
    engine_failed: bool = False
    _contexts: Contexts = field(init=False)
    _asked: int = field(default=0, init=False)
    _begun: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self._contexts = Contexts(renderer=replace(self.renderer, system=None))

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, longest: int | None = None
    ) -> Call:
        """The policy's answer to a conversation. Raises Refusal, which says why there is none."""
        self._check_budget()
        try:
            transcript = self._contexts.of(messages, tools)
        except DataError as error:
            raise Refusal(400, "messages", str(error)) from error
        call = await self._said(transcript, longest, messages=tuple(messages), tools=tuple(tools))
        self._contexts.answered(call, transcript)
        return call

    async def complete(self, prompt: str | Sequence[int], *, longest: int | None = None) -> Call:
        """The policy's continuation of a text, or of exact token ids. Raises Refusal, which says why there is none."""
        self._check_budget()
        transcript = replace(self.renderer, chat=False, system=None).begin()
        if isinstance(prompt, str):
            transcript.observe(prompt)
        else:
            self._check_ids(prompt)
            transcript.ids += prompt
            transcript.action += [False] * len(prompt)
        return await self._said(transcript, longest, messages=(), tools=())

    async def _said(self, transcript: Transcript, longest: int | None, **what: Any) -> Call:
        before, opened = tuple(transcript.ids), transcript.opened
        room = self.context - len(before)
        if room < 1:
            self.end = EpisodeEnd.CONTEXT_FULL
            size = f"the prompt has {len(before)} tokens, the context {self.context}"
            raise Refusal(400, "context_length_exceeded", f"{size}; send less of the conversation")
        name, room = (*self.name, self._asked), room if longest is None else min(room, longest)
        self._asked += 1  # before it is answered: of several at once none is over the budget, or has another's samples
        utterance = Utterance(ids=before, name=name, room=room)
        [completion] = await self.speaker.sample([utterance])
        if completion.stop is StopReason.ERROR:
            self.engine_failed = True
            raise Refusal(500, "engine", "the engine failed on this request")
        answer = transcript.act(completion.token_ids)
        text = opened + self.renderer.decode(completion.token_ids)
        return self.recording.add(
            prompt_ids=before, completion=completion, answer=answer, text=text, opened=len(opened), **what
        )

    def _check_ids(self, ids: Sequence[int]) -> None:
        """An id that the model has no embedding for would fail in the engine, and all that shares its batch."""
        known = len(self.renderer.tokenizer)
        wrong = next((one for one in ids if not 0 <= one < known), None)
        if wrong is not None:
            raise Refusal(400, "prompt", f"the prompt has the token id {wrong}; wanted 0 to {known - 1}")

    def _check_budget(self) -> None:
        if self._asked >= self.max_turns:
            self.end = EpisodeEnd.MAX_TURNS
            raise Refusal(400, "budget", f"the budget of {self.max_turns} calls is spent (environment.max_turns)")
        if self.max_seconds is not None and time.monotonic() - self._begun > self.max_seconds:
            self.end = EpisodeEnd.MAX_SECONDS
            raise Refusal(400, "budget", f"the budget of {self.max_seconds:g} s is spent (environment.max_seconds)")
