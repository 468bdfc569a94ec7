"""From a solution to labels of its steps: where they end, what a model makes of each beginning, how that is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise

import torch

from alignkit.data.completion_text import completion_text
from alignkit.errors import DataError, EngineError
from alignkit.evaluate.benchmark.answers import AnsweringEngine
from alignkit.ops.step_labels import entropy_label
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.steps import Rule, Span, settled_ends, split_steps, step_cuts
from alignkit.types.rollout import Completion, Request, Rollout, StopReason, Turn
from alignkit.types.score import Score
from alignkit.types.seeds import child
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """How steps are labelled.

    rollouts: from the end of each step but the last, whose label is whether the solution is right. eta: of the label
    (1 / eta) log mean exp(eta outcome), see `alignkit.ops.step_labels`. threshold: rewards from here on are a success.
    solutions: 0 labels the rows' own; above it, as many are sampled for each prompt. split, pattern: where steps end;
    a row with a list `steps` is split already.
    """

    rollouts: int = 16
    eta: float = 1.0
    threshold: float = 0.5
    solutions: int = 0
    split: Rule = "blank_line"
    pattern: str | None = None
    max_new_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Place:
    """A solution to be labelled: of this task, with this number."""

    task: Task
    number: int

    @property
    def key(self) -> tuple[str, int]:
        return self.task.id, self.number


@dataclass(frozen=True)
class Solution:
    """ids: exact tokens behind the prompt's, without a stop token. cuts: of each step, after how many one can go on."""

    place: Place
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    steps: tuple[str, ...]
    cuts: tuple[int, ...]
    stop: StopReason


@dataclass(frozen=True)
class Labels:
    """rates: share of roll-outs from each step that succeed; the last is whether the solution does. reason: why there
    are none."""

    place: Place
    solution: Solution | None = None
    rates: tuple[float, ...] = ()
    labels: tuple[float, ...] = ()
    reason: str = ""


def given_solution(task: Task) -> tuple[str, list[Span] | None]:
    """The solution in a row's `steps` or `completion`, and its steps where they are given. Raises DataError."""
    given, where = task.columns.get("steps"), f"task {task.id}"
    if given is None:
        return completion_text(task.columns.get("completion"), where), None
    if not isinstance(given, list) or not given or not all(isinstance(one, str) and one for one in given):
        raise DataError(f"{where}: 'steps' must be a list of texts, none of them empty")
    return "".join(given), [Span(start, end) for start, end in pairwise([0, *accumulate(map(len, given))])]


