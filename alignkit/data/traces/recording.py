"""What a program asked the policy and what it answered: calls, linked where one's context begins with another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.errors import EngineError
from alignkit.types.rollout import Completion
from alignkit.types.task import Message


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the policy, token by token as the engine saw and said it.

    number: its place in the order of arrival, from 0. parent: number of the call that it goes on from: its prompt and
    completion are the first tokens of this prompt; None where there is none. messages, tools: what the program sent;
    answer: the message it got back. text: all of the answer, the `opened` characters of its context included.
    """

    number: int
    parent: int | None
    prompt_ids: tuple[int, ...]
    completion: Completion
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    answer: Message
    text: str
    opened: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """Its prompt, and what was said after it."""
        return self.prompt_ids + self.completion.token_ids


@dataclass(kw_only=True)
class Recording:
    """The calls of one program, in the order of arrival."""

    calls: list[Call] = field(default_factory=list)

    def add(self, **call: Any) -> Call:
        """Records a call, linked to the longest one that its prompt begins with. Takes what a Call has but its links.

        Raises EngineError when the engine's tokens and log-probs are not equally many: nothing of that can be learnt.
        """
        completion: Completion = call["completion"]
        if len(completion.token_ids) != len(completion.logprobs):
            raise EngineError(
                f"call {len(self.calls)} has {len(completion.token_ids)} tokens and "
                f"{len(completion.logprobs)} log-probs, wanted equally many; this is the engine's fault"
            )
        parent = self._longest(call["prompt_ids"])
        made = Call(number=len(self.calls), parent=parent, **call)
        self.calls.append(made)
        return made

    def _longest(self, prompt_ids: Sequence[int]) -> int | None:
        """The call whose tokens are most of the first of these; of equal ones the last."""
        known = [call for call in self.calls if tuple(prompt_ids[: len(call.ids)]) == call.ids]
        return max(known, key=lambda call: (len(call.ids), call.number)).number if known else None

    @property
    def retried(self) -> set[int]:
        """Of calls that asked the same, word for word, those whose answers the program threw away: it went on from
        another of them, else from none and they are not the last. The very last call is what it came to."""
        gone_on = {call.parent for call in self.calls}
        last = {call.prompt_ids: call.number for call in self.calls}
        taken = {call.prompt_ids for call in self.calls if call.number in gone_on}
        return {
            call.number
            for call in self.calls[:-1]
            if call.number not in gone_on and (call.prompt_ids in taken or last[call.prompt_ids] > call.number)
        }

    def chains(self, *, with_retried: bool = False) -> list[list[Call]]:
        """Every call (that was not retried), once: each chain begins anew or forks off, and goes on call by call.

        A call that is gone on from in several ways is in the chain of the longest of them (of equal ones the last);
        the others begin chains of their own, where what they share is context. In the order of their first calls.
        """
        left_out = set() if with_retried else self.retried
        kept = [call for call in self.calls if call.number not in left_out]
        length: dict[int, int] = {}
        heir: dict[int, int] = {}
        for call in reversed(kept):  # children come after their parents
            length[call.number] = 1 + (length[heir[call.number]] if call.number in heir else 0)
            if call.parent is not None and (call.parent not in heir or length[call.number] > length[heir[call.parent]]):
                heir[call.parent] = call.number
        by_number = {call.number: call for call in kept}
        chains = []
        for call in kept:
            if call.parent is None or heir.get(call.parent) != call.number:
                chain = [call]
                while chain[-1].number in heir:
                    chain.append(by_number[heir[chain[-1].number]])
                chains.append(chain)
        return chains

    @property
    def last(self) -> Call | None:
        """The call that came last, of those that were not retried."""
        kept = [call for call in self.calls if call.number not in self.retried]
        return kept[-1] if kept else None
