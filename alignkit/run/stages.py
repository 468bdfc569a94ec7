"""A run over its stages: builds each stage's loop, evaluates, checkpoints, and concludes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from alignkit.errors import CheckpointError, EngineError, HealthError, RecipeError, RewardError
from alignkit.evaluate.before_after import compare_results
from alignkit.models.critic import add_value_head, remove_value_head
from alignkit.models.encoder import packs
from alignkit.models.forward import Forward, Want
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import Trainer
from alignkit.recipe.read import dump_recipe
from alignkit.recipe.rules import judges_given
from alignkit.recipe.schema import Recipe, Stage
from alignkit.report.light import Light
from alignkit.report.run_folder import step_of
from alignkit.rewards.pool import RewardPool
from alignkit.rollout.collect import Collector
from alignkit.rollout.engine import Engine
from alignkit.run import build, build_data
from alignkit.run.guide import with_guide
from alignkit.run.journal import Journal
from alignkit.run.suite import SuiteEvaluation
from alignkit.train import checkpoint
from alignkit.train.checkpoint import State
from alignkit.train.evaluate import Evaluator
from alignkit.train.evaluate_given import GivenEvaluator
from alignkit.train.given import ITEMS
from alignkit.train.health import Health, Limits, stop_if_needed
from alignkit.train.loop import StageLoop
from alignkit.train.needs import columns_needed
from alignkit.train.reference import Reference
from alignkit.train.source import Drawn, Source
from alignkit.train.step import Step
from alignkit.train.sync import Sync
from alignkit.train.target import Target
from alignkit.types.seeds import child

CRITIC, TARGET, REPLAY = "critic", "critic-target", "replay"  # folders within a checkpoint


@dataclass(kw_only=True)
class Run:
    """A run in progress on this rank. engine and evaluator exist on the first rank only.

    start: the checkpoint to go on from, or None. interrupted: set by a signal; honoured after the step in progress.
    """

    recipe: Recipe
    group: Group
    policy: build.Policy
    journal: Journal
    engine: Engine | None
    sync: Sync
    resources: contextlib.ExitStack
    state: State
    start: Path | None
    health: Health = field(default_factory=Health)
    evaluator: Evaluator | GivenEvaluator | None = None
    suite: SuiteEvaluation | None = None
    loop: StageLoop = field(init=False)
    interrupted: bool = False
    _pools: dict[int, RewardPool] = field(default_factory=dict)

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.state.stage]

    @property
    def path(self) -> Path:
        return self.journal.folder.path

    def train(self) -> bool:
        """Runs the remaining stages; False when the run was interrupted (a checkpoint is on the disk)."""
        while True:
            self.loop = self._enter_stage()
            try:
                if self.state.done == 0:
                    self._evaluate()
                if not self.loop.run(self.state):
                    return False
            except (EngineError, RewardError):
                # raised between updates only, so the weights are those of the last finished step: nothing is lost
                if self.group.world == 1 and self.state.done:
                    self._checkpoint()
                raise
            if self.state.stage + 1 == len(self.recipe.stages):
                self._evaluate()
                self._checkpoint(final=True)
                return True
            self._leave_stage()

    def _enter_stage(self) -> StageLoop:
        """Everything the present stage needs, restored from the checkpoint when the run resumes inside it."""
        stage, recipe = self.stage, self.recipe
        algorithm, config = build.algorithm_of(recipe, stage)
        needs = columns_needed(stage, algorithm, config)
        looks_back = "ref_logprobs" in needs or stage.rollouts.finished > 0
        initial = self._first_weights() if looks_back and self.state.stage else None
        heads, reward = len(algorithm.heads(config)), algorithm.trains_reward
        shared = reward or (stage.critic is not None and stage.critic.shared)
        if reward:
            build.make_reward_model(recipe, stage, self.policy, self.journal.report)
        elif heads and shared:
            add_value_head(self.policy.model, heads, seed=child(recipe.seed, stage.name))
        build.check_speaks(self.policy, reward=reward)
        # a copy of the policy while it is whole: its trainer may shard it
        critic_model = build.build_critic(recipe, stage, self.policy, heads) if heads and not shared else None
        trainer = build.build_trainer(self.policy.model, stage.optimizer, self.group)
        words: tuple[Want, ...] = () if reward and heads else ("logprobs",)
        values: tuple[Want, ...] = ("values",) if heads and shared else ()
        forward = self._forward(trainer, (*words, *values, *(("ref_kl",) if "ref_kl" in needs else ())))
        step = Step(
            algorithm=algorithm,
            config=config,
            trainer=trainer,
            forward=forward,
            group=self.group,
            temperature=stage.rollouts.temperature if algorithm.samples else 1.0,
            max_tokens=stage.train.micro_batch_tokens,
            roles=tuple(algorithm.losses) if shared else ("policy",),
            watch_noise=stage.train.watch_noise,
        )
        critic = self._critic(step, critic_model) if critic_model else None
        target = None
        if "target_values" in needs:
            if self.group.world > 1:
                kind = stage.algorithm["type"]
                raise RecipeError(
                    f"{kind}: its slowly following critic is kept by one process; start it without --launch"
                )
            target = Target((critic or step).forward, rate=config.target_rate)
        source = self._source(algorithm.source, initial) if self.group.first else None
        self._restore(step, critic, target, source)
        return StageLoop(
            stage=stage,
            source=source,
            step=step,
            critic=critic,
            reference=self._reference(step, initial) if "ref_logprobs" in needs else None,
            target=target,
            seed=child(recipe.seed, stage.name),
            sync=lambda state: self._sync(),
            finish=self._finish,
        )

    def _forward(self, trainer: Trainer, want: tuple[Want, ...]) -> Forward:
        dtype = getattr(torch, self.recipe.model.dtype)
        fast = self.stage.train.fast_paths and packs(self.policy.model)
        return Forward(trainer.model, dtype, fast=fast, report=self.journal.report, run=trainer.run, want=want)

    def _reference(self, policy: Step, initial: dict[str, torch.Tensor] | None) -> Reference:
        """The frozen reference; of given data, which comes back each epoch, it keeps what it said in the run folder.

        It is also what the policy's forward measures "ref_kl" from, where that is wanted.
        """
        frozen = build.build_reference(self.recipe, initial).to(policy.forward.device)
        policy.forward.reference = frozen
        file = self.path / "reference.sqlite" if not policy.algorithm.samples else None
        fast, report = self.stage.train.fast_paths, self.journal.report
        forward = Forward(frozen, policy.forward.dtype, fast=fast, report=report)
        return Reference(forward=forward, file=file, report=report)

    def _critic(self, policy: Step, model: nn.Module) -> Step:
        """What trains a critic of its own: another model, another optimizer, the same batches."""
        trainer = build.build_trainer(model, self.stage.optimizer, self.group)
        return replace(
            policy, trainer=trainer, forward=self._forward(trainer, ("values",)), roles=("critic",), watch_noise=False
        )

    def _restore(self, step: Step, critic: Step | None, target: Target | None, source: Source | None) -> None:
        """Fresh health, then whatever the checkpoint holds when the run resumes inside this stage."""
        health, rollouts = self.recipe.health, self.stage.rollouts
        limits = Limits(
            dead_steps=health.dead_steps,
            max_kl=health.max_kl,
            max_unscorable=rollouts.max_unscorable,
            canary_tolerance=rollouts.canary_tolerance,
        )
        self.health = Health(limits)
        if self.start is None:
            return
        step.trainer.load(self.start)
        if critic:
            critic.trainer.load(self.start / CRITIC)
        if target:
            target.load(self.start / TARGET)
        if isinstance(source, checkpoint.Kept):
            source.load(self.start / REPLAY)
        self.health.restore(self.state.health)
        self.start = None

    def _source(self, kind: str, initial: dict[str, torch.Tensor] | None) -> Source:
        stage, number = self.stage, self.state.stage
        given = {"recipe": self.recipe, "report": self.journal.report}
        if kind in ITEMS:
            return build_data.build_given(kind, stage, self.policy, **given)
        if kind == "turns":
            return build_data.build_turns(stage, self.policy, self.recipe)
        labelled = kind == "labelled"
        answered = labelled or stage.rollouts.guided > 0
        examples = build_data.build_examples(stage, self.policy, labelled=answered, **given)
        collector = None if labelled else self._collector(number)
        if collector is not None and stage.rollouts.finished:
            collector = with_guide(collector, self.recipe, stage, self.policy, initial)
        return build_data.build_source(kind, stage, examples, collector, self.recipe.seed)

    def _collector(self, number: int) -> Collector:
        """The collector of a stage; its reward processes start once and live as long as the run."""
        assert self.engine is not None, "collectors live on the first rank, which has the engine"
        stage = self.recipe.stages[number]
        if stage.rewards and number not in self._pools:
            self._pools[number] = build.build_pool(self.recipe, stage)
            self.resources.callback(self._pools[number].close)
        return build.build_collector(self.recipe, stage, self.policy, self.engine, self._pools.get(number))

    def _first_weights(self) -> dict[str, torch.Tensor]:
        """The weights with which the present stage began, kept in a file so that a resumed run finds them."""
        file = self.path / f"stage-{self.state.stage}-first.safetensors"
        if self.state.step == 0 and self.start is None and self.group.first:
            weights = {name: p.detach().contiguous() for name, p in self.policy.model.named_parameters()}
            save_file(weights, file.with_suffix(".unfinished"))
            file.with_suffix(".unfinished").rename(file)
        self.group.barrier()
        return load_file(file)

    def _leave_stage(self) -> None:
        """The next stage goes on with these weights, a fresh optimizer and fresh health."""
        self.policy = self._whole_policy()
        state = self.state
        state.stage, state.step, state.cursor, state.controls = state.stage + 1, 0, 0, {}
        state.constraints, state.noise = {}, {}

    def _whole_policy(self) -> build.Policy:
        """The policy as trained, which ends its trainer. A sharded one is built anew and given the whole weights."""
        trained = self.loop.step.trainer.hand_over()
        if self.loop.critic:
            self.loop.critic.trainer.hand_over()
        algorithm, reward = self.loop.step.algorithm, self.loop.step.algorithm.trains_reward
        if self.group.world == 1:
            if not reward:
                remove_value_head(self.policy.model)
            return self.policy
        policy = build.build_policy(self.recipe, self.group)
        if reward and (heads := len(algorithm.heads(self.loop.step.config))):
            add_value_head(policy.model, heads, seed=0)  # of which every number is replaced
        parameters = dict(policy.model.named_parameters())
        with torch.no_grad():
            for name in trained.keys() & parameters.keys():  # a critic's head on the policy ends with its stage
                parameters[name].copy_(trained[name])
        return policy

    def _sync(self) -> dict[str, Any]:
        return self.sync(self.state.version, self.loop.step.trainer, self.loop.step.forward)

    def _finish(self, state: State, drawn: Drawn, metrics: dict[str, Any]) -> bool:
        """Records a finished step, looks after health, evaluates and checkpoints; False ends the run here."""
        lights = self.health.lights(metrics) if self.group.first else []
        self.journal.step(state.done - 1, self.stage.name, drawn, metrics, lights)
        verdict = self.group.from_first(_stop_sentence(lights))
        if verdict:
            raise HealthError(verdict)
        every = self.recipe.evaluation.every if self.recipe.evaluation else None
        if every and state.done % every == 0 and state.done < sum(stage.train.steps for stage in self.recipe.stages):
            self._evaluate()
        stopping = any(self.group.gather(self.interrupted))
        period = self.recipe.checkpoints.every
        if stopping or (period and state.done % period == 0):
            self._checkpoint(final=stopping)
        return not stopping

    def _evaluate(self) -> None:
        if self.recipe.evaluation is None:
            return
        if judges_given(self.recipe.stages[-1], build.algorithm_of(self.recipe, self.recipe.stages[-1])[0]):
            self._judge()
        else:
            self._answer()

    def _judge(self) -> None:
        """Evaluates by what the model says of held-out completions, in the last stage only."""
        if self.state.stage + 1 < len(self.recipe.stages):
            return
        if not isinstance(self.evaluator, GivenEvaluator):
            self.evaluator = build_data.build_given_evaluator(self.recipe, self.policy)
        rows, summary = self.evaluator.run(self.loop)
        if self.group.first:
            self.journal.evaluation(self.state.done, self.stage.name, rows, summary)

    def _answer(self) -> None:
        """Evaluates by what the policy answers to held-out tasks."""
        assert self.recipe.evaluation is not None
        self._sync()
        if not self.group.first:
            return
        if not isinstance(self.evaluator, Evaluator):
            collector = self._collector(len(self.recipe.stages) - 1)
            self.evaluator = build_data.build_evaluator(self.recipe, self.policy, collector)
            if self.recipe.evaluation.suite is not None and self.engine is not None:
                self.suite = SuiteEvaluation(self.recipe, self.policy, self.engine, self.path)
        rows, summary = self.evaluator.run()
        if self.suite is not None:
            summary |= self.suite.run(self.state.done)
        self.journal.evaluation(self.state.done, self.stage.name, rows, summary)

    def _checkpoint(self, *, final: bool = False) -> None:
        """Writes a checkpoint. A full disk costs the checkpoint, not the run, unless the run ends with it."""
        self.state.health = self.health.state()
        try:
            checkpoint.save(
                self.path / "checkpoints",
                self.state,
                recipe=dump_recipe(self.recipe),
                parts=self._parts(),
                group=self.group,
                keep=self.recipe.checkpoints.keep,
            )
        except CheckpointError as error:
            if final:
                raise
            self.journal.report(f"{error} (training goes on; the checkpoints before it are whole)")

    def _parts(self) -> dict[str, checkpoint.Saved]:
        """What has a state of its own, by its folder within a checkpoint."""
        loop = self.loop
        parts: dict[str, checkpoint.Saved] = {"": loop.step.trainer}
        if loop.critic:
            parts[CRITIC] = loop.critic.trainer
        if loop.target:
            parts[TARGET] = loop.target
        if isinstance(loop.source, checkpoint.Kept):
            parts[REPLAY] = loop.source
        return parts

    def conclude(self) -> dict[str, Any] | None:
        """Saves the final model, compares before with after; the run's summary on the first rank."""
        policy = self._whole_policy()
        if not self.group.first:
            return None
        final = self.path / "final"
        build.save_final(self.recipe, policy, final)
        summary: dict[str, Any] = {"run": str(self.path), "steps": self.state.done, "model": str(final)}
        files = sorted((self.path / "evaluations").glob("*.json"), key=step_of)
        if len(files) >= 2:
            results = [json.loads(file.read_text())["results"] for file in (files[0], files[-1])]
            comparison, _ = compare_results(*results, seed=self.recipe.seed)
            summary["comparison"] = {**asdict(comparison), "sentence": comparison.sentence}
            self.journal.report(comparison.sentence)
        return summary


def _stop_sentence(lights: Sequence[Light]) -> str | None:
    try:
        stop_if_needed(lights)
    except HealthError as error:
        return str(error)
    return None
