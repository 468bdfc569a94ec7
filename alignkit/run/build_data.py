"""From a stage's data to what the loop draws from: tasks, examples, sources, and the evaluators of held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from alignkit.data.given import UNITS, describe_rows, make_rows
from alignkit.data.pairs import Sieve
from alignkit.data.prompts import fit_prompts, render, render_completion
from alignkit.data.sources import load_tasks, split_holdout
from alignkit.data.turns import given_turns, learn
from alignkit.errors import DataError
from alignkit.models.encoder import packs
from alignkit.recipe.schema import Data, Evaluation, Recipe, Replay, Stage
from alignkit.rewards.blend import part_names
from alignkit.rewards.pool import RewardPool
from alignkit.rewards.shape import check_rows
from alignkit.rollout.collect import Collector
from alignkit.rollout.episodes import SUCCESS, EpisodeCollector
from alignkit.rollout.resets import ResetCollector
from alignkit.run.build import Policy, algorithm_of, beside, renderer_of
from alignkit.train.evaluate import Evaluator, grader_of
from alignkit.train.evaluate_given import GivenEvaluator
from alignkit.train.given import ITEMS, GivenSource, check_columns
from alignkit.train.replay import ReplaySource, TurnSource
from alignkit.train.source import Example, LabelledSource, Order, RolloutSource, Source
from alignkit.types.seeds import child
from alignkit.types.task import Task


def build_examples(
    stage: Stage, policy: Policy, *, labelled: bool, recipe: Recipe, report: Callable[[str], None]
) -> list[Example]:
    """Loads, splits and tokenises a stage's training data; raises DataError when nothing is left to train on."""
    if stage.environment is not None:  # its first observation is the prompt
        return [Example(task=task, prompt=()) for task in _training_tasks(stage, recipe)]
    examples = _tokenise(_training_tasks(stage, recipe), stage.data, policy, labelled=labelled, report=report)
    if not examples:
        raise DataError(f"{stage.data.name}: no task is left to train on after holdout and length filters")
    return examples


def build_given(
    kind: str, stage: Stage, policy: Policy, *, recipe: Recipe, report: Callable[[str], None]
) -> GivenSource:
    """The source of a stage's judged completions; says what it leaves out and how long the rest is."""
    tasks = _training_tasks(stage, recipe)
    rows, sieve = _given_rows(recipe, stage, tasks, stage.data, policy, report=report)
    for sentence in filter(None, (sieve.report(), describe_rows(kind, rows))):
        report(sentence)
    return GivenSource(
        order=Order(examples=rows, seed=child(recipe.seed, stage.name, "order"), shuffle=stage.data.shuffle),
        size=stage.train.batch or 1,
        items=ITEMS[kind],
        share_prefix=stage.train.fast_paths and packs(policy.model),
        left_out=sieve.left_out / sieve.given,
    )


def _given_rows(
    recipe: Recipe, stage: Stage, tasks: Sequence[Task], data: Data, policy: Policy, *, report: Callable[[str], None]
) -> tuple[list[Any], Sieve]:
    algorithm, config = algorithm_of(recipe, stage)
    unit = UNITS.get(algorithm.source, "completions")
    sieve = Sieve(tokenizer=policy.tokenizer, data=data, context=policy.context, unit=unit)
    prompts = _prompts(tasks, data, policy, report=report)
    rows = make_rows(algorithm.source, prompts, sieve, seed=recipe.seed, tag=getattr(config, "tag", ""))
    check_columns(rows, algorithm.source, algorithm.columns(config))
    return rows, sieve


def build_turns(stage: Stage, policy: Policy, recipe: Recipe) -> TurnSource:
    """The source of the turns of given episodes."""
    renderer, tasks = renderer_of(stage.data, policy), _training_tasks(stage, recipe)
    turns = [(task.id, turn) for task in tasks for turn in given_turns(renderer, task, policy.context)]
    order = Order(examples=turns, seed=child(recipe.seed, stage.name, "order"), shuffle=stage.data.shuffle)
    return TurnSource(order=order, size=stage.train.batch or 1)


def _training_tasks(stage: Stage, recipe: Recipe) -> list[Task]:
    tasks = load_tasks(stage.data, seed=recipe.seed, beside=beside(recipe))
    check_rows(stage.rewards, tasks)
    return split_holdout(tasks, stage.data.holdout, recipe.seed)[0]


