"""Turns of past episodes as data, each beside a fresh utterance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.data.kinds.transitions import past_item
from alignkit.data.offline.transitions import Transition
from alignkit.recipe.schema import Replay
from alignkit.rollout.collect import Collector, describe, trainable
from alignkit.rollout.play import Prompt
from alignkit.train.source import Drawn, Order
from alignkit.types.batch import pack
from alignkit.types.item import Item
from alignkit.types.rollout import Completion, Request, Rollout, StopReason
from alignkit.types.seeds import child

FILE = "replay.json"


def turns_of(rollout: Rollout) -> list[Transition]:
    """Each turn with what the environment answered; no answer means that the episode ended there.

    The last turn of a truncated episode has neither an end nor a next state on record, and is left out.
    """
    following = [turn.prompt_ids for turn in rollout.turns[1:]]
    turns = []
    for number, turn in enumerate(rollout.turns):
        said = (*turn.prompt_ids, *turn.completion_ids)
        last = number == len(following)
        if not (last and rollout.truncated) and turn.reward is not None:
            answer = () if last else following[number][len(said) :]
            turns.append(Transition(turn.prompt_ids, turn.completion_ids, tuple(answer), turn.reward))
    return turns


def onwards(turns: Sequence[Transition], number: int) -> list[Transition]:
    """A turn and those after it in its episode."""
    chain = [turns[number]]
    for turn in turns[number + 1 :]:
        before = chain[-1]
        if turn.state != (*before.state, *before.action, *before.answer):
            break
        chain.append(turn)
    return chain


@dataclass(kw_only=True)
class ReplaySource:
    """Plays episodes, keeps their turns, and draws `size` of them a step, each beside a fresh utterance.

    A drawn turn comes with those that followed it in its episode.

    context: most tokens of one episode. run: runs coroutines.
    Unlike other sources it holds a state, which `save` writes into the checkpoint.
    """

    order: Order
    collector: Collector
    context: int
    settings: Replay
    size: int
    seed: int
    run: Callable = asyncio.run
    turns: list[Transition] = field(default_factory=list)
    steps: int = 0

    def next(self, cursor: int, version: int) -> Drawn:
        drawn = Drawn(batch=None, cursor=cursor, consumed=[])
        if self.steps % self.settings.every == 0 or not self.turns:
            drawn = self._play(cursor)
        batch = None
        if self.turns:
            rng = np.random.default_rng(child(self.seed, "replay", self.steps))
            batch = self._beside_fresh(rng.integers(len(self.turns), size=self.size).tolist())
        self.steps += 1
        metrics = drawn.metrics | {"replay/turns": len(self.turns), "data/consumed": drawn.cursor}
        return replace(drawn, batch=batch, metrics=metrics)

    def _play(self, cursor: int) -> Drawn:
        """Fresh episodes, whose turns are kept; nothing to train on yet."""
        taken = cursor

        def draw_prompts(count: int) -> list[Prompt]:
            nonlocal taken
            examples = self.order.take(taken, count)
            prompts = [Prompt(task=e.task, ids=e.prompt, position=taken + i) for i, e in enumerate(examples)]
            taken += count
            return prompts

        collected = self.run(self.collector.collect(draw_prompts))
        fresh = [turn for rollout in trainable(collected.groups) for turn in turns_of(rollout)]
        self.turns = (self.turns + fresh)[-self.settings.capacity :]
        return Drawn(
            batch=None,
            cursor=taken,
            consumed=collected.consumed,
            rollouts=collected.everything,
            metrics=describe(collected, self.collector.settings),
        )

    def _beside_fresh(self, chosen: Sequence[int]) -> Any:
        """The packed groups of two; a turn whose fresh utterance failed is left out. None when all failed."""
        requests = [self._request(self.turns[number], place) for place, number in enumerate(chosen)]
        completions = self.run(self.collector.engine.generate(requests))
        said = zip(chosen, completions, strict=True)
        said = [(number, c) for number, c in said if c.stop is not StopReason.ERROR and c.token_ids]
        pairs = [
            (past_item(onwards(self.turns, number), group), _fresh(self.turns[number], completion, group))
            for group, (number, completion) in enumerate(said)
        ]
        return pack([item for pair in pairs for item in pair]).validate() if pairs else None

    def _request(self, turn: Transition, number: int) -> Request:
        collector = self.collector
        return Request(
            prompt_ids=turn.state,
            seed=child(self.seed, "fresh", self.steps, number),
            max_new_tokens=min(collector.settings.max_new_tokens, self.context - len(turn.state)),
            temperature=collector.settings.temperature,
            stop_token_ids=collector.stop_token_ids,
        )

    def save(self, folder: Path) -> None:
        content = {"steps": self.steps, "turns": [asdict(turn) for turn in self.turns]}
        (folder / FILE).write_text(json.dumps(content))

    def load(self, folder: Path) -> None:
        content = json.loads((folder / FILE).read_text())
        self.steps = content["steps"]
        self.turns = [
            Transition(tuple(turn["state"]), tuple(turn["action"]), tuple(turn["answer"]), turn["reward"])
            for turn in content["turns"]
        ]


def _fresh(turn: Transition, completion: Completion, group: int) -> Item:
    return Item(
        prompt_ids=turn.state,
        completion_ids=completion.token_ids,
        rewards=[0.0] * len(completion.token_ids),
        member=1,
        group=group,
        policy_version=completion.policy_version,
    )
