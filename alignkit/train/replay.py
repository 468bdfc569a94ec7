"""Past episodes as data, each with a fresh utterance after every state of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from alignkit.recipe.schema import Replay
from alignkit.rollout.collect import Collector, describe, trainable
from alignkit.rollout.items import items
from alignkit.rollout.play import Prompt
from alignkit.train.source import Drawn, Order
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.rollout import AGE, Completion, Request, Rollout, StopReason
from alignkit.types.seeds import child

FILE = "replay.json"
Place = tuple[int, int]
"""Of an utterance in a completion: its first token, and the one after its last."""


def utterances(item: Item) -> list[Place]:
    """Where the turns of an episode lie in its completion, in order."""
    chosen = [*(item.action or [True] * len(item.completion_ids)), False]
    number = [*(item.turn or [0] * len(item.completion_ids)), -1]
    places: list[Place] = []
    begin = None
    for place, on in enumerate(chosen):
        if begin is not None and (not on or number[place] != number[begin]):
            places.append((begin, place))
            begin = None
        if on and begin is None:
            begin = place
    return places


def past_episodes(rollout: Rollout) -> list[Item]:
    """The sequences of an episode; no answer after the last utterance means that the episode ended there.

    The last turn of a truncated episode has neither an end nor a next state on record, and is left out: what remains
    ends with the state before it. So it is with the last turn before a context was rewritten.
    """
    assert rollout.reward is not None, "an episode without a reward does not enter a batch"
    pieces = items(rollout, reward=rollout.reward)
    whole = [not rollout.truncated and number == len(pieces) - 1 for number in range(len(pieces))]
    kept = [item if ended else _without_last(item) for item, ended in zip(pieces, whole, strict=True)]
    return [item for item in kept if utterances(item)]


def _without_last(item: Item) -> Item:
    end = places[-1][0] if (places := utterances(item)) else 0
    cut = {name: getattr(item, name)[:end] for name in ("action", "sampler_logprobs", "rewards", "turn")}
    return replace(item, completion_ids=item.completion_ids[:end], reward=sum(cut["rewards"]), turn_channels={}, **cut)


@dataclass(frozen=True, slots=True)
class Episode:
    """A past episode. born: number of the draw before which it was played."""

    item: Item
    born: int


@dataclass(kw_only=True)
class ReplaySource:
    """Plays episodes, keeps them, and draws `size` of them a step, with a fresh utterance after every state.

    A group is an episode as it was (member 0) and what the present policy says after each of its states, which are
    stored once: branches of one packed tree. A share of the draw is taken from the latest collection.

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
    episodes: list[Episode] = field(default_factory=list)
    steps: int = 0
    _said: set[tuple[int, ...]] = field(default_factory=set, init=False)
    _said_at: int = field(default=-1, init=False)

    def next(self, cursor: int, version: int) -> Drawn:
        drawn = Drawn(batch=None, cursor=cursor, consumed=[])
        if self.steps % self.settings.every == 0 or not self.episodes:
            drawn = self._play(cursor)
        batch, said = self._beside_fresh(self._draw()) if self.episodes else (None, {})
        self.steps += 1
        kept = sum(len(utterances(episode.item)) for episode in self.episodes)
        metrics = drawn.metrics | said | {"replay/turns": kept, "data/consumed": drawn.cursor}
        return replace(drawn, batch=batch, metrics=metrics)

    def _play(self, cursor: int) -> Drawn:
        """New episodes, which are kept; nothing to train on yet."""
        taken = cursor

        def draw_prompts(count: int) -> list[Prompt]:
            nonlocal taken
            examples = self.order.take(taken, count)
            prompts = [Prompt(task=e.task, ids=e.prompt, position=taken + i) for i, e in enumerate(examples)]
            taken += count
            return prompts

        collected = self.run(self.collector.collect(draw_prompts))
        played = [item for rollout in trainable(collected.groups) for item in past_episodes(rollout)]
        self.episodes += [Episode(item, self.steps) for item in played]
        self._forget()
        return Drawn(
            batch=None,
            cursor=taken,
            consumed=collected.consumed,
            rollouts=collected.everything,
            metrics=describe(collected, self.collector.settings),
        )

    def _forget(self) -> None:
        """Lets the oldest episodes leave while there are more turns than are kept; one episode stays."""
        turns = [len(utterances(episode.item)) for episode in self.episodes]
        first, left = 0, sum(turns)
        while left > self.settings.capacity and first < len(turns) - 1:
            left -= turns[first]
            first += 1
        self.episodes = self.episodes[first:]

    def _draw(self) -> list[Episode]:
        """Without putting back, as long as there are enough: first from the latest collection, then from all."""
        rng = np.random.default_rng(child(self.seed, "replay", self.steps))
        latest = max(episode.born for episode in self.episodes)
        newest = [number for number, episode in enumerate(self.episodes) if episode.born == latest]
        share = round(self.settings.newest * self.size)
        first = rng.choice(newest, size=share, replace=share > len(newest)).tolist()
        others = sorted({*range(len(self.episodes))} - {*first}) or newest
        rest = rng.choice(others, size=self.size - share, replace=self.size - share > len(others)).tolist()
        return [self.episodes[number] for number in first + rest]

    def _beside_fresh(self, drawn: Sequence[Episode]) -> tuple[Batch | None, dict[str, float]]:
        """The packed groups, and metrics; an utterance that failed is left out, and an episode without any."""
        asked = [(group, place[0]) for group, one in enumerate(drawn) for place in utterances(one.item)]
        requests = [self._request(drawn[group].item, begin, number) for number, (group, begin) in enumerate(asked)]
        completions = self.run(self.collector.engine.generate(requests))
        said: dict[int, list[Item]] = {}
        for (group, begin), completion in zip(asked, completions, strict=True):
            if completion.stop is not StopReason.ERROR and completion.token_ids:
                others = said.setdefault(group, [])
                others.append(_fresh(drawn[group].item, begin, completion, group, member=1 + len(others)))
        if not said:
            return None, {}
        past = {group: self._past(drawn[group], group) for group in said}
        batch = pack([item for group, fresh in said.items() for item in (past[group], *fresh)]).validate()
        fresh = [tuple(item.completion_ids) for group in said.values() for item in group]
        return batch, {"replay/never_said": sum(one not in self._ever_said() for one in fresh) / len(fresh)}

    def _ever_said(self) -> set[tuple[int, ...]]:
        """All utterances of the episodes that are kept."""
        if self._said_at != self.episodes[-1].born:
            items = [episode.item for episode in self.episodes]
            self._said = {tuple(item.completion_ids[slice(*place)]) for item in items for place in utterances(item)}
            self._said_at = self.episodes[-1].born
        return self._said

    def _past(self, episode: Episode, group: int) -> Item:
        channels = {AGE: float(self.steps - episode.born)}
        return replace(episode.item, group=group, member=0, channels=channels)

    def _request(self, item: Item, begin: int, number: int) -> Request:
        collector, state = self.collector, (*item.prompt_ids, *item.completion_ids[:begin])
        return Request(
            prompt_ids=state,
            seed=child(self.seed, "fresh", self.steps, number),
            max_new_tokens=min(collector.settings.max_new_tokens, self.context - len(state)),
            temperature=collector.settings.temperature,
            stop_token_ids=collector.stop_token_ids,
        )

    def save(self, folder: Path) -> None:
        content = {"steps": self.steps, "episodes": [asdict(episode) for episode in self.episodes]}
        (folder / FILE).write_text(json.dumps(content))

    def load(self, folder: Path) -> None:
        content = json.loads((folder / FILE).read_text())
        self.steps = content["steps"]
        self.episodes = [Episode(Item(**episode["item"]), episode["born"]) for episode in content["episodes"]]


def _fresh(item: Item, begin: int, completion: Completion, group: int, *, member: int) -> Item:
    """What the policy says now after the first `begin` tokens of an episode's completion."""
    return Item(
        prompt_ids=item.prompt_ids,
        completion_ids=completion.token_ids,
        sampler_logprobs=completion.logprobs,
        rewards=[0.0] * len(completion.token_ids),
        turn=[item.turn[begin] if item.turn else 0] * len(completion.token_ids),
        member=member,
        group=group,
        policy_version=completion.policy_version,
        fork=begin,
    )
