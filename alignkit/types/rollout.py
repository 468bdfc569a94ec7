"""What the policy did. Token ids and log-probs come from the sampler and are the truth; text is derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from alignkit.errors import EngineError
from alignkit.types.score import Score
from alignkit.types.task import Task
from alignkit.types.turn import EpisodeEnd, StopReason, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to sample.

    prompt_ids: exact token ids. seed: names this sample's randomness, so the same seed gives the same sample on the
    same engine and weights. temperature 0 is greedy. Sampling is pure temperature sampling: no top-p or top-k, which
    would make the sampler's log-probs differ from the trainer's by more than rounding. group: those of one number begin
    alike, and a fleet keeps them together; it changes nothing of what is sampled. None: it stands alone.
    """

    prompt_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int
    temperature: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    group: int | None = None

    def check(self, *, context: int, engine: str) -> None:
        """Raises EngineError, of any engine, for a prompt that is empty or leaves no room within `context` tokens."""
        length = len(self.prompt_ids)
        if not 0 < length < context:
            raise EngineError(
                f"{engine}: a prompt has {length} tokens, wanted 1 to {context - 1} (the context is {context}); "
                "set data.max_prompt_tokens and data.long_prompts"
            )
        if self.max_new_tokens < 1:
            raise EngineError(f"{engine}: a request asks for {self.max_new_tokens} tokens, wanted 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An engine's answer to a Request: ids (the stop token included) and the log-prob of each at its temperature.

    versions: (first token, version of the weights that sampled from there on), in order, the first from token 0; one
    where the weights did not change meanwhile. finish_ids: tokens after these that a guide wrote, of which no engine
    knows; `stop` says how they ended.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: StopReason
    versions: tuple[tuple[int, int], ...]
    finish_ids: tuple[int, ...] = ()

    @property
    def policy_version(self) -> int:
        """That of the oldest weights that sampled any of it."""
        return min(version for _, version in self.versions)


@dataclass(frozen=True, slots=True)
class Reset:
    """Where an episode was gone back into. turn: number of the turn taken anew, from 0; of: turns it had at first."""

    turn: int
    of: int


DIRECTION = "direction/"  # and a part's name: the batch's channel that says how much of that part the task asks for
TURNS = "turns"  # the batch's channel that holds `Reset.of`
AGE = "age"  # the batch's channel that says how many draws ago a past episode was played


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One attempt at a task: one turn, or an episode of several (none when the environment failed to start).

    group: number of the prompt within the step (same prompt, same group); member: number within the group.
    policy_version: updates applied to the weights that sampled it; adapter: name of the LoRA adapter or None.
    reset: of episodes that are compared from one turn on: only that turn is learnt from, those before it they share.
    paid: per turn and token of it, how the score is paid to the policy; None: each turn's reward on its last token, and
    without an environment all of it on the very last.
    """

    task: Task
    group: int
    member: int
    turns: tuple[Turn, ...]
    policy_version: int
    adapter: str | None = None
    score: Score | None = None
    end: EpisodeEnd | None = None
    reset: Reset | None = None
    paid: tuple[tuple[float, ...], ...] | None = None

    @property
    def text(self) -> str:
        """The last utterance, which rewards judge."""
        return self.turns[-1].text if self.turns else ""

    @property
    def contexts(self) -> list[tuple[Turn, ...]]:
        """The turns of each context, which each of them but its first goes on from where the one before ended."""
        begins, said = [], ()
        for number, turn in enumerate(self.turns):
            if not number or turn.prompt_ids[: len(said)] != said:
                begins.append(number)
            said = turn.prompt_ids + turn.completion_ids + turn.finish_ids
        parts = [self.turns[begin:end] for begin, end in pairwise([*begins, len(self.turns)])]
        return [part for part in parts if any(turn.completion_ids for turn in part)] or parts[:1]

    @property
    def conversation(self) -> str:
        """All that was said after the prompt, for people: each utterance and, in brackets, the answer to it."""
        answers = ["" if turn.observation is None else f" [{turn.observation}]" for turn in self.turns]
        return "\n".join(turn.text + answer for turn, answer in zip(self.turns, answers, strict=True))

    @property
    def sampled_tokens(self) -> int:
        """Tokens that were sampled for it, over all turns; those before a reset were sampled for the first member."""
        shared = self.reset.turn if self.reset and self.member else 0
        return sum(len(turn.completion_ids) for turn in self.turns[shared:])

    @property
    def reward(self) -> float | None:
        """The blended reward; None when the rollout was not scored, could not be, or the engine failed on it."""
        if self.score is None or (self.turns and self.turns[-1].stop is StopReason.ERROR):
            return None
        return self.score.value

    @property
    def truncated(self) -> bool:
        """Cut at a limit: the last utterance, or an episode that could have gone on."""
        if self.end is not None:
            return self.end not in (EpisodeEnd.DONE, EpisodeEnd.FAULT)
        return self.turns[-1].stop in (StopReason.LENGTH, StopReason.CONTEXT_FULL)
