"""From a stage's data to what the loop draws from: tasks, examples, sources, and the evaluators of held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from alignkit.data.asked import check_asked
from alignkit.data.kinds.kind import Kind
from alignkit.data.kinds.sft import make_sft
from alignkit.data.offline.example import Example
from alignkit.data.offline.row_filter import RowFilter
from alignkit.data.opened import opened
from alignkit.data.sources import first_window, load_tasks, split_holdout
from alignkit.errors import DataError
from alignkit.models.encoder import packs
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.schema import Data, Evaluation, Recipe, Replay, Stage
from alignkit.rewards.pool.blend import part_names
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rollout.collect import Collector
from alignkit.rollout.episodes import SUCCESS
from alignkit.run.train.build import Policy, algorithm_of, beside, episode_tokens
from alignkit.run.train.build_order import build_order, describe_order
from alignkit.train.evaluate import Evaluator, grader_of
from alignkit.train.evaluate_offline import OfflineEvaluator
from alignkit.train.offline import OfflineSource, check_columns
from alignkit.train.replay import ReplaySource
from alignkit.train.source import Order, RolloutSource, Source
from alignkit.types.seeds import child
from alignkit.types.task import Task


def build_examples(stage: Stage, policy: Policy, *, recipe: Recipe, report: Callable[[str], None]) -> Order[Example]:
    """Loads, splits and tokenises the prompts of a stage's training data, with their own completions where rollouts are
    guided by them; raises DataError when nothing is left to train on."""
    row_filter = _row_filter(recipe, stage.data, policy, report=report)

    def made(tasks: Sequence[Task]) -> Sequence[Example]:
        if stage.environment is not None:  # its first observation is the prompt
            return [Example(task=task, prompt=()) for task in tasks]
        if not stage.rollouts.guide_roll_in:
            return _prompts(tasks, row_filter)
        completed = make_sft([replace(task, conversation=False) for task in tasks], row_filter)
        return [replace(one, opened=opened(row_filter.tokenizer, one.task, row_filter.data)) for one in completed]

    order = build_order(stage, recipe, made)
    _tell(stage, order, row_filter.report(), report=report)
    return order


def build_offline(stage: Stage, policy: Policy, *, recipe: Recipe, report: Callable[[str], None]) -> OfflineSource:
    """The source of a stage's offline data; says what it leaves out and how long the rest is."""
    kind, row_filter, made = _offline_rows(recipe, stage, stage.data, policy, report=report)
    order = build_order(stage, recipe, made)
    compared = kind.table == "sides"
    _tell(stage, order, row_filter.report(), kind.lengths(order.examples) if compared else None, report=report)
    return OfflineSource(
        kind=kind,
        order=order,
        size=stage.train.batch or 1,
        share_prefix=stage.train.fast_paths and packs(policy.model),
        left_out=row_filter.left_out / row_filter.seen if compared else None,
    )


def _tell(stage: Stage, order: Order[Any], *sentences: str | None, report: Callable[[str], None]) -> None:
    """Reports the sentences; raises DataError when no row is left."""
    for sentence in filter(None, (*sentences, describe_order(order))):
        report(sentence)
    if not order.examples:
        raise DataError(f"{stage.data.name}: no task is left to train on after holdout and length filters")


def _offline_rows(
    recipe: Recipe, stage: Stage, data: Data, policy: Policy, *, report: Callable[[str], None]
) -> tuple[Kind, RowFilter, Callable[[Sequence[Task]], Sequence[Any]]]:
    """(the kind of a stage's offline data, what counts the rows that it leaves out, what makes rows of tasks)."""
    algorithm, config = algorithm_of(recipe, stage)
    kind, steps = kind_of(algorithm.source), algorithm.steps(config)
    row_filter = _row_filter(recipe, data, policy, unit=kind.unit, tag=steps.tag if steps else "", report=report)

    def made(tasks: Sequence[Task]) -> Sequence[Any]:
        assert kind.rows is not None, "what is sampled has no rows"
        rows = kind.rows(tasks, row_filter)
        check_columns(rows, kind, algorithm.columns(config))
        return rows

    return kind, row_filter, made


