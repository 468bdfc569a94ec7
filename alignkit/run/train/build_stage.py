"""One stage of a recipe as the loop that trains it: every object is built whole, and nothing of the run is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignkit.algorithms.base import Algorithm
from alignkit.data.kinds.kind import Kind
from alignkit.errors import RecipeError
from alignkit.models.critic import add_value_head
from alignkit.models.encoder import packs
from alignkit.models.forward import Forward, Want
from alignkit.models.frozen import hold_frozen
from alignkit.models.load import load_policy
from alignkit.parallel.cut import Cutter, copied
from alignkit.parallel.frozen import FrozenShards
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import Trainer
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.schema import Recipe, Stage
from alignkit.rollout.candidates import JudgedUtterances
from alignkit.rollout.collect import Collector
from alignkit.run.train import build, build_data
from alignkit.run.train.build_order import indexed
from alignkit.run.train.epochs import GivenData
from alignkit.run.train.training_play import training_play
from alignkit.train.hooks.build import hooks_of
from alignkit.train.hooks.hook import Hook
from alignkit.train.loop import Finish, StageLoop
from alignkit.train.reference import Reference, fingerprint
from alignkit.train.source import Source
from alignkit.train.step import Step
from alignkit.train.sync import Sync
from alignkit.train.target import Target
from alignkit.train.window_index import WINDOWS
from alignkit.types.needs import Needs
from alignkit.types.seeds import child
from alignkit.types.task import Task


@dataclass(frozen=True, kw_only=True)
class StageBuilder:
    """Builds the stages of a run on this rank.

    collector: (number of a stage, the tasks that it trains on) -> what samples and scores for it, on the first rank.
    given: the sources of given data. tasks_read: is told of the tasks that the stage trains on, as they are read.
    folder: of the run, for what the reference said of offline data. report: is told of what rows are left out. load: of
    the models beside the policy. cutter: what makes this rank's shards of those that nothing trains, under ZeRO-3.
    """

    recipe: Recipe
    group: Group
    collector: Callable[[int, Sequence[Task]], Collector]
    given: GivenData
    tasks_read: Callable[[Sequence[Task]], None]
    folder: Path
    report: Callable[[str], None]
    load: build.Load = load_policy
    cutter: Cutter | None = None

    def looks_back(self, stage: Stage) -> bool:
        """Whether the weights with which the stage begins are asked for later: by a reference or a guide."""
        algorithm, config = build.algorithm_of(self.recipe, stage)
        _, needs = _hooks_and_needs(stage, algorithm, config)
        return "reference" in needs.models or stage.rollouts.guide_roll_out > 0

    def _identity(self, policy: build.Policy) -> str:
        """What names the base's numbers beside answers that it gave."""
        return fingerprint(policy.model, adapter=False)

    def build_stage(
        self,
        number: int,
        policy: build.Policy,
        initial: build.First | None,
        *,
        sync: Sync,
        finish: Finish,
    ) -> StageLoop:
        """The loop of stage `number`, which trains `policy`; its model gets the heads that the stage needs.

        initial: the weights with which the stage began, where it looks back and is not the first. sync, finish: of the
        loop.
        """
        stage = self.recipe.stages[number]
        algorithm, config = build.algorithm_of(self.recipe, stage)
        kind, (hooks, needs) = kind_of(algorithm.source), _hooks_and_needs(stage, algorithm, config)
        shared, critic_model = self._heads(stage, algorithm, config, policy)
        kept = "reference" in needs.models and not kind.samples
        based = kept and build.begins_as_base(self.recipe, initial)
        identity = self._identity(policy) if based else None  # while the model is whole
        for trained in filter(None, (policy.model, critic_model)):
            build.recompute(trained, stage)
        slow = copied(critic_model or policy.model) if "target" in needs.models else None
        trainer = build.build_trainer(policy.model, stage.optimizer, self.group, self._dtype)
        fast = stage.train.fast_paths and packs(policy.model)
        reference = None
        if "reference" in needs.models:
            reference = self._reference(stage, trainer, initial, identity, keep=kept)
        has_values = bool(algorithm.heads(config)) and shared
        words: tuple[Want, ...] = () if algorithm.trains_reward and has_values else ("logprobs",)
        values: tuple[Want, ...] = ("values",) if has_values else ()
        step = Step(
            algorithm=algorithm,
            config=config,
            trainer=trainer,
            forward=self._forward(trainer, (*words, *values, *needs.outputs), fast=fast, reference=reference),
            group=self.group,
            temperature=stage.rollouts.temperature if kind.samples else 1.0,
            max_tokens=stage.train.micro_batch_tokens,
            roles=tuple(algorithm.losses) if shared else ("policy",),
            watch_noise=stage.train.watch_noise,
        )
        critic = self._critic(step, stage, critic_model, fast=fast) if critic_model else None
        return StageLoop(
            stage=stage,
            step=step,
            critic=critic,
            target=self._target(critic or step, slow) if slow else None,
            source=self._source(number, kind, policy, initial) if self.group.first else None,
            reference=reference,
            samples=kind.samples,
            hooks=hooks,
            needs=needs,
            seed=child(self.recipe.seed, stage.name),
            sync=sync,
            finish=finish,
        )

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.recipe.model.dtype)

    def _heads(
        self, stage: Stage, algorithm: Algorithm, config: Any, policy: build.Policy
    ) -> tuple[bool, nn.Module | None]:
        """(whether the policy's model is trained on all losses, a critic of its own)."""
        heads, reward = len(algorithm.heads(config)), algorithm.trains_reward
        scores = {"scored": algorithm.scored(config), "normalised": algorithm.normalised(config)}
        shared = reward or (stage.critic is not None and stage.critic.shared)
        if reward:
            build.make_reward_model(self.recipe, stage, policy, self.report)
        elif heads and shared:
            add_value_head(policy.model, heads, seed=child(self.recipe.seed, stage.name), **scores)
        build.check_speaks(policy, reward=reward)
        # a copy of the policy while it is whole: its trainer may shard it
        if not heads or shared:
            return shared, None
        return shared, build.build_critic(self.recipe, stage, policy, heads, self.load, **scores)

    def _forward(
        self, trainer: Trainer, want: tuple[Want, ...], *, fast: bool, reference: Reference | None = None
    ) -> Forward:
        return Forward(
            trainer.model,
            self._dtype,
            fast=fast,
            report=self.report,
            run=trainer.run,
            want=want,
            reference=reference.forward.model if reference else None,
        )

    def _reference(
        self,
        stage: Stage,
        trainer: Trainer,
        initial: build.First | None,
        identity: str | None,
        *,
        keep: bool,
    ) -> Reference:
        """The frozen reference: of a fresh adapter the policy without it, else a model of its own.

        identity: of the policy's base. keep: what it says, in the run folder, of offline data, which comes again.
        """
        fast = stage.train.fast_paths
        if build.begins_as_base(self.recipe, initial):
            forward = replace(self._forward(trainer, ("logprobs",), fast=fast), adapter=False)
        else:
            frozen = build.build_reference(self.recipe, initial, self.load)
            frozen = hold_frozen(self.cutter.cut(frozen) if self.cutter else frozen, self._dtype)
            identity = fingerprint(frozen) if self.cutter and keep else None  # which all ranks compute together
            forward = self._frozen(trainer, frozen, ("logprobs",), fast=fast)
        return Reference(
            forward=forward,
            file=self.folder / "reference.sqlite" if keep else None,
            report=self.report,
            identity=identity,
        )

    def _critic(self, policy: Step, stage: Stage, model: nn.Module, *, fast: bool) -> Step:
        """What trains a critic of its own: another model, another optimizer, the same batches."""
        trainer = build.build_trainer(model, stage.optimizer, self.group, self._dtype)
        forward = self._forward(trainer, ("values",), fast=fast)
        return replace(policy, trainer=trainer, forward=forward, roles=("critic",), watch_noise=False)

    def _target(self, critic: Step, slow: nn.Module) -> Target:
        """slow: a copy of the critic."""
        if self.cutter and self.recipe.evaluation and critic.algorithm.steers(critic.config):
            kind = critic.config.type
            raise RecipeError(
                f"{kind}: its evaluation speaks with critics, which ZeRO-3 holds in shards; launch with zero2, set "
                "algorithm.beta to 0, or remove the evaluation"
            )
        slow = self.cutter.cut(slow) if self.cutter else slow
        forward = self._frozen(critic.trainer, slow, ("values",), fast=critic.forward.fast)
        return Target(forward, rate=critic.config.target_rate, group=self.group)

    def _frozen(self, trainer: Trainer, model: nn.Module, want: tuple[Want, ...], *, fast: bool) -> Forward:
        """Of a model that nothing trains, in shards where there is a cutter, else where the trained model is."""
        run = FrozenShards(model).run if self.cutter else None
        model = model if self.cutter else build.on(model, next(trainer.model.parameters()).device)
        return Forward(model, self._dtype, fast=fast, report=self.report, run=run, want=want)

    def _source(self, number: int, kind: Kind, policy: build.Policy, initial: build.First | None) -> Source:
        stage = self.recipe.stages[number]
        if not kind.samples:
            offline = self.given.take(number, policy, report=self.report)
            self.tasks_read([row.task for row in offline.order.examples])
            return replace(offline, order=indexed(offline.order, self.folder / WINDOWS, stage.name))
        order = build_data.build_examples(stage, policy, recipe=self.recipe, report=self.report)
        order = indexed(order, self.folder / WINDOWS, stage.name)
        tasks = [example.task for example in order.examples]
        self.tasks_read(tasks)
        collector = self.collector(number, tasks)
        play = training_play(collector.play, self.recipe, stage, policy, initial)
        scorer = collector.scorer
        judged = JudgedUtterances(rewards=scorer) if kind.candidates and scorer else scorer
        collector = replace(collector, play=play, scorer=judged)
        return build_data.build_source(kind, stage, order, collector, policy, self.recipe.seed)


def _hooks_and_needs(stage: Stage, algorithm: Algorithm, config: Any) -> tuple[list[Hook], Needs]:
    """The stage's hooks, and what they and its algorithm need."""
    own = algorithm.needs(config)
    hooks = list(hooks_of(stage, own))
    return hooks, reduce(or_, (hook.needs for hook in hooks), own)