@dataclass(kw_only=True)
class Labeller:
    """Labels solutions with an engine's model and a pool's reward. sampled: roll-outs so far.

    prompts: token ids by task id. encode: a text's ids without special tokens. decode: what was said, as text.
    """

    settings: Labelling
    engine: AnsweringEngine
    pool: RewardPool
    context: int
    stops: tuple[int, ...]
    prompts: Mapping[str, tuple[int, ...]]
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    sampled: int = field(default=0, init=False)

    async def label(self, places: Sequence[Place]) -> list[Labels]:
        """The labels of all, in order. Raises EngineError when the engine dies."""
        found = await self._solutions(places)
        solutions = [one for one in found if isinstance(one, Solution)]
        known: dict[tuple[str, int], Labels] = {one.place.key: one for one in found if isinstance(one, Labels)}
        whole = await self.pool.score(
            [(one.place.task, [_rollout(one.place, one.ids, one.text, one.stop)]) for one in solutions]
        )
        judged = {one.place.key: score for one, (score,) in zip(solutions, whole, strict=True)}
        for one in solutions:
            if judged[one.place.key].value is None:
                known[one.place.key] = Labels(one.place, reason=_reason(judged[one.place.key]))
        rolled = [one for one in solutions if one.place.key not in known]
        for one, outcomes in zip(rolled, await self._outcomes(rolled), strict=True):
            right = self._success(judged[one.place.key])
            known[one.place.key] = self._labels(one, [*outcomes, [right]])
        return [known[place.key] for place in places]

    async def _solutions(self, places: Sequence[Place]) -> list[Solution | Labels]:
        """Each place's solution, or why it has none that can be labelled."""
        if not self.settings.solutions:
            return [self._given(place) for place in places]
        roomy = [place for place in places if len(self.prompts[place.task.id]) < self.context]
        requests = [self._request(self.prompts[place.task.id], place, "solution") for place in roomy]
        completions = iter(await self._generate(requests))
        return [self._sampled(place, next(completions)) if place in roomy else _full(place) for place in places]

    def _given(self, place: Place) -> Solution | Labels:
        text, spans = given_solution(place.task)
        if spans is None:
            spans = split_steps(text, self.settings.split, pattern=self.settings.pattern)
        ids = tuple(self.encode(text))
        if self.decode(ids) != text:
            return Labels(place, reason="its text is not what its tokens say")
        return self._solution(place, ids, text, spans, StopReason.END_OF_TEXT)

    def _sampled(self, place: Place, completion: Completion) -> Solution | Labels:
        if completion.stop is StopReason.ERROR:
            return Labels(place, reason="the engine failed on it")
        ids = completion.token_ids
        ids = ids[:-1] if ids and ids[-1] in self.stops else ids
        text = self.decode(ids)
        spans = split_steps(text, self.settings.split, pattern=self.settings.pattern)
        return self._solution(place, ids, text, spans, completion.stop)

    def _solution(
        self, place: Place, ids: tuple[int, ...], text: str, spans: Sequence[Span], stop: StopReason
    ) -> Solution | Labels:
        if not text.strip():
            return Labels(place, reason="no text")
        prompt = self.prompts[place.task.id]
        if len(prompt) + len(ids) >= self.context:
            return _full(place)
        cuts = step_cuts(settled_ends(self.decode, ids), text, spans)
        steps = tuple(text[span.start : span.end] for span in spans)
        return Solution(place, prompt, ids, text, steps, tuple(cuts), stop)

    async def _outcomes(self, solutions: Sequence[Solution]) -> list[list[list[float | None]]]:
        """Of each solution, for each step but the last, its roll-outs' successes; None where one has no score."""
        beginnings = [(one, step) for one in solutions for step in range(len(one.steps) - 1)]
        size = self.settings.rollouts
        requests = [
            self._request(one.prompt + one.ids[: one.cuts[step]], one.place, "step", step, member)
            for one, step in beginnings
            for member in range(size)
        ]
        completions = iter(await self._generate(requests))
        self.sampled += len(requests)
        groups = []
        for one, step in beginnings:
            whole = [self._continued(one, step, each) for each in islice(completions, size)]
            groups.append((one.place.task, [rollout for rollout in whole if rollout is not None]))
        scores = iter(await self.pool.score(groups))
        return [[list(map(self._success, next(scores))) for _ in one.steps[:-1]] for one in solutions]

    def _labels(self, solution: Solution, outcomes: Sequence[Sequence[float | None]]) -> Labels:
        rates = []
        for step, results in enumerate(outcomes):
            known = [result for result in results if result is not None]
            if not known:
                return Labels(solution.place, reason=f"no roll-out from step {step + 1} could be scored")
            rates.append(sum(known) / len(known))
        labels = entropy_label(torch.tensor(rates, dtype=torch.float64), self.settings.eta).tolist()
        return Labels(solution.place, solution, tuple(rates), tuple(labels))

    def _request(self, prompt: tuple[int, ...], place: Place, *what: str | int) -> Request:
        settings = self.settings
        return Request(
            prompt_ids=prompt,
            seed=child(settings.seed, "label-steps", *place.key, *what),
            max_new_tokens=min(settings.max_new_tokens, self.context - len(prompt)),
            temperature=settings.temperature,
            stop_token_ids=self.stops,
        )

    async def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        completions = await self.engine.generate(requests) if requests else []
        if len(completions) != len(requests):
            raise EngineError(f"the engine gave {len(completions)} completions for {len(requests)} prompts")
        return completions

    def _continued(self, solution: Solution, step: int, completion: Completion) -> Rollout | None:
        """The solution up to a step with what the model made of it; None where the engine failed."""
        if completion.stop is StopReason.ERROR:
            return None
        ids = solution.ids[: solution.cuts[step]] + completion.token_ids
        return _rollout(solution.place, ids, self.decode(ids), completion.stop)

    def _success(self, score: Score) -> float | None:
        return None if score.value is None else float(score.value >= self.settings.threshold)


def _rollout(place: Place, ids: tuple[int, ...], text: str, stop: StopReason) -> Rollout:
    turn = Turn(prompt_ids=(), completion_ids=ids, sampler_logprobs=(), stop=stop, text=text)
    return Rollout(task=place.task, group=0, member=place.number, turns=(turn,), policy_version=0)


def _full(place: Place) -> Labels:
    return Labels(place, reason="no room in the model's context")


def _reason(score: Score) -> str:
    return f"its outcome cannot be scored: {score.fault.kind}" if score.fault else "its outcome cannot be scored"