def _row_filter(
    recipe: Recipe,
    data: Data,
    policy: Policy,
    *,
    unit: str = "completions",
    tag: str = "",
    report: Callable[[str], None],
) -> RowFilter:
    return RowFilter(
        tokenizer=policy.tokenizer,
        data=data,
        context=policy.context,
        unit=unit,
        longest_prompt=min(data.max_prompt_tokens, policy.context - 1),
        stop_token_ids=policy.stop,
        seed=recipe.seed,
        tag=tag,
        tell=report,
    )


def _prompts(tasks: Sequence[Task], row_filter: RowFilter) -> list[Example]:
    check_asked(tasks)
    return [
        Example(task=task, prompt=tuple(ids), opened=opened(row_filter.tokenizer, task, row_filter.data))
        for task, ids in row_filter.prompts(tasks)
    ]


def build_source(
    kind: Kind, stage: Stage, order: Order[Example], collector: Collector, policy: Policy, seed: int
) -> Source:
    """The source of a kind of data that is sampled."""
    if kind.replays and stage.environment is not None:
        return ReplaySource(
            order=order,
            collector=collector,
            context=episode_tokens(stage.environment, policy.context),
            settings=stage.replay or Replay(),
            size=stage.train.batch or 1,
            seed=child(seed, stage.name),
        )
    return RolloutSource(order=order, collector=collector, share_prefix=stage.train.fast_paths)


def build_evaluator(recipe: Recipe, policy: Policy, collector: Collector) -> Evaluator:
    """The recipe's evaluation, graded by the last stage's rewards, on `evaluation.data` or the tasks held out there."""
    settings, stage = recipe.evaluation or Evaluation(), recipe.stages[-1]
    data, tasks = settings.data or stage.data, _heldout_tasks(recipe)
    if kind_of(algorithm_of(recipe, stage)[0].source).candidates:
        collector = replace(collector, scorer=None)  # its rewards judge utterances, and whole games are played here
    if isinstance(collector.scorer, RewardPool):
        collector = replace(collector, scorer=collector.scorer.unnormalised())
    if stage.environment is not None:
        examples = [Example(task=task, prompt=()) for task in tasks[: settings.limit]]
    else:
        examples = _prompts(tasks[: settings.limit], _row_filter(recipe, data, policy, report=lambda message: None))
    if stage.environment is not None and stage.environment.grades(judged=bool(stage.rewards)):
        return Evaluator(collector=collector, examples=examples, settings=settings, grader=lambda task: SUCCESS)
    names = part_names(stage.rewards)
    gates = {name for name, spec in zip(names, stage.rewards, strict=True) if spec.gate}
    return Evaluator(
        collector=collector,
        examples=examples,
        settings=settings,
        grader=partial(grader_of, stage.rewards, names),
        graders=sorted(names, key=lambda name: name in gates),
        sources=tuple(data.mixture),
    )


def build_offline_evaluator(recipe: Recipe, policy: Policy) -> OfflineEvaluator:
    """The evaluation of a model that judges: held-out completions of the kind that the last stage learns from."""
    settings, stage = recipe.evaluation or Evaluation(), recipe.stages[-1]
    tasks = _heldout_tasks(recipe)[: settings.limit]
    kind, _, made = _offline_rows(recipe, stage, settings.data or stage.data, policy, report=lambda message: None)
    share_prefix = stage.train.fast_paths and packs(policy.model)
    return OfflineEvaluator(kind=kind, rows=made(tasks), share_prefix=share_prefix)


def _heldout_tasks(recipe: Recipe) -> list[Task]:
    settings, stage = recipe.evaluation or Evaluation(), recipe.stages[-1]
    data = settings.data or stage.data
    tasks = load_tasks(first_window(data), seed=recipe.seed, beside=beside(recipe))
    if settings.data is None:
        _, tasks = split_holdout(tasks, data.holdout, recipe.seed)
    if not tasks:
        raise DataError("evaluation: there are no held-out tasks; set data.holdout or evaluation.data")
    return tasks
