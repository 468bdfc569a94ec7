"""A language model as the reward: rubric scores, or comparisons in both orders, from any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from alignkit.errors import RewardError
from alignkit.rewards.base import unscorable
from alignkit.rewards.judge.fence import special_tokens
from alignkit.rewards.judge.judge_prompt import Ask, Form, pair_ask, rubric_ask
from alignkit.rewards.serve.cache import AnswerCache
from alignkit.rewards.serve.endpoint import Endpoint, EndpointError, token_from
from alignkit.rewards.serve.wire import dump
from alignkit.types.rollout import Rollout
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task

RUBRIC = "Correctness first, then how fully it answers the question, then clarity. Length alone earns nothing."
WINS = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass(frozen=True)
class Verdict:
    """What one call gave: a choice of the menu, or the fault that left it without one."""

    choice: str | None
    fault: Fault | None = None


class JudgeReward:
    """Scores in [0, 1] from a judge model.

    url: an OpenAI-compatible server, with its `/v1`. model: the model's name there. key_env: the environment variable
    that holds its key. rubric: what to judge by. form: how a verdict must look (judge_prompt.py); `json` and
    `regex` ask the server to constrain it, and are read as strictly where it does not.

    mode `rubric`: a whole number from low to high, scaled to [0, 1]; the task's reference is shown if `show_reference`.
    mode `pairwise`: share of comparisons won, a tie counting half: against `opponents` other completions of the group
    on each side, or against the task's reference (against: reference). Each pair is judged in both orders; a verdict
    that changes with the order is a tie, and a pair with an unreadable verdict is none.

    A completion without any readable verdict is unscorable (PARSE); parts `unparsed` and `swapped` are the shares of
    unreadable verdicts and of pairs whose verdict changed with the order. Sampling is greedy; readable verdicts are
    cached by content (`cache` in memory, `cache_folder` on disk). tokenizer: a folder with the judge's tokenizer, whose
    control tokens are broken up in what it is shown; `model` itself, where that is a folder here. Every other token of
    such a form is broken up anyway (rewards/judge/fence.py). The other options are those of the remote reward.
    """

    name = "judge"

    def __init__(
        self,
        url: str,
        model: str,
        *,
        mode: Literal["rubric", "pairwise"] = "rubric",
        rubric: str = RUBRIC,
        form: Form = "json",
        low: int = 1,
        high: int = 10,
        show_reference: bool = True,
        against: Literal["group", "reference"] = "group",
        opponents: int = 1,
        max_tokens: int = 512,
        tokenizer: str | None = None,
        key_env: str = "ALIGNKIT_JUDGE_KEY",
        deadline_s: float = 4.0,
        timeout_s: float = 60.0,
        attempts: int = 6,
        concurrency: int = 8,
        cache: int = 20_000,
        cache_folder: str | None = None,
        allow_private: bool = False,
        ca_file: str | None = None,
    ):
        _check(mode=mode, form=form, against=against, low=low, high=high, opponents=opponents)
        self._endpoint = Endpoint(
            url,
            token=token_from(key_env),
            timeout_s=timeout_s,
            attempts=attempts,
            concurrency=concurrency,
            allow_private=allow_private,
            ca_file=ca_file,
        )
        self._model, self._max_tokens, self._deadline_s = model, max_tokens, deadline_s
        self._special = _special(tokenizer, model)
        self._mode, self._rubric, self._form = mode, rubric, form
        self._low, self._high, self._show_reference = low, high, show_reference
        self._against, self._opponents = against, opponents
        self._cache = AnswerCache(cache, cache_folder)

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        """One Score per rollout, in order."""
        until = time.monotonic() + self._deadline_s * len(rollouts)
        texts = [rollout.text for rollout in rollouts]
        if self._mode == "rubric":
            return list(await asyncio.gather(*(self._by_rubric(task, text, until) for text in texts)))
        if self._against == "reference":
            return await self._against_reference(task, texts, until)
        return await self._against_group(task, texts, until)

    async def _by_rubric(self, task: Task, text: str, until: float) -> Score:
        reference = _reference(task) if self._show_reference else None

        def ask(nonce: str) -> Ask:
            return rubric_ask(
                task,
                text,
                rubric=self._rubric,
                low=self._low,
                high=self._high,
                form=self._form,
                nonce=nonce,
                reference=reference,
                special=self._special,
            )

        verdict = await self._verdict(ask, until)
        if verdict.choice is None:
            assert verdict.fault is not None
            return Score(value=None, parts={self.name: None, **_unparsed([verdict])}, fault=verdict.fault)
        value = (int(verdict.choice) - self._low) / (self._high - self._low)
        return Score(value=value, parts={self.name: value, "unparsed": 0.0})

    async def _against_reference(self, task: Task, texts: Sequence[str], until: float) -> list[Score]:
        reference = _reference(task)
        if reference is None:
            message = f"task {task.id} has no reference to compare with; wanted text"
            return [unscorable(FaultKind.GOLD, self.name, message) for _ in texts]
        pairs = await asyncio.gather(*(self._both_orders(task, text, reference, until) for text in texts))
        return [self._summary([pair]) for pair in pairs]

    async def _against_group(self, task: Task, texts: Sequence[str], until: float) -> list[Score]:
        """Each completion meets the next `opponents` of the ring, so that all meet equally many."""
        count = len(texts)
        if count < 2:
            message = "comparing within the group needs two completions of a prompt; use mode rubric"
            return [unscorable(FaultKind.CONTRACT, self.name, message) for _ in texts]
        reach = min(self._opponents, (count - 1) // 2 or 1)
        games = list(
            dict.fromkeys(tuple(sorted((i, (i + d) % count))) for d in range(1, reach + 1) for i in range(count))
        )
        played = await asyncio.gather(*(self._both_orders(task, texts[i], texts[j], until) for i, j in games))
        own: list[list[tuple[Verdict, Verdict]]] = [[] for _ in texts]
        for (i, j), (first, second) in zip(games, played, strict=True):
            own[i].append((first, second))
            own[j].append((second, first))  # seen from the other side, the orders change places
        return [self._summary(pairs) for pairs in own]

    async def _both_orders(self, task: Task, text: str, other: str, until: float) -> tuple[Verdict, Verdict]:
        """The verdict with `text` as A, and the one with `other` as A."""
        if text == other:
            return Verdict("tie"), Verdict("tie")

        def ask(first: str, second: str) -> Callable[[str], Ask]:
            return lambda nonce: pair_ask(
                task, first, second, rubric=self._rubric, form=self._form, nonce=nonce, special=self._special
            )

        straight, swapped = await asyncio.gather(
            self._verdict(ask(text, other), until), self._verdict(ask(other, text), until)
        )
        return straight, swapped

    def _summary(self, pairs: Sequence[tuple[Verdict, Verdict]]) -> Score:
        """Share of pairs won by the completion that was A first and B second."""
        verdicts = [verdict for pair in pairs for verdict in pair]
        judged = [
            (WINS[first.choice], 1 - WINS[second.choice]) for first, second in pairs if first.choice and second.choice
        ]
        if not judged:
            fault = next(verdict.fault for verdict in verdicts if verdict.fault)
            return Score(value=None, parts={self.name: None, **_unparsed(verdicts)}, fault=fault)
        value = fmean(straight if straight == swapped else 0.5 for straight, swapped in judged)
        swapped = fmean(straight != swapped for straight, swapped in judged)
        return Score(value=value, parts={self.name: value, "swapped": swapped, **_unparsed(verdicts)})

    async def _verdict(self, make: Callable[[str], Ask], until: float) -> Verdict:
        """Asks with a fresh nonce; the cache knows the question by everything but the nonce."""
        key = AnswerCache.key(self._endpoint.url, self._model, self._max_tokens, make("nonce").body())
        ask = make(secrets.token_hex(8))
        known = self._cache.get(key)
        if known in ask.menu:
            return Verdict(known)
        body = {"model": self._model, "temperature": 0, "max_tokens": self._max_tokens, **ask.body()}
        try:
            answer = await self._endpoint.post("/chat/completions", dump(body), until=until)
            text = _said(answer)
        except EndpointError as error:
            return Verdict(None, Fault(kind=error.kind, where=self.name, message=str(error)))
        choice = ask.verdict(text) if text is not None else None
        if choice is None:
            message = "cut off at max_tokens" if text is None else "no verdict in the asked form"
            return Verdict(None, Fault(kind=FaultKind.PARSE, where=self.name, message=message))
        self._cache.put(key, choice)
        return Verdict(choice)


def _said(answer: Any) -> str | None:
    """The text of a chat completion, None if it was cut off. Raises EndpointError for a refusal or anything else."""
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"]
    except (TypeError, KeyError, IndexError) as error:
        raise EndpointError(FaultKind.CONTRACT, "the answer is no chat completion") from error
    if not isinstance(content, str):
        raise EndpointError(FaultKind.REFUSED, "the judge answered without text")
    return None if choice.get("finish_reason") == "length" else content


def _unparsed(verdicts: Sequence[Verdict]) -> dict[str, float]:
    return {"unparsed": fmean(v.fault is not None and v.fault.kind is FaultKind.PARSE for v in verdicts)}


def _reference(task: Task) -> str | None:
    reference = task.reference
    return None if reference is None else reference if isinstance(reference, str) else str(reference)


def _special(tokenizer: str | None, model: str) -> tuple[str, ...]:
    """Control tokens of the judge's tokenizer; none where its files are not known here."""
    found = special_tokens(Path(tokenizer or model).expanduser())
    if tokenizer and not found:
        raise RewardError(f"judge: tokenizer {tokenizer!r} names no special token; wanted a folder with tokenizer.json")
    return found


def _check(*, mode: str, form: str, against: str, low: int, high: int, opponents: int) -> None:
    for option, value, wanted in (
        ("mode", mode, ("rubric", "pairwise")),
        ("form", form, ("json", "regex", "line")),
        ("against", against, ("group", "reference")),
    ):
        if value not in wanted:
            raise RewardError(f"judge: {option} is {value!r}; wanted one of {', '.join(wanted)}")
    if not low < high or high - low > 100:
        raise RewardError(f"judge: scores from {low} to {high}; wanted low < high, at most 100 apart")
    if opponents < 1:
        raise RewardError(f"judge: opponents is {opponents}; wanted at least 1")
