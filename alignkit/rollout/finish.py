"""RLGF's roll-outs: some completions are begun by the policy and finished by a guide, and scored as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.rollout.collect import Collected, Collector, Prompt
from alignkit.rollout.engine import Engine
from alignkit.types.rollout import Completion, Request, Rollout, StopReason
from alignkit.types.seeds import child


@dataclass(frozen=True, kw_only=True)
class FinishingCollector(Collector):
    """Samples single answers, of which the share `settings.finished` goes over to `guide` (2310.06147).

    Where one goes over is drawn by the seed before anything is said: a place that depended on what the policy said
    would select among its tokens, and bias their gradient. A completion that has ended by then stays whole.
    guide: a frozen model's engine, whose weights are no version of the policy. context: most tokens it can read.
    """

    guide: Engine
    context: int

    async def sample(self, prompts: Sequence[Prompt], *, first_group: int = 0) -> list[list[Rollout]]:
        groups = await super().sample(prompts, first_group=first_group)
        open_ends = {
            (rollout.group, rollout.member): self._onwards(prompt, rollout)
            for prompt, group in zip(prompts, groups, strict=True)
            for rollout in group
            if self._goes_over(prompt, rollout)
        }
        tails = await self.guide.generate(list(open_ends.values())) if open_ends else []
        tail_of = dict(zip(open_ends, tails, strict=True))
        return [
            [
                self._finished(prompt, rollout, tail)
                if (tail := tail_of.get((rollout.group, rollout.member)))
                else rollout
                for rollout in group
            ]
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def describe(self, collected: Collected) -> dict[str, Any]:
        rollouts = collected.everything
        finished = sum(bool(turn.finish_ids) for rollout in rollouts for turn in rollout.turns)
        return super().describe(collected) | {"rollout/finished_frac": finished / len(rollouts)}

    def cut(self, prompt: Prompt, member: int) -> int | None:
        """After how many tokens of the policy the guide takes over: 1 to max_new_tokens - 1; None: it does not."""
        rng = np.random.default_rng(child(self.seed, "finish", prompt.position, member))
        return int(rng.integers(1, self.settings.max_new_tokens)) if rng.random() < self.settings.finished else None

    def _request(self, prompt: Prompt, member: int) -> Request:
        request, cut = super()._request(prompt, member), self.cut(prompt, member)
        return request if cut is None else replace(request, max_new_tokens=cut)

    def _goes_over(self, prompt: Prompt, rollout: Rollout) -> bool:
        turn = rollout.turns[0]
        cut_there = self.cut(prompt, rollout.member) is not None and turn.stop is StopReason.LENGTH
        return cut_there and len(turn.prompt_ids) + len(turn.completion_ids) < self.context

    def _onwards(self, prompt: Prompt, rollout: Rollout) -> Request:
        """The guide goes on from the policy's exact tokens; both together have max_new_tokens."""
        turn = rollout.turns[0]
        return replace(
            super()._request(prompt, rollout.member),
            prompt_ids=turn.prompt_ids + turn.completion_ids,
            seed=child(self.seed, "guide sample", prompt.position, rollout.member),
            max_new_tokens=self.settings.max_new_tokens - len(turn.completion_ids),
        )

    def _finished(self, prompt: Prompt, rollout: Rollout, tail: Completion) -> Rollout:
        turn = rollout.turns[0]
        text = self.decode(prompt.begun + turn.completion_ids + tail.token_ids)
        return replace(rollout, turns=(replace(turn, finish_ids=tail.token_ids, stop=tail.stop, text=text),))