def _prompts(tasks: Sequence[Task], data: Data, policy: Policy, *, report: Callable) -> list[tuple[Task, list[int]]]:
    limit = min(data.max_prompt_tokens, policy.context - 1)
    prompts, counts = fit_prompts(
        [(task, render(policy.tokenizer, task, data)) for task in tasks], limit, data.long_prompts
    )
    if counts.filtered or counts.truncated:
        report(f"{data.name}: {counts.filtered} prompts of more than {limit} tokens left out, "
               f"{counts.truncated} truncated, of {len(tasks)}")  # fmt: skip
    return prompts


def _tokenise(tasks: Sequence[Task], data: Data, policy: Policy, *, labelled: bool, report: Callable) -> list[Example]:
    prompts = _prompts(tasks, data, policy, report=report)
    if not labelled:
        return [Example(task=task, prompt=tuple(ids)) for task, ids in prompts]
    sieve = Sieve(tokenizer=policy.tokenizer, data=data, context=policy.context, unit="completions")
    sieve.given = len(prompts)
    examples = [example for task, ids in prompts if (example := _labelled(task, ids, data, policy, sieve))]
    if sentence := sieve.report():
        report(sentence)
    return examples


def _labelled(task: Task, prompt: Sequence[int], data: Data, policy: Policy, sieve: Sieve) -> Example | None:
    """A task with what is to be learnt from it: its `turns`, or its one completion. None where that is too long."""
    if "turns" in task.columns:
        first, rest, action = learn(renderer_of(data, policy), task, policy.context)
        return Example(task=task, prompt=tuple(first), completion=tuple(rest), action=tuple(action))
    fitted, _ = sieve.fit(task, prompt, [render_completion(policy.tokenizer, task, data)])
    return Example(task=task, prompt=tuple(prompt), completion=tuple(fitted[0])) if fitted else None


def build_source(kind: str, stage: Stage, examples: list[Example], collector: Collector | None, seed: int) -> Source:
    order = Order(examples=examples, seed=child(seed, stage.name, "order"), shuffle=stage.data.shuffle)
    if isinstance(collector, EpisodeCollector) and kind == "replay":
        size, settings = stage.train.batch or 1, stage.replay or Replay()
        return ReplaySource(
            order=order, collector=collector, settings=settings, size=size, seed=child(seed, stage.name)
        )
    if isinstance(collector, EpisodeCollector) and kind == "resets":
        collector = ResetCollector(**vars(collector))
    if collector is not None:
        return RolloutSource(
            order=order, collector=collector, share_prefix=stage.train.fast_paths, guided=stage.rollouts.guided
        )
    return LabelledSource(order=order, size=stage.train.batch or 1)


def build_evaluator(recipe: Recipe, policy: Policy, collector: Collector) -> Evaluator:
    """The recipe's evaluation, graded by the last stage's rewards, on `evaluation.data` or the tasks held out there."""
    settings, stage = recipe.evaluation or Evaluation(), recipe.stages[-1]
    data, tasks = settings.data or stage.data, _heldout_tasks(recipe)
    if isinstance(collector.scorer, RewardPool):
        collector = replace(collector, scorer=collector.scorer.unnormalised())
    if stage.environment is not None:
        examples = [Example(task=task, prompt=()) for task in tasks[: settings.limit]]
        return Evaluator(collector=collector, examples=examples, settings=settings, grader=lambda task: SUCCESS)
    examples = _tokenise(tasks[: settings.limit], data, policy, labelled=False, report=lambda message: None)
    grader = partial(grader_of, stage.rewards, part_names(stage.rewards))
    sources = tuple(data.mixture)
    return Evaluator(collector=collector, examples=examples, settings=settings, grader=grader, sources=sources)


def build_given_evaluator(recipe: Recipe, policy: Policy) -> GivenEvaluator:
    """The evaluation of a model that judges: held-out completions of the kind that the last stage learns from."""
    settings, stage = recipe.evaluation or Evaluation(), recipe.stages[-1]
    kind, data = algorithm_of(recipe, stage)[0].source, settings.data or stage.data
    tasks = _heldout_tasks(recipe)[: settings.limit]
    rows, _ = _given_rows(recipe, stage, tasks, data, policy, report=lambda message: None)
    share_prefix = stage.train.fast_paths and packs(policy.model)
    return GivenEvaluator(rows=rows, items=ITEMS[kind], share_prefix=share_prefix)


def _heldout_tasks(recipe: Recipe) -> list[Task]:
    settings, stage = recipe.evaluation or Evaluation(), recipe.stages[-1]
    data = settings.data or stage.data
    tasks = load_tasks(data, seed=recipe.seed, beside=beside(recipe))
    if settings.data is None:
        _, tasks = split_holdout(tasks, data.holdout, recipe.seed)
    if not tasks:
        raise DataError("evaluation: there are no held-out tasks; set data.holdout or evaluation.data")
    return tasks
