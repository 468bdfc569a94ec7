"""Preference pairs and judged completions as token ids; what cannot be learnt from is left out, counted and explained.

The prompt is tokenised once and each completion on its own, so that both sides continue the very same tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from alignkit.data.prompts import render_answer
from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from alignkit.types.seeds import child
from alignkit.types.task import Task

TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
EMPTY = "an empty completion"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two completions of one prompt. cut: which side was truncated. rewards: of both sides, where the data has them."""

    task: Task
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    cut: tuple[bool, bool] = (False, False)
    rewards: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A completion that was called good or bad. mismatched: a completion of another prompt, if there is one."""

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    good: bool
    cut: bool = False
    mismatched: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A completion that was called right or wrong. rewrite: what a wrong one should have been; empty for right ones."""

    task: Task
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    right: bool
    cut: bool = False
    rewrite: tuple[int, ...] = ()


@dataclass(kw_only=True)
class Sieve:
    """Turns completions into token ids under the limits of `data`, and counts what it leaves out and why.

    context: longest sequence of the model, in tokens. unit: what one row is called in reports.
    """

    tokenizer: Any
    data: Data
    context: int
    unit: str
    given: int = 0
    truncated: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str) -> None:
        self.reasons[reason] += 1

    @property
    def left_out(self) -> int:
        return sum(self.reasons.values())

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
        return f"{self.data.name}: {self.left_out} of {self.given} {self.unit} left out{why}{cut}"


def make_pairs(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve) -> list[Pair]:
    """The pairs that can be compared, in order. Raises DataError when a row has no two sides, or none is left."""
    pairs = [pair for task, prompt in prompts if (pair := _pair(task, prompt, sieve)) is not None]
    if not pairs:
        raise DataError(sieve.report() or f"{sieve.data.name}: no pair is left to train on")
    rewarded = sum(pair.rewards is not None for pair in pairs)
    if 0 < rewarded < len(pairs):
        raise DataError(
            f"{sieve.data.name}: {rewarded} of {len(pairs)} pairs have chosen_reward and rejected_reward; "
            "give them to all pairs or to none"
        )
    return pairs


def make_duels(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve) -> list[Pair]:
    """The pairs of which both answers fit into the context together. Raises DataError when none is left."""
    pairs = []
    for pair in make_pairs(prompts, sieve):
        if len(pair.prompt) + len(pair.chosen) + len(pair.rejected) <= sieve.context:
            pairs.append(pair)
        else:
            sieve.leave_out("two completions too long to be read together")
    if not pairs:
        raise DataError(sieve.report() or f"{sieve.data.name}: no pair is left to train on")
    return pairs


def make_judged(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve, *, seed: int) -> list[Judged]:
    """The judged completions, in order; a row with chosen and rejected gives one of each kind.

    Each also gets the completion of another prompt (the next one in an order drawn by the seed), from which KTO
    estimates how far the policy is from the reference. Raises DataError when all judgements are alike.
    """
    rows = [row for task, prompt in prompts for row in _judged(task, prompt, sieve)]
    if len({row.good for row in rows}) < 2:
        found = f"all {len(rows)} completions are {'good' if rows[0].good else 'bad'}" if rows else "nothing is left"
        why = sieve.report()
        raise DataError(
            f"{sieve.data.name}: {found}, so there is nothing to tell apart; give rows with both labels"
            + (f" ({why})" if why else "")
        )
    return _mismatch(rows, sieve, seed)


def make_rewritten(prompts: Sequence[tuple[Task, list[int]]], sieve: Sieve) -> list[Rewritten]:
    """The judged completions, in order, the wrong ones with their rewrite. Raises DataError when none is left."""
    rows = [row for task, prompt in prompts if (row := _rewritten(task, prompt, sieve)) is not None]
    if not rows:
        raise DataError(sieve.report() or f"{sieve.data.name}: no completion is left to train on")
    return rows


def describe(rows: Sequence[Pair] | Sequence[Judged]) -> str:
    """Mean lengths of the two kinds of completions, a first look at length bias."""
    good = [len(row.chosen) for row in rows if isinstance(row, Pair)]
    bad = [len(row.rejected) for row in rows if isinstance(row, Pair)]
    good += [len(row.completion) for row in rows if isinstance(row, Judged) and row.good]
    bad += [len(row.completion) for row in rows if isinstance(row, Judged) and not row.good]
    return f"mean tokens of {len(good)} chosen completions {fmean(good):.1f}, of {len(bad)} rejected {fmean(bad):.1f}"


