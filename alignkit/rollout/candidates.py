"""Candidates: one turn of each episode is drawn, and other utterances are sampled after the state before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignkit.rollout.collect import Scorer
from alignkit.rollout.episodes import Episode, Episodes
from alignkit.rollout.play import RolloutStart, Speaker, Utterance
from alignkit.rollout.resets import drawn_reset, play_firsts
from alignkit.types.rollout import Completion, Rollout, Turn
from alignkit.types.score import Score
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Groups of utterances after one state.

    Member 0 is an episode that is played to its end; one of its turns is drawn by the seed. The others are what the
    policy says instead, in the very same context; no environment hears it. What the environment paid stays in the parts
    of the first one's score: rewards alone say what the utterances are worth (`JudgedUtterances`). A failed episode
    stays alone.
    """

    episodes: Episodes

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        firsts = await play_firsts(self.episodes, starts, speaker)
        played = {group: _unpaid(first) for group, first in firsts.items()}
        others = [start for start in starts if start.member and played[start.group].reset]
        said = await speaker.sample([self._utterance(start, played[start.group]) for start in others]) if others else []
        found = [self._other(start, played[start.group], each) for start, each in zip(others, said, strict=True)]
        return sorted([*played.values(), *found], key=lambda rollout: (rollout.group, rollout.member))

    def _utterance(self, start: RolloutStart, first: Rollout) -> Utterance:
        turn = _drawn(first)
        name = (start.prompt.position, start.member, len(_before(first)))
        return Utterance(ids=turn.prompt_ids, name=name, room=self.episodes.context - len(turn.prompt_ids))

    def _other(self, start: RolloutStart, first: Rollout, said: Completion) -> Rollout:
        turn = _drawn(first)
        own = Turn(
            prompt_ids=turn.prompt_ids,
            completion_ids=said.token_ids,
            sampler_logprobs=said.logprobs,
            stop=said.stop,
            text=turn.text[: turn.opened] + self.episodes.renderer.decode(said.token_ids + said.finish_ids),
            finish_ids=said.finish_ids,
            opened=turn.opened,
            info_before=turn.info_before,
        )
        return Rollout(
            task=first.task,
            group=start.group,
            member=start.member,
            turns=(*_before(first), own),
            policy_version=said.policy_version,
            score=Score(value=0.0),  # that no environment paid; what the rewards say is added to it
            reset=first.reset,
        )


@dataclass(frozen=True, kw_only=True)
class JudgedUtterances:
    """Scores of `rewards` for the drawn turns of episodes: each rollout is judged as if it ended with that one."""

    rewards: Scorer

    async def score(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]:
        return await self.rewards.score([(task, [_up_to_drawn(one) for one in group]) for task, group in groups])


def _unpaid(first: Episode) -> Rollout:
    """A played episode with the turn that is drawn, and what it was paid only told; a failed one as it is."""
    rollout, reset = first.rollout(), drawn_reset(first)
    if reset is None or rollout.score is None:
        return rollout
    turns = tuple(replace(turn, reward=None) for turn in rollout.turns)
    return replace(rollout, turns=turns, reset=reset, score=replace(rollout.score, value=0.0))


def _before(rollout: Rollout) -> tuple[Turn, ...]:
    return rollout.turns[: rollout.reset.turn] if rollout.reset else ()


def _drawn(rollout: Rollout) -> Turn:
    return rollout.turns[len(_before(rollout))]


def _up_to_drawn(rollout: Rollout) -> Rollout:
    return replace(rollout, turns=rollout.turns[: rollout.reset.turn + 1]) if rollout.reset else rollout
