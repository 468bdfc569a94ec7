"""RLGF's roll-outs: some utterances are begun by the policy and finished by a guide, and scored as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from alignkit.engines.engine import Engine
from alignkit.rollout.play import Play, RolloutStart, Speaker, Utterance
from alignkit.types.rollout import Completion, Request, Rollout, StopReason
from alignkit.types.seeds import child


@dataclass(frozen=True, kw_only=True)
class GuideRollOut:
    """Another play, of whose utterances the share `share` goes over to `guide` (2306.11816).

    Where one goes over is drawn by the seed before anything of it is said: a place that depended on what the policy
    said would select among its tokens, and bias their gradient. An utterance that has ended by then stays whole.
    guide: a frozen model's engine, whose weights are no version of the policy. context: most tokens it can read.
    """

    play: Play
    share: float
    guide: Engine
    context: int

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        return await self.play.run(starts, replace(speaker, sample=partial(self._sample, speaker)))

    def _cut(self, utterance: Utterance, speaker: Speaker) -> int | None:
        """After how many tokens of the policy the guide takes over: at least 1 is left for it; None: it does not."""
        longest = speaker.request(utterance).max_new_tokens
        rng = np.random.default_rng(child(speaker.seed, "finish", *utterance.name))
        return int(rng.integers(1, longest)) if rng.random() < self.share and longest > 1 else None

    async def _sample(self, speaker: Speaker, utterances: Sequence[Utterance]) -> list[Completion]:
        """What the policy said of each, with the guide's part where the policy was cut for it."""
        cuts = [self._cut(utterance, speaker) for utterance in utterances]
        said = await speaker.sample(
            [u if cut is None else replace(u, room=cut) for u, cut in zip(utterances, cuts, strict=True)]
        )
        onwards = {
            number: _onwards(speaker, utterance, completion)
            for number, (utterance, cut, completion) in enumerate(zip(utterances, cuts, said, strict=True))
            if cut is not None and self._goes_over(utterance, completion)
        }
        tails = await self.guide.generate(list(onwards.values())) if onwards else []
        for number, tail in zip(onwards, tails, strict=True):
            said[number] = replace(said[number], finish_ids=tail.token_ids, stop=tail.stop)
        return said

    def _goes_over(self, utterance: Utterance, completion: Completion) -> bool:
        read = len(utterance.ids) + len(completion.token_ids)
        return completion.stop is StopReason.LENGTH and read < self.context


def _onwards(speaker: Speaker, utterance: Utterance, completion: Completion) -> Request:
    """The guide goes on from the policy's exact tokens; both together have the room of one utterance."""
    whole = speaker.request(utterance)
    return replace(
        whole,
        prompt_ids=utterance.ids + completion.token_ids,
        seed=child(speaker.seed, "guide sample", *utterance.name),
        max_new_tokens=whole.max_new_tokens - len(completion.token_ids),
    )
