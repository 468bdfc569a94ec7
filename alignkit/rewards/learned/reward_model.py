"""A trained reward model as a folder, and as something that scores rollouts.

The folder is an ordinary transformers checkpoint with two more files: `value_head.safetensors`, and `reward.json`,
which says how the model is read (the algorithm that trained it, its chat template's use, limits).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alignkit.algorithms.base import Algorithm
from alignkit.data.kinds.stepwise_supervision import step_ids
from alignkit.data.offline.told_episode import told_episode
from alignkit.data.prompts import render, render_answer
from alignkit.data.turns import Renderer
from alignkit.environments.base import PRIVILEGED
from alignkit.errors import ContentError, DataError, on_one_line
from alignkit.models.adapted import base_model
from alignkit.models.critic import add_value_head, save_value_head
from alignkit.models.device_type import default_device
from alignkit.models.encoder import packs
from alignkit.models.forward import Forward, Want
from alignkit.models.last_states import TOLERANCE, States, differences, last_values, reads_last_only, trial_batch
from alignkit.models.load import load_policy
from alignkit.models.save import save_pretrained
from alignkit.models.weights import VALUE_HEAD
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.lookup.made_by import made_by
from alignkit.recipe.read import load_algorithm
from alignkit.recipe.schema import Data, Model
from alignkit.rewards.base import as_score, unscorable
from alignkit.rewards.steps import split_steps
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Judgement, Outputs
from alignkit.types.rollout import Rollout
from alignkit.types.score import FaultKind, Score, StepScore
from alignkit.types.steps import StepRule
from alignkit.types.task import Message, Task

FILE = "reward.json"
BESIDE = "reference"  # folder in the folder, for the reference of a model that was built from nothing
FILES = (FILE, f"{VALUE_HEAD}.safetensors")  # in the folder, beside a checkpoint's own
MICRO_BATCH_TOKENS = 8192


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a reward model reads. algorithm: the section of the recipe that trained it. dtype: of its arithmetic.

    reference: the model that an implied reward is measured from, BESIDE: kept in the folder. chat, system: how prompts
    are rendered. longest: most tokens of an answer; cut: longer ones are cut there, else they cannot be scored.
    """

    algorithm: Mapping[str, Any]
    dtype: str
    reference: str | None
    chat: bool
    system: str | None
    cut: bool
    longest: int | None


def save_reward_model(model: nn.Module, tokenizer: Any, folder: Path, reading: Reading, *, writes: bool = True) -> None:
    """Writes the folder that `RewardModel.load` reads. writes: as of `save_pretrained`."""
    save_pretrained(model, tokenizer, folder, dtype=getattr(torch, reading.dtype), writes=writes)
    if hasattr(base_model(model), VALUE_HEAD):
        save_value_head(model, folder, writes=writes)
    if writes:
        (folder / FILE).write_text(json.dumps(asdict(reading), indent=1) + "\n")


def is_reward_model(folder: Path) -> bool:
    """Whether training wrote a reward model there."""
    return (folder / FILE).is_file()


def adopt_head(model: nn.Module, heads: Sequence[str], folder: Path) -> list[str]:
    """Takes over the outputs of a saved reward model's head that have the same names; returns these."""
    _, algorithm, config = _read_folder(folder)
    before = list(algorithm.heads(config))
    shared = [name for name in heads if name in before]
    if shared:
        saved = _read_head(folder)
        own, theirs = [list(heads).index(name) for name in shared], [before.index(name) for name in shared]
        with torch.no_grad():
            for name, tensor in getattr(base_model(model), VALUE_HEAD).named_parameters():
                tensor[own] = saved[name][theirs].to(tensor)
    return shared


def adopt_value(model: nn.Module, folder: Path) -> None:
    """A critic of one value begins with the score of a reward model of one number; others keep their fresh heads."""
    head, saved = getattr(base_model(model), VALUE_HEAD), _read_head(folder)
    if saved["weight"].shape == head.weight.shape and head.out_features == 1:
        head.load_state_dict(saved)


