"""From tasks to token ids under the limits of `data`; what cannot be learnt from is left out, counted and explained.

The prompt is tokenised once and each completion on its own, so that both sides continue the very same tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from alignkit.data.prompts import fit_prompts, render, render_answer
from alignkit.data.turns import Renderer
from alignkit.errors import DataError, NothingLeft
from alignkit.recipe.schema import Data
from alignkit.types.task import Task

EMPTY = "an empty completion"

Row = TypeVar("Row")


@dataclass(kw_only=True)
class RowFilter:
    """Turns completions into token ids under the limits of `data`, and counts what it leaves out and why.

    context: longest sequence of the model, in tokens. unit: what one row is called in reports.
    longest_prompt: in tokens; None: what `data` says. stop_token_ids: of the policy, besides the tokenizer's EOS.
    seed: of what a kind draws. tag: text put after each step of an answer. tell: is told of prompts that do not fit.
    """

    tokenizer: Any
    data: Data
    context: int
    unit: str
    longest_prompt: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    seed: int = 0
    tag: str = ""
    tell: Callable[[str], object] = lambda sentence: None
    seen: int = 0
    truncated: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str) -> None:
        self.reasons[reason] += 1

    @property
    def left_out(self) -> int:
        return sum(self.reasons.values())

    @property
    def renderer(self) -> Renderer:
        """What writes conversations as token ids."""
        data, stop = self.data, self.stop_token_ids
        return Renderer(
            tokenizer=self.tokenizer,
            chat=data.chat,
            system=data.system,
            arguments=data.chat_template_kwargs,
            stop_token_ids=stop,
        )

    def prompts(self, tasks: Sequence[Task]) -> list[tuple[Task, list[int]]]:
        """The tasks whose prompts fit, with their token ids. Raises DataError where `data` says that all must fit."""
        return self.fitting([(task, render(self.tokenizer, task, self.data)) for task in tasks])

    def fitting(self, prompts: Sequence[tuple[Task, list[int]]]) -> list[tuple[Task, list[int]]]:
        """Those of the rendered prompts that fit, as `data.long_prompts` says."""
        limit = self.data.max_prompt_tokens if self.longest_prompt is None else self.longest_prompt
        kept, counts = fit_prompts(prompts, limit, self.data.long_prompts)
        if counts.filtered or counts.truncated:
            self.tell(f"{self.data.name}: {counts.filtered} prompts of more than {limit} tokens left out, "
                      f"{counts.truncated} truncated, of {len(prompts)}")  # fmt: skip
        return kept

    def made(
        self, prompts: Sequence[tuple[Task, list[int]]], make: Callable[[Task, list[int], RowFilter], Row | None]
    ) -> list[Row]:
        """What `make` makes of the prompts, without None. Raises NothingLeft when there is none."""
        rows = []
        for task, prompt in prompts:
            self.seen += 1
            row = make(task, prompt, self)
            if row is not None:
                rows.append(row)
        if not rows:
            raise NothingLeft(self.report() or f"{self.data.name}: no row is left to train on")
        return rows

    def ids(self, task: Task, answer: Any) -> list[int] | None:
        """The completion's tokens; None (and counted) when there is nothing in it to learn."""
        if isinstance(answer, str) and not answer.strip():
            return self.leave_out(EMPTY)
        if not isinstance(answer, str):
            if len(answer) != 1 or answer[0]["role"] != "assistant":
                return self.leave_out("a completion of several messages")
            if not str(answer[0]["content"]).strip():
                return self.leave_out(EMPTY)
        return render_answer(self.tokenizer, task, answer, self.data)

    def fit(self, task: Task, prompt: Sequence[int], sides: Sequence[list[int]]) -> tuple[list[list[int]], list[bool]]:
        """The sides under one common limit, and which of them were cut; no sides when the row is left out."""
        limit = min(self.data.max_completion_tokens or self.context, self.context - len(prompt))
        longest = max(len(side) for side in sides)
        if longest <= limit:
            return list(sides), [False] * len(sides)
        if self.data.long_completions == "error":
            raise DataError(
                f"task {task.id}: a completion has {longest} tokens, {limit} fit after its prompt of {len(prompt)}; "
                "raise data.max_completion_tokens or set data.long_completions to filter or truncate"
            )
        if self.data.long_completions == "filter" or limit < 1:
            self.leave_out("a completion too long")
            return [], []
        self.truncated += 1
        return [side[:limit] for side in sides], [len(side) > limit for side in sides]

    def report(self) -> str | None:
        """One sentence on what was left out or cut; None when everything was kept whole."""
        if not (self.reasons or self.truncated):
            return None
        why = "".join(f", {count} with {reason}" for reason, count in self.reasons.most_common())
        cut = f"; {self.truncated} truncated" if self.truncated else ""
        return f"{self.data.name}: {self.left_out} of {self.seen} {self.unit} left out{why}{cut}"
