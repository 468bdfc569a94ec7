"""OpenAI's chat and text completions on the wire: what is asked, and what is answered, whole or as a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from alignkit.data.traces.recording import Call
from alignkit.errors import DataError
from alignkit.types.messages import read_messages
from alignkit.types.task import Message
from alignkit.types.turn import StopReason

MODEL = "policy"
NOT_TAKEN: dict[str, tuple[Any, ...]] = {
    "stop": (None, [], ""),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "echo": (None, False),
    "top_logprobs": (None, 0),
    "functions": (None, []),
    "function_call": (None,),
}
"""What would change which tokens can be said, or is not answered, with the values that ask for nothing of it."""
CHUNK = 64


class Refusal(Exception):
    """A request that is not answered. status: of HTTP; code: one word for programs."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "code": self.code}}


class Asked(BaseModel):
    """What both kinds of requests have. Temperature and the like are not read: the recipe's hold."""

    model_config = ConfigDict(extra="allow")

    model: str = MODEL
    n: int = 1
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | int | None = None

    @property
    def longest(self) -> int | None:
        """The most tokens that it wants; None: as many as the recipe allows."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def check(self) -> None:
        """Raises Refusal for what cannot be had, by name."""
        said = self.model_extra or {}
        if self.n != 1:
            raise Refusal(400, "n", f"n is {self.n}; wanted 1: ask again for another answer")
        if self.longest is not None and self.longest < 1:
            raise Refusal(400, "max_tokens", f"max_tokens is {self.longest}; wanted 1 or more")
        for name, nothing in NOT_TAKEN.items():
            if said.get(name) not in nothing:
                raise Refusal(400, name, f"{name} is not taken: what is sampled is the plain policy; leave it out")


class ChatAsked(Asked):
    """A body of /v1/chat/completions."""

    messages: list[Any]
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] | None = None

    def conversation(self) -> list[Message]:
        """Its messages in the one form. Raises Refusal for those that cannot be read."""
        try:
            return read_messages(self.messages, where="messages")
        except DataError as error:
            raise Refusal(400, "messages", str(error)) from error

    def offered(self) -> list[dict[str, Any]]:
        """The tools that the policy may call. Raises Refusal where one is to be forced."""
        if self.tool_choice not in (None, "auto", "none"):
            raise Refusal(400, "tool_choice", f"tool_choice is {self.tool_choice!r}; wanted auto or none")
        return [] if self.tool_choice == "none" else self.tools


class TextAsked(Asked):
    """A body of /v1/completions. prompt: text, or exact token ids."""

    prompt: str | list[int] | list[str] | list[list[int]]

    def one(self) -> str | list[int]:
        """Its one prompt. Raises Refusal for several."""
        prompt: Any = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) != 1:
                raise Refusal(400, "prompt", f"{len(prompt)} prompts; wanted one")
            prompt = prompt[0]
        if not prompt:
            raise Refusal(400, "prompt", "the prompt is empty; wanted text or token ids")
        return prompt


def chat_answer(call: Call, asked: ChatAsked, tokens: Sequence[str]) -> dict[str, Any]:
    """A chat completion. tokens: the text of each sampled token, for log-probs where they are asked for."""
    message: dict[str, Any] = {"role": "assistant", "content": call.answer["content"] or None}
    if "reasoning_content" in call.answer:
        message["reasoning_content"] = call.answer["reasoning_content"]
    calls = call.answer.get("tool_calls", ())
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{call.number}_{number}",
                "type": "function",
                "function": {
                    "name": one["function"]["name"],
                    "arguments": json.dumps(one["function"]["arguments"], ensure_ascii=False),
                },
            }
            for number, one in enumerate(calls)
        ]
    logprobs = {"content": _logprobs(call, tokens)} if asked.logprobs else None
    choice = {"index": 0, "message": message, "finish_reason": _finish(call), "logprobs": logprobs}
    return _envelope(call, "chat.completion", choice)


def text_answer(call: Call, asked: TextAsked, tokens: Sequence[str]) -> dict[str, Any]:
    """A text completion."""
    logprobs = None
    if asked.logprobs:
        logprobs = {"tokens": list(tokens), "token_logprobs": list(call.completion.logprobs), "top_logprobs": None}
    said = call.text[call.opened :]
    return _envelope(
        call, "text_completion", {"index": 0, "text": said, "finish_reason": _finish(call), "logprobs": logprobs}
    )


def streamed(answer: Mapping[str, Any], *, usage: bool) -> Iterator[str]:
    """An answer as server-sent events. usage: whether the last one counts the tokens."""
    head = {name: answer[name] for name in ("id", "created", "model")}
    [choice] = answer["choices"]
    chat = "message" in choice
    head["object"] = "chat.completion.chunk" if chat else "text_completion"

    def event(part: Mapping[str, Any], finish: str | None = None) -> str:
        piece = {"delta": part} if chat else part
        chunk = {**head, "choices": [{"index": 0, **piece, "finish_reason": finish}]}
        return f"data: {json.dumps(chunk)}\n\n"

    if chat:
        message = choice["message"]
        yield event({"role": "assistant", "content": ""})
        for name in ("reasoning_content", "content"):
            for piece in _pieces(message.get(name) or ""):
                yield event({name: piece})
        if "tool_calls" in message:
            yield event({"tool_calls": [{"index": i, **one} for i, one in enumerate(message["tool_calls"])]})
        yield event({}, choice["finish_reason"])
    else:
        for piece in _pieces(choice["text"]):
            yield event({"text": piece})
        yield event({"text": ""}, choice["finish_reason"])
    if usage:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': answer['usage']})}\n\n"
    yield "data: [DONE]\n\n"


def _envelope(call: Call, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    prompt, said = len(call.prompt_ids), len(call.completion.token_ids)
    return {
        "id": f"call-{call.number}",
        "object": kind,
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{**choice, "token_ids": list(call.completion.token_ids)}],
        "prompt_token_ids": list(call.prompt_ids),
        "usage": {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said},
    }


def _finish(call: Call) -> str:
    if call.completion.stop in (StopReason.LENGTH, StopReason.CONTEXT_FULL):
        return "length"
    return "tool_calls" if call.answer.get("tool_calls") else "stop"


def _logprobs(call: Call, tokens: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
        for token, logprob in zip(tokens, call.completion.logprobs, strict=True)
    ]


def _pieces(text: str) -> list[str]:
    return [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
