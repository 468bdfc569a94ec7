"""One utterance of the policy, and how utterances and episodes end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from alignkit.types.task import Message, ToolCall


class StopReason(StrEnum):
    END_OF_TEXT = "end_of_text"  # the policy chose a stop token (it is the last completion token)
    LENGTH = "length"  # max_new_tokens reached: truncated
    CONTEXT_FULL = "context_full"  # the model's context is full: truncated
    ERROR = "error"  # the engine failed on this request


class EpisodeEnd(StrEnum):
    DONE = "done"  # the environment ended it
    MAX_TURNS = "max_turns"  # the recipe's number of turns was reached: truncated
    CONTEXT_FULL = "context_full"  # no room for another utterance: truncated
    MAX_SECONDS = "max_seconds"  # the recipe's time for an episode was up: truncated
    MAX_TOOL_CALLS = "max_tool_calls"  # the policy asked for one more than the recipe allows: truncated
    FAULT = "fault"  # the environment or the engine failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One utterance of the policy: the exact context it saw and the tokens it chose.

    reward, observation: what the environment paid for it and answered; None without an environment, or where it could
    not answer any more. The next turn's prompt_ids begin with this turn's prompt_ids, completion_ids
    and finish_ids, unless the environment began a new context.
    message: what was said, with its thoughts and tool calls, where there are tools. answers: the observation as
    messages. tool_faults: one word for each of the calls that failed.
    info, info_before: numbers and words that the environment said besides, in its answer and in what the turn answers.
    text: what rewards judge and people read: what the prompt already held of the answer (`opened` characters, such as a
    `<think>` of the chat template) and all that was said after it, special tokens included, stop and pad tokens not.
    finish_ids: tokens after the policy's that a guide wrote; `text` has them, and `stop` says how they ended.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    stop: StopReason
    text: str
    reward: float | None = None
    observation: str | None = None
    finish_ids: tuple[int, ...] = ()
    opened: int = 0
    info: Mapping[str, float | str] = field(default_factory=dict, hash=False)
    info_before: Mapping[str, float | str] = field(default_factory=dict, hash=False)
    message: Message | None = field(default=None, hash=False)
    answers: tuple[Message, ...] = field(default=(), hash=False)
    tool_faults: tuple[str, ...] = ()

    @property
    def calls(self) -> Sequence[ToolCall]:
        """The tool calls that it holds."""
        return self.message.get("tool_calls", ()) if self.message else ()
