"""A reward as an HTTP service. Every route, known or not, asks for the token first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response

from alignkit.errors import RewardError
from alignkit.rewards.serve.gate import ServerLimits, guarded_app, json_response, read_body
from alignkit.rewards.serve.openrlhf import OpenRlhfRequest, groups_from_openrlhf
from alignkit.rewards.serve.wire import ScoreRequest, group_from_wire, printable, score_to_wire
from alignkit.types.rollout import Rollout
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task


class RolloutScorer(Protocol):
    """A RewardPool or a Batcher."""

    @property
    def per_rollout(self) -> bool: ...

    async def score(self, groups: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Score]]: ...


class Service:
    """What the routes do, and the counts that /health shows."""

    def __init__(self, scorer: RolloutScorer, *, reward: str, fingerprint: str, queue: int):
        self._scorer, self._reward, self._fingerprint, self._queue = scorer, reward, fingerprint, queue
        self._waiting = self._scored = self._unscorable = 0

    async def health(self) -> Response:
        told = {"status": "ok", "reward": self._reward, "fingerprint": self._fingerprint}
        counts = {"waiting": self._waiting, "scored": self._scored, "unscorable": self._unscorable}
        return json_response({**told, "per_rollout": self._scorer.per_rollout, **counts})

    async def score(self, request: Request) -> Response:
        body = read_body(ScoreRequest, await request.body())
        scores = await self._scores([group_from_wire(group) for group in body.groups])
        wire = [[score_to_wire(score, self._reward) for score in group] for group in scores]
        return json_response({"reward": self._reward, "fingerprint": self._fingerprint, "scores": wire})

    async def get_reward(self, request: Request) -> Response:
        """OpenRLHF's shape, which knows numbers only: one unscorable completion fails the request, because a made-up
        number would train the policy on nothing."""
        try:
            groups = groups_from_openrlhf(read_body(OpenRlhfRequest, await request.body()))
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        scores = [score for [score] in await self._scores(groups)]
        values = [score.value for score in scores]
        if None in values:
            fault = next(score.fault for score in scores if score.value is None)
            told = f"{values.count(None)} of {len(values)} completions could not be scored"
            raise HTTPException(
                502, f"{told}; the first: {_cause(fault, labelled=any(t.reference is not None for t, _ in groups))}"
            )
        return json_response({"rewards": values, "scores": values, "extra_logs": {self._reward: values}})

    async def _scores(self, groups: list[tuple[Task, list[Rollout]]]) -> list[list[Score]]:
        count = sum(len(rollouts) for _, rollouts in groups)
        if self._waiting + count > self._queue:
            message = f"{self._waiting} completions wait already; at most {self._queue}"
            raise HTTPException(503, message, headers={"Retry-After": "1"})
        self._waiting += count
        try:
            scores = await self._scorer.score(groups)
        except RewardError as error:
            raise HTTPException(503, str(error)) from error
        finally:
            self._waiting -= count
        self._scored += count
        self._unscorable += sum(score.value is None for group in scores for score in group)
        return scores


def build_app(
    scorer: RolloutScorer, *, reward: str, token: str, fingerprint: str = "", limits: ServerLimits | None = None
) -> FastAPI:
    """The application: GET /health, POST /score, POST /get_reward (OpenRLHF's shape).

    token: wanted on every route as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic for clients that
    can only put it into their URL. fingerprint: of the reward, its options and code; clients remember scores under it.
    Raises RewardError for a token of less than 16 characters.
    """
    limits = limits or ServerLimits()
    service = Service(scorer, reward=reward, fingerprint=fingerprint, queue=limits.queue)
    app = guarded_app(token, limits)
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/score", service.score, methods=["POST"])
    app.add_api_route("/get_reward", service.get_reward, methods=["POST"])
    return app


def _cause(fault: Fault | None, *, labelled: bool) -> str:
    """The fault in one line. A reference that cannot be read is first of all one that was not sent."""
    if fault is None:
        return "no cause given"
    told = ": ".join(filter(None, (f"{fault.kind.value} in {fault.where}", printable(fault.message))))
    missing = "the request has no labels, and this reward compares with a reference"
    return f"{told}; {missing}" if fault.kind is FaultKind.GOLD and not labelled else told