def _read_folder(folder: Path) -> tuple[Reading, Algorithm, Any]:
    """How a saved model is read, its algorithm and that one's config."""
    if not is_reward_model(folder):
        maker = made_by(folder.as_posix())
        cure = f"run `{maker}` first" if maker else "train one (docs/rewards.md)"
        raise ContentError(f"{folder} is no reward model: it has no {FILE}; {cure}")
    try:
        reading = Reading(**json.loads((folder / FILE).read_text()))
        algorithm = load_algorithm(reading.algorithm["type"], beside=folder)
        return reading, algorithm, algorithm.config.model_validate(reading.algorithm)
    except (ValueError, TypeError, KeyError) as error:
        why = on_one_line(error)
        raise ContentError(f"{folder / FILE} cannot be read: {why}; train the model again") from error


def _read_head(folder: Path) -> dict[str, Tensor]:
    file = folder / f"{VALUE_HEAD}.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ContentError(f"{file} cannot be read: {error}; train the model again") from error


def _load_head(model: nn.Module, heads: int, folder: Path) -> None:
    add_value_head(model, heads, seed=0)
    try:
        getattr(base_model(model), VALUE_HEAD).load_state_dict(_read_head(folder))
    except RuntimeError as error:
        why = on_one_line(error)
        raise ContentError(f"{folder}: its {VALUE_HEAD} is not that of {heads} numbers: {why}") from error


