"""A reward that another machine or process computes: the client of `alignkit serve`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from alignkit.rewards.base import unscorable
from alignkit.rewards.serve.cache import AnswerCache
from alignkit.rewards.serve.endpoint import Endpoint, EndpointError, token_from
from alignkit.rewards.serve.wire import (
    ScoreResponse,
    WireScore,
    dump,
    first_problem,
    group_to_wire,
    score_from_wire,
    score_to_wire,
)
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

LASTING = {None, FaultKind.PARSE, FaultKind.GOLD, FaultKind.REFUSED}  # the same question would be answered the same


@dataclass(frozen=True)
class _Question:
    """One completion, or a group's completions together, in wire form; `members` are their places in the call."""

    key: str
    completions: list[Any]
    members: list[int]


def _abstention(score: Score) -> Score:
    """A served TRL function that said None has nobody beside it there; here other rewards may score the row."""
    if score.value is None and score.fault and any(n.endswith(".abstained") and v for n, v in score.parts.items()):
        return replace(score, fault=replace(score.fault, kind=FaultKind.ABSTAINED))
    return score


class RemoteReward:
    """Asks an `alignkit serve` for scores.

    url: the server, http://HOST:PORT. token_env: the environment variable that holds its token.
    deadline_s: seconds for one rollout, all attempts together, as in the recipe, whose own deadline must be longer.
    timeout_s, attempts: of one request. concurrency: requests in flight. chunk: completions in one request.
    cache: scores kept in memory; cache_folder: kept on disk, too. allow_private: ask private addresses, too.
    ca_file: PEM certificate of a server that has one of its own.

    Rollouts whose request got no answer are unscorable (TIMEOUT, UNREACHABLE or CONTRACT); the others keep their score.
    """

    name = "remote"

    def __init__(
        self,
        url: str,
        *,
        token_env: str = "ALIGNKIT_TOKEN",
        deadline_s: float = 4.0,
        timeout_s: float = 30.0,
        attempts: int = 6,
        concurrency: int = 8,
        chunk: int = 64,
        cache: int = 20_000,
        cache_folder: str | None = None,
        allow_private: bool = False,
        ca_file: str | None = None,
    ):
        self._endpoint = Endpoint(
            url,
            token=token_from(token_env),
            timeout_s=timeout_s,
            attempts=attempts,
            concurrency=concurrency,
            allow_private=allow_private,
            ca_file=ca_file,
        )
        self._deadline_s, self._chunk = deadline_s, chunk
        self._cache = AnswerCache(cache, cache_folder)
        self._served: tuple[str, bool] | None = None

    async def score(self, task: Task, rollouts: Sequence[Rollout]) -> list[Score]:
        """One Score per rollout, in order."""
        if not rollouts:
            return []
        until = time.monotonic() + self._deadline_s * len(rollouts)
        try:
            served = self._served or await self._ask_what_is_served(until)
        except EndpointError as error:
            return [unscorable(error.kind, self.name, str(error)) for _ in rollouts]
        group = group_to_wire(task, rollouts)
        questions = self._questions(group, *served)
        known = {question.key: scores for question in questions if (scores := self._remembered(question))}
        missing = [question for question in questions if question.key not in known]
        size = self._chunk if served[1] else 1
        chunks = [missing[start : start + size] for start in range(0, len(missing), size)]
        for answers in await asyncio.gather(*(self._ask(group, chunk, until) for chunk in chunks)):
            known.update(answers)
        if served[1]:
            by_member = {member: known[q.key][0] for q in questions for member in q.members}
            return [by_member[member] for member in range(len(rollouts))]
        return [_abstention(score) for score in known[questions[0].key]]

    async def _ask_what_is_served(self, until: float) -> tuple[str, bool]:
        """(the reward's fingerprint, whether it scores completions one by one)."""
        health = await self._endpoint.get("/health", until=until)
        try:
            self._served = str(health["fingerprint"]), bool(health["per_rollout"])
        except (TypeError, KeyError) as error:
            raise EndpointError(FaultKind.CONTRACT, f"{self._endpoint.url} is no alignkit server") from error
        return self._served

    def _questions(self, group: dict[str, Any], fingerprint: str, per_rollout: bool) -> list[_Question]:
        """What is to be known: each different completion once, or the group as a whole."""
        about = [fingerprint, {name: group[name] for name in ("prompt", "reference", "columns")}]
        completions = group["completions"]
        if not per_rollout:
            return [_Question(AnswerCache.key(*about, completions), completions, list(range(len(completions))))]
        questions: dict[str, _Question] = {}
        for member, completion in enumerate(completions):
            key = AnswerCache.key(*about, completion)
            questions.setdefault(key, _Question(key, [completion], [])).members.append(member)
        return list(questions.values())

    def _remembered(self, question: _Question) -> list[Score] | None:
        kept = self._cache.get(question.key)
        try:
            scores = [score_from_wire(WireScore.model_validate(score)) for score in kept or []]
        except (ValueError, TypeError):  # a file of the cache folder was edited: asked again
            return None
        return scores if len(scores) == len(question.completions) else None

    async def _ask(self, group: dict[str, Any], chunk: Sequence[_Question], until: float) -> dict[str, list[Score]]:
        """Scores by key. When the request fails, or its answer is not what was asked for, they are faults."""
        completions = [completion for question in chunk for completion in question.completions]
        try:
            body = dump({"groups": [{**group, "completions": completions}]})
            answer = ScoreResponse.model_validate(await self._endpoint.post("/score", body, until=until))
            if [len(scores) for scores in answer.scores] != [len(completions)]:
                got = sum(len(scores) for scores in answer.scores)
                raise EndpointError(FaultKind.CONTRACT, f"{got} scores for {len(completions)} completions")
            if self._served is None or answer.fingerprint != self._served[0]:
                self._served = None  # another reward is served since: what it says goes under its own name
                raise EndpointError(FaultKind.CONTRACT, f"the server was changed and now serves {answer.reward}")
            scores = [score_from_wire(score) for score in answer.scores[0]]
        except EndpointError as error:
            return {question.key: self._faults(question, error.kind, str(error)) for question in chunk}
        except ValueError as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
            message = f"the server's answer is not usable: {problem}"
            return {question.key: self._faults(question, FaultKind.CONTRACT, message) for question in chunk}
        rest = iter(scores)
        answers = {question.key: [next(rest) for _ in question.completions] for question in chunk}
        for key, part in answers.items():
            if all((score.fault and score.fault.kind) in LASTING for score in part):
                self._cache.put(key, [score_to_wire(score, self.name) for score in part])
        return answers

    def _faults(self, question: _Question, kind: FaultKind, message: str) -> list[Score]:
        return [unscorable(kind, self.name, message) for _ in question.completions]
