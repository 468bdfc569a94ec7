"""A conversation with one model, or with two that are asked the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.serve.wire import text_rollouts
from alignkit.run.talk.talker import Talker
from alignkit.run_folder.run_folder import fault_text
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Message, Task


@dataclass(frozen=True)
class Answer:
    """What a model said, and how the run's rewards judge it. score: None where it has none."""

    text: str
    score: Score | None

    @property
    def judged(self) -> str:
        """The score in one line, `0.75 (math_answer 1, length_penalty -0.25)`, or why there is none."""
        if self.score is None:
            return ""
        if self.score.value is None:
            return f"no reward: {fault_text(self.score.fault) if self.score.fault else 'no cause given'}"
        parts = ", ".join(f"{name} {value:.3g}" for name, value in self.score.parts.items() if value is not None)
        return f"{self.score.value:.3g}" + (f" ({parts})" if parts else "")


@dataclass(kw_only=True)
class Conversation:
    """Each model goes on with its own answers. pool: scores them; None: nobody does."""

    talkers: Sequence[Talker]
    pool: RewardPool | None
    temperature: float
    max_new_tokens: int
    seed: int
    system: str | None = None
    _said: list[list[Message]] = field(init=False)
    _turn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forgets what was said."""
        opening: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        self._said = [list(opening) for _ in self.talkers]

    def ask(self, text: str, told: Callable[[int, str], None]) -> list[Answer]:
        """Every model's answer; told: number of the model and each piece of what it says, as it comes."""
        asked: Message = {"role": "user", "content": text}
        answers = []
        for number, (talker, said) in enumerate(zip(self.talkers, self._said, strict=True)):
            answer = talker.say(
                [*said, asked],
                temperature=self.temperature,
                max_new_tokens=self.max_new_tokens,
                seed=child(self.seed, "turn", self._turn),
                told=lambda piece, number=number: told(number, piece),
            )
            answers.append(Answer(answer, self._score([*said, asked], answer)))
        for said, answer in zip(self._said, answers, strict=True):  # once all have answered, so that they stay alike
            said += [asked, {"role": "assistant", "content": answer.text}]
        self._turn += 1
        return answers

    def _score(self, said: Sequence[Message], answer: str) -> Score | None:
        if self.pool is None:
            return None
        task = Task(id=f"chat/{self._turn}", messages=tuple(said))
        [[score]] = asyncio.run(self.pool.score([(task, text_rollouts(task, [answer]))]))
        return score