def asked(rollout: Rollout, *, chat: bool, system: str | None) -> Task:
    """All that was said before the last utterance, as messages or as text. system: put first where there is none."""
    task, before = rollout.task, rollout.turns[:-1]
    if not chat:
        start = task.text if task.text is not None else "\n\n".join(str(m["content"]) for m in task.messages or ())
        text = start + "".join(turn.text + (turn.observation or "") for turn in before)
        return replace(task, messages=None, text=text)
    messages: list[Message] = [*(task.messages or ({"role": "user", "content": task.text or ""},))]
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    for turn in before:
        messages.append({"role": "assistant", "content": turn.text})
        messages.append({"role": "user", "content": turn.observation or ""})
    return replace(task, messages=tuple(messages), text=None)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A rollout as a reward model reads it. ends: (character of the text, place of the token) where each step ends.

    turned: of a model that reads two answers the other order, in which the rollout's own comes first.
    """

    item: Item
    ends: tuple[tuple[int, int], ...] = ()
    turned: Item | None = None


@dataclass(kw_only=True)
class RewardModel:
    """Scores rollouts with a model, its head and the algorithm that says how the numbers are read."""

    forward: Forward
    reference: Forward | None
    tokenizer: Any
    algorithm: Algorithm
    config: Any
    reading: Reading
    states: States | None = None

    @classmethod
    def load(cls, folder: Path, *, device: str | None = None) -> RewardModel:
        """From a folder that training wrote; safetensors only. device: None is the accelerator, where there is one.

        Raises ContentError when it is none.
        """
        device = device or default_device()
        reading, algorithm, config = _read_folder(folder)
        model, tokenizer = load_policy(Model(path=str(folder.resolve())), seed=0)
        heads = len(algorithm.heads(config))
        if heads:
            _load_head(model, heads, folder)
        reference = None
        if reading.reference is not None:
            reference_folder = folder.resolve() / BESIDE if reading.reference == BESIDE else reading.reference
            reference = cls._forward(
                load_policy(Model(path=str(reference_folder)), seed=0)[0], reading, ("logprobs",), device
            )
        return cls(
            forward=cls._forward(model, reading, ("values",) if heads else ("logprobs",), device),
            reference=reference,
            tokenizer=tokenizer,
            algorithm=algorithm,
            config=config,
            reading=reading,
        )

    @staticmethod
    def _forward(model: nn.Module, reading: Reading, want: tuple[Want, ...], device: str) -> Forward:
        model.to(device).requires_grad_(False).eval()
        return Forward(model, getattr(torch, reading.dtype), fast=packs(model), report=lambda line: None, want=want)

    @property
    def context(self) -> int:
        longest = base_model(self.forward.model).config.max_position_embeddings
        return longest if self.states is None else min(longest, MICRO_BATCH_TOKENS)

    @property
    def reads_last_only(self) -> bool:
        """Whether its scores need no state of a causal language model but the last."""
        return packs(self.forward.model) and reads_last_only(self.algorithm, self.config)

    def read_with(self, states: States, *, engine: str) -> None:
        """Takes last states from another engine from now on. Raises ContentError where its numbers are others."""
        batch = trial_batch(base_model(self.forward.model).config.vocab_size, min(self.context, MICRO_BATCH_TOKENS))
        own, last = self._said(self.forward, batch).values, batch.last_token()
        with torch.no_grad():
            other = last_values(self.forward.model, batch, states)
        apart = differences(own[last], other[last])
        if not apart <= TOLERANCE:
            problem = f"engine {engine}: its scores are {apart:.1e} from those of transformers"
            raise ContentError(f"{problem}, more than {TOLERANCE:g}; use engine: transformers")
        self.states = states

    @property
    def steps(self) -> StepRule | None:
        """How it reads an answer in steps; None where it does not."""
        return self.algorithm.steps(self.config)

    def score(self, groups: Sequence[tuple[Task, Sequence[Rollout]]], *, name: str) -> list[list[Score]]:
        """One Score per rollout, in order, under the reward's `name`; each depends on its own rollout only."""
        prepared = [[self._prepare(rollout, name) for rollout in rollouts] for _, rollouts in groups]
        readable = [one for group in prepared for one in group if isinstance(one, Prepared)]
        scores = self._judge(readable)
        return [[as_score(next(scores), where=name) if isinstance(one, Prepared) else one for one in group]
                for group in prepared]  # fmt: skip

    def _prepare(self, rollout: Rollout, name: str) -> Prepared | Score:
        if kind_of(self.algorithm.source).told:
            return self._told(rollout, name)
        task = asked(rollout, chat=self.reading.chat, system=self.reading.system)
        try:
            prompt = render(self.tokenizer, task, self._data)
            completion, ends = self._completion(task, rollout.text)
        except DataError as error:  # a character that its tokenizer lacks, messages that its template refuses
            return unscorable(FaultKind.REFUSED, name, str(error))
        limit = min(self.reading.longest or self.context, self.context - len(prompt))
        if limit < 1 or (len(completion) > limit and not self.reading.cut):
            message = f"{len(prompt)} + {len(completion)} tokens, more than the reward model reads"
            return unscorable(FaultKind.REFUSED, name, message)
        if kind_of(self.algorithm.source).beside_reference:
            return self._beside_reference(task, prompt, completion[:limit], name)
        kept = tuple(end for end in ends if end[1] < limit)
        places = {place for _, place in kept}
        only_ends = self.steps is not None and self.steps.alone
        completion = completion[:limit]
        action = [place in places for place in range(len(completion))] if only_ends else None
        if only_ends and not places:
            return unscorable(FaultKind.REFUSED, name, "the answer has no step that could be read")
        item = Item(prompt_ids=prompt, completion_ids=completion, action=action, truncated=rollout.truncated)
        return Prepared(item=item, ends=kept)

    def _told(self, rollout: Rollout, name: str) -> Prepared | Score:
        """The last utterance after all that was said before it, and ahead of that what training knows of the task."""
        task = rollout.task
        told = rollout.turns[0].info_before.get(PRIVILEGED, task.columns.get(PRIVILEGED))
        renderer = Renderer(tokenizer=self.tokenizer, chat=self.reading.chat, system=self.reading.system)
        messages = [message["content"] for message in task.messages or () if message["role"] != "system"]
        before = [task.text or "\n\n".join(messages), *(turn.observation or "" for turn in rollout.turns)]
        turns = [{"observation": seen, "action": turn.text} for seen, turn in zip(before, rollout.turns, strict=False)]
        try:
            episode = told_episode(renderer, replace(task, columns={PRIVILEGED: told}), turns, self.context)
        except DataError as error:
            return unscorable(FaultKind.REFUSED, name, str(error))
        said = len(renderer.encode(rollout.turns[-1].text)) + 1  # and the stop token, as episodes are laid out
        ids = [*episode.prompt_ids, *episode.completion_ids]
        return Prepared(item=Item(prompt_ids=ids[:-said], completion_ids=ids[-said:]))

    def _beside_reference(self, task: Task, prompt: list[int], answer: list[int], name: str) -> Prepared | Score:
        """The answer and the task's reference, in both orders."""
        if not isinstance(task.reference, str):
            return unscorable(FaultKind.GOLD, name, "there is no reference answer to compare with: see data.columns")
        other = render_answer(self.tokenizer, task, task.reference, self._data)[: self.reading.longest]
        if len(prompt) + len(answer) + len(other) > self.context:
            message = f"{len(prompt)} + {len(answer)} + {len(other)} tokens, more than the reward model reads together"
            return unscorable(FaultKind.REFUSED, name, message)
        return Prepared(
            item=Item(prompt_ids=(*prompt, *other), completion_ids=answer),
            turned=Item(prompt_ids=(*prompt, *answer), completion_ids=other),
        )

    def _completion(self, task: Task, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self.steps is None:
            return render_answer(self.tokenizer, task, text, self._data), []
        spans = split_steps(text, self.steps.split, pattern=self.steps.pattern)
        ids, places = step_ids(self.tokenizer, [text[span.start : span.end] + self.steps.tag for span in spans])
        return ids, [(span.end, place) for span, place in zip(spans, places, strict=True)]

    @property
    def _data(self) -> Data:
        return Data(source="", chat=self.reading.chat)

    @torch.no_grad()
    def _judge(self, prepared: Sequence[Prepared]) -> Iterator[Score]:
        """Scores in order, read in micro-batches of about equal lengths."""
        lengths = [len(one.item.prompt_ids) + len(one.item.completion_ids) for one in prepared]
        found: dict[int, Score] = {}
        chosen: list[int] = []
        for place in sorted(range(len(prepared)), key=lambda place: -lengths[place]):
            if chosen and lengths[chosen[0]] * (len(chosen) + 1) > MICRO_BATCH_TOKENS:
                found.update(self._read(chosen, prepared))
                chosen = []
            chosen.append(place)
        if chosen:
            found.update(self._read(chosen, prepared))
        return iter([found[place] for place in range(len(prepared))])

    def _read(self, places: Sequence[int], prepared: Sequence[Prepared]) -> Iterator[tuple[int, Score]]:
        items = [replace(prepared[place].item, group=number) for number, place in enumerate(places)]
        turned = [prepared[place].turned for place in places]
        items += [replace(item, group=number, member=1) for number, item in enumerate(turned) if item is not None]
        batch = pack(items, share_prefix=False)
        if self.states is None:
            said = self._said(self.forward, batch)
        else:
            said = Outputs(values=last_values(self.forward.model, batch, self.states))
        if self.reference is not None:
            batch = batch.replace(ref_logprobs=self._said(self.reference, batch).logprobs)
        judgement = self.algorithm.judge(self.config, said, batch)  # ty: ignore[not-callable]  reward models have it
        for number, place in enumerate(places):
            yield place, self._score(judgement, number, batch, prepared[place])

    def _said(self, forward: Forward, batch: Batch) -> Outputs:
        forward.verify(batch, temperature=1.0)
        said = forward(batch.to(forward.device), temperature=1.0)
        return Outputs(logprobs=_on_cpu(said.logprobs), values=_on_cpu(said.values))

    def _score(self, judgement: Judgement, number: int, batch: Batch, prepared: Prepared) -> Score:
        steps = None
        if judgement.steps is not None and prepared.ends:
            paid = judgement.steps[batch.segment == number]
            begins = [0, *(place + 1 for _, place in prepared.ends)]
            steps = tuple(
                StepScore(end, float(paid[begin : place + 1].sum()))
                for begin, (end, place) in zip(begins, prepared.ends, strict=False)
            )
        return Score(
            value=float(judgement.value[number]),
            parts={name: float(values[number]) for name, values in judgement.parts.items()},
            steps=steps,
            spread=None if judgement.spread is None else tuple(judgement.spread[number].tolist()),
            members=None if judgement.members is None else tuple(judgement.members[number].tolist()),
        )


def _on_cpu(values: Tensor | None) -> Any:
    return None if values is None else values.cpu()
