"""RLGF's roll-ins: completions that begin as the task's own does; the policy says the rest, and the whole is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alignkit.rollout.play import Play, Prompt, RolloutStart, Speaker
from alignkit.types.rollout import Rollout
from alignkit.types.seeds import child


@dataclass(frozen=True, kw_only=True)
class GuideRollIn:
    """Another play, of which the share `share` of the prompts is begun for the policy (2306.11816).

    Which, and how much of them, is drawn by the seed and the same for all members of a group.
    """

    play: Play
    share: float

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        begun = [replace(start, prompt=self._begun(start.prompt, speaker.seed)) for start in starts]
        return await self.play.run(begun, speaker)

    def _begun(self, prompt: Prompt, seed: int) -> Prompt:
        """The prompt with the guide's part: nothing, or at least one token of the completion and never the whole."""
        whole = prompt.completion
        rng = np.random.default_rng(child(seed, "guide", prompt.position))
        if len(whole) < 2 or rng.random() >= self.share:
            return prompt
        return replace(prompt, begun=whole[: rng.integers(1, len(whole))])
