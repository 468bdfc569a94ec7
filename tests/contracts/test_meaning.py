"""What every algorithm on the shelf does to the choice between a better and a worse action; it is found by itself.

One update on a bandit with two arms. A policy makes the better arm likelier than it was against the worse one, a reward
model scores it higher against the worse one, a critic expects more where more was paid. The same update with the sign
of its loss turned round does the opposite, which is how we know that this test can fail.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignkit.algorithms.base import Algorithm
from alignkit.models.critic import add_value_head
from alignkit.models.forward import Forward, Want
from alignkit.models.weights import VALUE_HEAD
from alignkit.parallel.group import Group
from alignkit.recipe.lookup.find import list_content, load
from alignkit.train.step import Step
from alignkit.types.batch import Batch, pack
from alignkit.types.item import Item
from alignkit.types.outputs import Loss
from tests.tiny import Recorder, causal_lm

BETTER, WORSE, ANSWER = 11, 10, 7  # tokens: the two arms, and what an environment answers
PROMPTS = ((5, 9, 3), (4, 8, 6))
SIZE = 1e-3  # length of the step in weights: small enough for the first order to decide, far above rounding


@dataclass(frozen=True)
class Update:
    """One loss of one algorithm."""

    algorithm: Algorithm
    config: Any
    role: str


def updates() -> list[Any]:
    found = [(one.name, load(one)) for one in list_content("algorithms")]
    return [
        pytest.param(Update(algorithm, algorithm.config(type=name), role), id=f"{name}-{role}")
        for name, algorithm in found
        if isinstance(algorithm, Algorithm)
        for role in algorithm.losses
    ]


every_update = pytest.mark.parametrize("update", updates())


def item(prompt: tuple[int, ...], said: tuple[int, ...], *, good: bool, group: int, member: int, **more: Any) -> Item:
    """A sequence of which every token was chosen by the policy; the better one is paid 1, the worse one 0."""
    channels = {"unsafe": float(not good), "safety": float(good), "direction/safety": 1.0, "length": 1.0}
    facts = {"reward": float(good), "side": 1 if good else -1, "channels": channels}
    return Item(prompt_ids=prompt, completion_ids=said, group=group, member=member, **(facts | more))


def bandit(source: str) -> list[Item]:
    """Both arms for each prompt, in the form in which batches of this source come."""
    items: list[Item] = []
    for number, prompt in enumerate(PROMPTS):
        better = item(prompt, (BETTER,), good=True, group=number, member=0)
        worse = item(prompt, (WORSE,), good=False, group=number, member=1)
        match source:
            case "rollouts" | "candidates" | "ranked" | "rated":
                items += [better, worse, replace(better, member=2), replace(worse, member=3)]
            case "paired_preference" | "paired_episodes" | "resets" | "transitions" | "episodes":
                items += [better, worse]
            case "sft":
                items += [better]
            case (
                "unpaired_feedback"
            ):  # each answer beside one to another prompt, which says how far the policy has moved
                other = item(PROMPTS[1 - number], (ANSWER,), good=True, group=2 * number, member=1, side=0)
                items += [replace(better, group=2 * number), other]
                items += [replace(worse, group=2 * number + 1, member=0), replace(other, group=2 * number + 1)]
            case "pairwise":  # the answer that is read last is the sequence's own
                items += [item((*prompt, WORSE), (BETTER,), good=True, group=number, member=0)]
                items += [item((*prompt, BETTER), (WORSE,), good=False, group=number, member=1)]
            case "stepwise_supervision":
                items += [replace(better, rewards=(1.0,)), replace(worse, rewards=(0.0,))]
            case "rewrites":  # a right completion in one group, a wrong one with its rewrite in another
                items += [replace(better, group=2 * number), replace(worse, group=2 * number + 1, member=0)]
                items += [replace(better, group=2 * number + 1, member=1, side=0)]
            case "replay":  # the episode's utterance, then a fresh one after the same state: once each way
                items += [replace(better, group=2 * number), replace(worse, group=2 * number)]
                items += [
                    replace(worse, group=2 * number + 1, member=0),
                    replace(better, group=2 * number + 1, member=1),
                ]
            case _:
                raise AssertionError(f"say how a bandit looks to an algorithm with the source {source!r}")
    return items


def played(update: Update) -> Batch:
    """The bandit with the ratings that the algorithm reads; for a critic of states the first prompt alone pays."""
    items = bandit(update.algorithm.source)
    batch = pack([one for one in items if one.reward] if clones(update) else items).validate()
    low, *_, high = update.config.model_dump().get("classes") or (0.0, 1.0)
    better = first_tokens(batch) == BETTER
    rating = torch.where(better, float(high), float(low))
    ratings = {name: batch.channels.get(name, rating) for name in update.algorithm.columns(update.config)}
    if update.role == "critic" and not utterance_heads(update):
        batch = batch.replace(reward=(batch.group == 0).float())
    return batch.replace(channels=batch.channels | ratings).validate()


def clones(update: Update) -> bool:
    """Whether nothing else is shown to the policy than what it is to learn."""
    return update.role == "policy" and update.algorithm.source in ("sft", "episodes")


def utterance_heads(update: Update) -> list[int]:
    """Numbers of the heads that tell utterances apart (Q); the other critics say what the state before one is worth."""
    return [number for number, name in enumerate(heads_of(update)) if name.startswith("q")]


def heads_of(update: Update) -> tuple[str, ...]:
    return update.algorithm.heads(update.config)


def first_tokens(batch: Batch) -> Tensor:
    """The arm that each sequence tells of: its first chosen token."""
    return batch.tokens[batch.first_action()]


def known_values(update: Update, batch: Batch) -> Tensor:
    """What a critic that knows the game says: of an utterance what it is paid less the mean, of a state before it 0."""
    values = torch.zeros(batch.num_tokens, len(heads_of(update)))
    if update.algorithm.source in (
        "replay",
        "transitions",
        "episodes",
    ):  # critics of utterances; others say what a state is worth
        said = (first_tokens(batch) == BETTER).float() - 0.5
        for number in utterance_heads(update):
            values[batch.last_action(), number] = said
    return values


def annotated(update: Update, model: nn.Module) -> Batch:
    """The bandit as the loop hands it over: sampled by this very policy, which is its own reference."""
    batch = played(update)
    with torch.no_grad():
        logprobs = Forward(model=model, dtype=torch.float32)(batch, temperature=1.0).logprobs
    values = known_values(update, batch)
    names = ("sampler_logprobs", "old_logprobs", "ref_logprobs")
    batch = batch.replace(**dict.fromkeys(names, logprobs), values=values, target_values=torch.zeros_like(values))
    return update.algorithm.estimate(update.config, batch.replace(controls=update.algorithm.controls(update.config)))


def forward_of(update: Update, model: nn.Module) -> Forward:
    values: tuple[Want, ...] = ("values",) if heads_of(update) else ()
    reference = copy.deepcopy(model).requires_grad_(False)
    return Forward(model=model, dtype=torch.float32, want=("logprobs", *values, "ref_kl"), reference=reference)


def lead(update: Update, model: nn.Module) -> float:
    """By how much the model prefers the better arm, in the terms of the loss: log-probs, scores, or expected pay."""
    batch = played(update)
    with torch.no_grad():
        outputs = forward_of(update, model)(batch, temperature=1.0)
    better = first_tokens(batch) == BETTER
    if update.role == "policy":
        each = outputs.logprobs[batch.first_action()]
        if clones(update):
            return float(each.mean())
    elif update.role == "reward":
        assert update.algorithm.judge is not None
        reference = Forward(model=REFERENCE, dtype=torch.float32)(batch, temperature=1.0).logprobs
        batch = batch.replace(ref_logprobs=reference.detach())
        each = update.algorithm.judge(update.config, outputs, batch).value
        each = -each if update.algorithm.lower_is_better else each
    elif of_utterances := utterance_heads(update):
        each = outputs.values[batch.last_action()][:, of_utterances].mean(1)
    else:
        expected = outputs.values[batch.parent[batch.first_action()], 0]
        return float(expected[batch.group == 0].mean() - expected[batch.group == 1].mean())
    worse = first_tokens(batch) == WORSE
    return float(each[better].mean() - each[worse].mean())


def updated(update: Update, model: nn.Module, *, sign: float) -> nn.Module:
    """A copy of the model after one step of length SIZE against the gradient of the loss times `sign`.

    Of numbers that a head says, the head alone moves: what an algorithm holds fixed (other heads) then stays as it was.
    """
    model = copy.deepcopy(model)
    recorder = Recorder(model)
    turned = {role: turn(loss, sign) for role, loss in update.algorithm.losses.items()}
    step = Step(
        algorithm=replace(update.algorithm, losses=turned),
        config=update.config,
        trainer=recorder,
        forward=forward_of(update, model),
        group=Group(),
        temperature=1.0,
        max_tokens=10_000,
        roles=(update.role,),
    )
    batch = annotated(update, model)
    step.update(batch, range(batch.num_sequences), lr=1.0)
    assert recorder.gradient.norm() > 0
    move, taken = recorder.gradient * (SIZE / recorder.gradient.norm()), 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if update.role == "policy" or VALUE_HEAD in name or not heads_of(update):
                parameter -= move[taken : taken + parameter.numel()].view_as(parameter)
            taken += parameter.numel()
    return model


def turn(loss: Any, sign: float) -> Any:
    def turned(config: Any, outputs: Any, batch: Batch) -> Loss:
        own = loss(config, outputs, batch)
        return replace(own, total=sign * own.total)

    return turned


REFERENCE = causal_lm("llama_grouped").requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    widest = max(len(one.values[0].algorithm.heads(one.values[0].config)) for one in updates())
    return add_value_head(causal_lm("llama_grouped"), widest, seed=0)


@every_update
def test_one_update_prefers_the_better_arm_and_with_its_sign_turned_the_worse_one(update: Update, model: nn.Module):
    before = lead(update, model)
    assert lead(update, updated(update, model, sign=1.0)) > before
    assert lead(update, updated(update, model, sign=-1.0)) < before
