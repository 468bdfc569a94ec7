"""Resets: one turn of each episode is drawn, and the episode goes on from there once more with a fresh utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from alignkit.rollout.episodes import Episode, Episodes
from alignkit.rollout.play import RolloutStart, Speaker
from alignkit.types.rollout import Completion, Reset, Rollout, Turn
from alignkit.types.score import FaultKind
from alignkit.types.seeds import child


@dataclass(frozen=True, kw_only=True)
class Resets:
    """Groups of episodes that are the same up to a turn.

    Member 0 is played first; one of its turns is drawn by the seed. The others go back to the state before that turn:
    a fresh environment with the same seed takes the recorded utterances, and must answer the same tokens. A failed
    first episode stays alone.
    """

    episodes: Episodes

    async def run(self, starts: Sequence[RolloutStart], speaker: Speaker) -> list[Rollout]:
        firsts = await play_firsts(self.episodes, starts, speaker)
        resets = {group: drawn_reset(first) for group, first in firsts.items()}
        forks = [
            Fork(rules=self.episodes, start=start, speaker=speaker, past=firsts[start.group].turns[: reset.turn + 1])
            for start in starts
            if start.member and (reset := resets[start.group])
        ]
        await self.episodes.play_out(forks, speaker)
        played = sorted([*firsts.values(), *forks], key=lambda episode: (episode.start.group, episode.start.member))
        return [replace(episode.rollout(), reset=resets[episode.start.group]) for episode in played]


async def play_firsts(episodes: Episodes, starts: Sequence[RolloutStart], speaker: Speaker) -> dict[int, Episode]:
    """The first member of every group, played out, by the group's number."""
    firsts = {
        start.group: Episode(rules=episodes, start=start, speaker=speaker) for start in starts if start.member == 0
    }
    await episodes.play_out(list(firsts.values()), speaker)
    return firsts


def drawn_reset(first: Episode) -> Reset | None:
    """The turn of a played episode that is drawn by the seed, each as likely; None where it failed or has no turn."""
    turns = len(first.turns)
    if first.fault is not None or not turns:
        return None
    return Reset(turn=child(first.speaker.seed, "reset", first.start.prompt.position) % turns, of=turns)


@dataclass(kw_only=True)
class Fork(Episode):
    """An episode that begins within another one. past: turns of that one, the last of them to be taken anew."""

    past: Sequence[Turn] = field(default_factory=tuple)

    async def begin(self) -> None:
        """Takes the past turns but the last once more; a fault where the environment does not answer as before."""
        await super().begin()
        for turn in self.past[:-1]:
            self._compare(turn)
            if self.end is not None:
                return
            await self.take_turn(self._said(turn))
            if self.fault is None and self.turns[-1].reward != turn.reward:
                self._differs(f"it paid {turn.reward:g}, now {self.turns[-1].reward:g}")
        self._compare(self.past[-1])

    def _said(self, turn: Turn) -> Completion:
        return Completion(
            token_ids=turn.completion_ids,
            logprobs=turn.sampler_logprobs,
            stop=turn.stop,
            versions=((0, self.policy_version),),
            finish_ids=turn.finish_ids,
        )

    def _compare(self, turn: Turn) -> None:
        """A fault unless the policy sees, token by token, what it saw before that turn."""
        if self.fault is not None:
            return
        if self.end is not None:
            self._differs("the episode went on, now it ended")
        elif tuple(self.transcript.ids) != turn.prompt_ids:
            self._differs("it gave other tokens to read")

    def _differs(self, how: str) -> None:
        when = f"reset, turn {len(self.turns)}"
        self._fail(FaultKind.CONTRACT, when, f"{how}; the same task, seed and utterances must give the same episode")
