"""From a recipe to objects. This module and run/train.py are the only places that know everything."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignkit.data.given import UNITS, describe_rows, make_rows
from alignkit.data.pairs import Sieve
from alignkit.data.prompts import fit_prompts, render, render_completion
from alignkit.data.sources import load_tasks, split_holdout
from alignkit.data.turns import Renderer, given_turns, learn
from alignkit.environments.lift import find_environment
from alignkit.errors import AlignkitError, DataError, RecipeError
from alignkit.models.critic import add_value_head, check_reads, freeze_words
from alignkit.models.encoder import packs
from alignkit.models.forward import base_model
from alignkit.models.load import load_policy, locate, save_pretrained
from alignkit.models.reward_model import BESIDE, Reading, adopt_head, adopt_value, is_reward_model, save_reward_model
from alignkit.models.tokenizer import stop_token_ids
from alignkit.parallel.group import Group
from alignkit.parallel.single import SingleTrainer
from alignkit.parallel.trainer import Trainer
from alignkit.recipe.read import resolve_algorithm
from alignkit.recipe.schema import Data, Environment, Evaluation, Optimizer, Recipe, Replay, Stage
from alignkit.rewards.blend import part_names, places_steps
from alignkit.rewards.pool import RewardPool
from alignkit.rollout.collect import Collector
from alignkit.rollout.engine import Engine
from alignkit.rollout.episodes import SUCCESS, EpisodeCollector
from alignkit.rollout.resets import ResetCollector
from alignkit.run.launch import deepspeed_file
from alignkit.train.evaluate import Evaluator, grader_name
from alignkit.train.evaluate_given import GivenEvaluator
from alignkit.train.given import ITEMS, GivenSource, check_columns
from alignkit.train.replay import ReplaySource, TurnSource
from alignkit.train.source import Example, LabelledSource, Order, RolloutSource, Source
from alignkit.types.seeds import child
from alignkit.types.task import Task

PROBE_TOKENS = 64
SUITE_TOKENS = 2048  # room for benchmarks: eight worked examples, a question and its answer


@dataclass(kw_only=True)
class Policy:
    """The trained model, as loaded; `tokenizer` and `stop` belong to it."""

    model: Any
    tokenizer: Any
    stop: tuple[int, ...]

    @property
    def context(self) -> int:
        return self.model.config.max_position_embeddings


def build_policy(recipe: Recipe, group: Group) -> Policy:
    """Loads or builds the policy; the same weights on every rank and at every start.

    One process moves it to its GPU. Several leave it on the host: DeepSpeed places the shards.
    """
    model, tokenizer = load_policy(recipe.model, seed=child(recipe.seed, "model"), beside=beside(recipe))
    if torch.cuda.is_available() and group.world == 1:
        model.to(f"cuda:{torch.cuda.current_device()}")
    return Policy(model=model, tokenizer=tokenizer, stop=stop_token_ids(tokenizer, model))


def build_reference(recipe: Recipe, initial: dict[str, torch.Tensor] | None) -> nn.Module:
    """The frozen reference: `reference.path`, else the policy as it was when the stage began.

    initial: the stage's first weights by parameter name; None when these are the recipe's own initial weights.
    """
    path = recipe.reference.path if recipe.reference else None
    model_section = recipe.model.model_copy(update={"path": path, "scratch": None}) if path else recipe.model
    model, _ = load_policy(model_section, seed=child(recipe.seed, "model"), beside=beside(recipe))
    if initial is not None and path is None:
        model.load_state_dict(initial, strict=False)
    return model.requires_grad_(False).eval()


def build_critic(recipe: Recipe, stage: Stage, policy: Policy, heads: int) -> nn.Module:
    """A critic of its own: `critic.path`, else a copy of the policy as it is now, with a fresh value head.

    From the folder of a reward model of one number, a critic of one value takes the head, too: it begins as the score.
    Raises RecipeError for a model that cannot read the policy's tokens.
    """
    path = stage.critic.path if stage.critic else None
    if path:
        section = recipe.model.model_copy(update={"path": path, "scratch": None, "lora": None})
        model, tokenizer = load_policy(section, seed=child(recipe.seed, "critic"), beside=beside(recipe))
        check_reads("critic.path", path, model, tokenizer, policy.tokenizer)
    else:
        model = copy.deepcopy(policy.model)
    freeze_words(base_model(model))
    add_value_head(model, heads, seed=child(recipe.seed, stage.name))
    if path and is_reward_model(folder := Path(locate(path, beside(recipe)))):
        adopt_value(model, folder)
    return model.to(next(policy.model.parameters()).device)


def make_reward_model(recipe: Recipe, stage: Stage, policy: Policy, report: Callable[[str], None]) -> None:
    """Gives the model its head; from a folder of a reward model it takes over the outputs of the same names."""
    algorithm, config = algorithm_of(recipe, stage)
    heads = algorithm.heads(config)
    if recipe.model.frozen:
        policy.model.requires_grad_(False)
    if not heads:
        return
    freeze_words(base_model(policy.model))
    add_value_head(policy.model, len(heads), seed=child(recipe.seed, stage.name))
    folder = Path(locate(recipe.model.path, beside(recipe))) if recipe.model.path else Path()
    if recipe.model.path and is_reward_model(folder):
        adopted = adopt_head(policy.model, heads, folder)
        report(f"{len(adopted)} of {len(heads)} outputs of the head go on from {recipe.model.path}")


def build_engine(recipe: Recipe, policy: Policy, folder: Path, *, log_file: Path) -> Engine:
    """Starts the recipe's rollout engine with the policy's present weights. folder: for its files."""
    settings = recipe.stages[-1].rollouts
    if settings.engine == "hf":
        from alignkit.rollout.hf import HfEngine

        return HfEngine(policy.model, dtype=recipe.model.dtype)
    from alignkit.rollout.vllm import VllmEngine

    dtype = getattr(torch, recipe.model.dtype)
    save_pretrained(policy.model, policy.tokenizer, folder / "initial-model", dtype=dtype)
    return VllmEngine(
        folder / "initial-model",
        dtype=recipe.model.dtype,
        max_model_len=longest_sequence(recipe, policy.context),
        memory_gib=settings.memory_gib,
        gpu_memory_fraction=settings.gpu_memory_fraction,
        threads=torch.get_num_threads(),
        log_file=log_file,
        seed=recipe.seed,
    )


def longest_sequence(recipe: Recipe, context: int) -> int:
    """Longest prompt plus completion that any stage or the evaluation may ask for, within the model's context."""
    evaluation = recipe.evaluation.max_new_tokens if recipe.evaluation else None
    needed = [
        episode_tokens(stage.environment, context)
        if stage.environment
        else stage.data.max_prompt_tokens + max(stage.rollouts.max_new_tokens, evaluation or 0)
        for stage in recipe.stages
    ]
    suite = SUITE_TOKENS if recipe.evaluation and recipe.evaluation.suite else 0
    return min(context, max(*needed, suite, PROBE_TOKENS))


