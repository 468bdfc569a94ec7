"""The simplest play: a prompt and one completion of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignkit.rollout.play import RolloutStart, Speaker, Utterance
from alignkit.types.rollout import Completion, Rollout, Turn


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Single answers, all of them in one call of the speaker.

    decode: what was said, as text without stop and pad tokens.
    """

    decode: Callable[[Sequence[int]], str]

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        said = await speaker.sample([_utterance(start) for start in starts])
        return [self._rollout(start, completion) for start, completion in zip(starts, said, strict=True)]

    def _rollout(self, start: RolloutStart, completion: Completion) -> Rollout:
        prompt = start.prompt
        turn = Turn(
            prompt_ids=prompt.ids + prompt.begun,
            completion_ids=completion.token_ids,
            sampler_logprobs=completion.logprobs,
            stop=completion.stop,
            text=prompt.opened + self.decode(prompt.begun + completion.token_ids + completion.finish_ids),
            finish_ids=completion.finish_ids,
            opened=len(prompt.opened),
        )
        version = completion.policy_version
        return Rollout(task=prompt.task, group=start.group, member=start.member, turns=(turn,), policy_version=version)


def _utterance(start: RolloutStart) -> Utterance:
    return Utterance(ids=start.prompt.ids + start.prompt.begun, name=(start.prompt.position, start.member))