def _pair(task: Task, prompt: list[int], sieve: Sieve) -> Pair | None:
    sieve.given += 1
    answers = [column(task, name) for name in ("chosen", "rejected")]
    sides = []
    for answer in answers:
        ids = sieve.ids(task, answer)
        if ids is None:
            return None
        sides.append(ids)
    if sides[0] == sides[1]:
        return sieve.leave_out("equal sides")
    rewards = _rewards(task)
    if rewards is not None and not all(map(math.isfinite, rewards)):
        return sieve.leave_out("a reward that is not a finite number")
    fitted, cut = sieve.fit(task, prompt, sides)
    if not fitted:
        return None
    if fitted[0] == fitted[1]:
        return sieve.leave_out("sides that differ only behind the length limit")
    chosen, rejected = map(tuple, fitted)
    ids = tuple(prompt)
    return Pair(task=task, prompt=ids, chosen=chosen, rejected=rejected, cut=(cut[0], cut[1]), rewards=rewards)


def _rewards(task: Task) -> tuple[float, float] | None:
    values = [task.columns.get(f"{side}_reward") for side in ("chosen", "rejected")]
    if values[0] is None or values[1] is None:
        return None
    try:
        return float(values[0]), float(values[1])
    except (TypeError, ValueError) as error:
        raise DataError(f"task {task.id}: chosen_reward and rejected_reward must be numbers; got {values}") from error


def _judged(task: Task, prompt: list[int], sieve: Sieve) -> Iterator[Judged]:
    columns = task.columns
    if columns.get("completion") is None and columns.get("chosen") is not None:
        answers = [(column(task, "chosen"), True), (column(task, "rejected"), False)]
    else:
        answers = [(column(task, "completion"), _label(task))]
    for answer, good in answers:
        sieve.given += 1
        ids = sieve.ids(task, answer)
        if ids is None:
            continue
        fitted, cut = sieve.fit(task, prompt, [ids])
        if fitted:
            yield Judged(task=task, prompt=tuple(prompt), completion=tuple(fitted[0]), good=good, cut=cut[0])


def _rewritten(task: Task, prompt: list[int], sieve: Sieve) -> Rewritten | None:
    sieve.given += 1
    right, rewrite = _label(task), task.columns.get("rewrite")
    if not right and not rewrite:
        return sieve.leave_out("a wrong completion without a rewrite")
    sides = []
    for answer in (column(task, "completion"),) if right else (column(task, "completion"), rewrite):
        ids = sieve.ids(task, answer)
        if ids is None:
            return None
        sides.append(ids)
    fitted, cut = sieve.fit(task, prompt, sides)
    if not fitted:
        return None
    completion, *rewritten = map(tuple, fitted)
    if rewritten == [completion]:
        return sieve.leave_out("a rewrite that changes nothing")
    own = Rewritten(task=task, prompt=tuple(prompt), completion=completion, right=right, cut=cut[0])
    return own if right else replace(own, rewrite=rewritten[0])


def _mismatch(rows: list[Judged], sieve: Sieve, seed: int) -> list[Judged]:
    from numpy.random import Generator, Philox

    order = Generator(Philox(key=child(seed, "mismatched"))).permutation(len(rows)).tolist()
    result = list(rows)
    for place, index in enumerate(order):
        row = rows[index]
        others = (rows[order[(place + step) % len(order)]] for step in range(1, len(order)))
        other = next((each for each in others if each.prompt != row.prompt), None)
        if other is not None:
            room = sieve.context - len(row.prompt)
            result[index] = replace(row, mismatched=other.completion[:room])
    return result


def column(task: Task, name: str) -> Any:
    value = task.columns.get(name)
    if value is None:
        raise DataError(f"task {task.id}: no column '{name}' to compare; name one with data.columns ({name}: THEIRS)")
    return value


def _label(task: Task) -> bool:
    value = task.columns.get("label")
    judged = TRUTH.get(str(value).strip().lower())
    if judged is None:
        raise DataError(f"task {task.id}: label is {value!r}; wanted true or false (data.columns renames the column)")
    return judged