def episode_tokens(environment: Environment, context: int) -> int:
    """Most tokens of one episode."""
    return min(context, environment.max_tokens or context)


def build_trainer(model: nn.Module, optimizer: Optimizer, group: Group) -> Trainer:
    """Plain torch for one process, DeepSpeed ZeRO as the launch profile says for several."""
    if group.world == 1:
        return SingleTrainer(model, optimizer)
    sharding = deepspeed_file(os.environ)
    if sharding is None:
        raise AlignkitError(
            f"{group.world} processes, but the launch profile names no DeepSpeed file to shard by: use one that does "
            "(`alignkit ls launch`: zero2, zero3, ...), or a single process"
        )
    from alignkit.parallel.zero import ZeroTrainer

    return ZeroTrainer(model, optimizer, group, json.loads(sharding.read_text()))


def build_examples(
    stage: Stage, policy: Policy, *, labelled: bool, recipe: Recipe, report: Callable[[str], None]
) -> list[Example]:
    """Loads, splits and tokenises a stage's training data; raises DataError when nothing is left to train on."""
    if stage.environment is not None:  # its first observation is the prompt
        return [Example(task=task, prompt=()) for task in _training_tasks(stage, recipe)]
    examples = _tokenise(_training_tasks(stage, recipe), stage.data, policy, labelled=labelled, report=report)
    if not examples:
        raise DataError(f"{stage.data.source}: no task is left to train on after holdout and length filters")
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
    renderer, tasks = _renderer(stage.data, policy), _training_tasks(stage, recipe)
    turns = [(task.id, turn) for task in tasks for turn in given_turns(renderer, task, policy.context)]
    order = Order(examples=turns, seed=child(recipe.seed, stage.name, "order"), shuffle=stage.data.shuffle)
    return TurnSource(order=order, size=stage.train.batch or 1)


def _training_tasks(stage: Stage, recipe: Recipe) -> list[Task]:
    tasks = load_tasks(stage.data, seed=recipe.seed, beside=beside(recipe))
    return split_holdout(tasks, stage.data.holdout, recipe.seed)[0]


def _prompts(tasks: Sequence[Task], data: Data, policy: Policy, *, report: Callable) -> list[tuple[Task, list[int]]]:
    limit = min(data.max_prompt_tokens, policy.context - 1)
    prompts, counts = fit_prompts(
        [(task, render(policy.tokenizer, task, data)) for task in tasks], limit, data.long_prompts
    )
    if counts.filtered or counts.truncated:
        report(f"{data.source}: {counts.filtered} prompts of more than {limit} tokens left out, "
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
        first, rest, action = learn(_renderer(data, policy), task, policy.context)
        return Example(task=task, prompt=tuple(first), completion=tuple(rest), action=tuple(action))
    fitted, _ = sieve.fit(task, prompt, [render_completion(policy.tokenizer, task, data)])
    return Example(task=task, prompt=tuple(prompt), completion=tuple(fitted[0])) if fitted else None


def _renderer(data: Data, policy: Policy) -> Renderer:
    return Renderer(tokenizer=policy.tokenizer, chat=data.chat, system=data.system)


def build_pool(recipe: Recipe, stage: Stage) -> RewardPool:
    """The stage's rewards in their worker processes."""
    return RewardPool(stage.rewards, workers=stage.rollouts.reward_workers, beside=beside(recipe))


def build_collector(recipe: Recipe, stage: Stage, policy: Policy, engine: Engine, pool: RewardPool | None) -> Collector:
    """What samples and scores for a stage: answers through the pool, or episodes in its environment."""
    renderer = _renderer(stage.data, policy)
    common = {
        "engine": engine,
        "scorer": pool,
        "decode": renderer.decode,
        "stop_token_ids": policy.stop,
        "settings": stage.rollouts,
        "seed": child(recipe.seed, stage.name),
        "adapter": "policy" if recipe.model.lora else None,
        "places_steps": places_steps(stage.rewards),
    }
    environment = stage.environment
    if environment is None:
        return Collector(**common)
    return EpisodeCollector(
        **common,
        make=find_environment(environment.name, environment.options, beside(recipe)),
        name=environment.name,
        renderer=renderer,
        max_turns=environment.max_turns,
        context=episode_tokens(environment, policy.context),
        deadline_s=environment.deadline_s,
    )


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
        return Evaluator(collector=collector, examples=examples, settings=settings, grader=SUCCESS)
    examples = _tokenise(tasks[: settings.limit], data, policy, labelled=False, report=lambda message: None)
    grader = grader_name(stage.rewards, part_names(stage.rewards))
    return Evaluator(collector=collector, examples=examples, settings=settings, grader=grader)


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


def save_final(recipe: Recipe, policy: Policy, folder: Path) -> None:
    """An ordinary transformers folder of the trained model; of a reward model with its head and how it is read."""
    stage = recipe.stages[-1]
    if algorithm_of(recipe, stage)[0].trains_reward:
        reading = reading_of(recipe, stage)
        save_reward_model(policy.model, policy.tokenizer, folder, reading)
        if reading.reference == BESIDE:
            save_pretrained(build_reference(recipe, None), policy.tokenizer, folder / BESIDE)
    else:
        save_pretrained(policy.model, policy.tokenizer, folder, dtype=getattr(torch, recipe.model.dtype))


def reading_of(recipe: Recipe, stage: Stage) -> Reading:
    """How the reward model of a stage reads its input, for whoever loads it without the recipe."""
    algorithm, config = algorithm_of(recipe, stage)
    needs_reference = "ref_logprobs" in algorithm.needs(config)
    given = (recipe.reference.path if recipe.reference else None) or recipe.model.path
    reference = given or BESIDE if needs_reference else None
    if reference not in (None, BESIDE) and (folder := Path(locate(reference, beside(recipe)))).is_dir():
        reference = str(folder.resolve())  # whoever loads it stands elsewhere
    return Reading(
        algorithm=stage.algorithm,
        dtype=recipe.model.dtype,
        reference=reference,
        chat=stage.data.chat,
        system=stage.data.system,
        cut=stage.data.long_completions == "truncate",
        longest=stage.data.max_completion_tokens,
    )


def check_speaks(policy: Policy, *, reward: bool) -> None:
    """Raises RecipeError when an encoder is to be a policy, or a reward model that says words."""
    if not reward and not packs(policy.model):
        raise RecipeError("model.path: an encoder reads and cannot answer: it can only be made a reward model")


def algorithm_of(recipe: Recipe, stage: Stage):
    """(Algorithm, its Config) of a stage."""
    return resolve_algorithm(stage, recipe)


def beside(recipe: Recipe) -> Path | None:
    """Folder of the recipe file: relative names in the recipe are looked up there first."""
    return recipe.file.parent if recipe.file else None
