"""A run over its stages: builds each stage's loop, evaluates, checkpoints, and concludes."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from alignkit.engines.engine import Engine
from alignkit.engines.hf import HfEngine
from alignkit.engines.steered import SteeredEngine
from alignkit.errors import CheckpointError, EngineError, HealthError, RewardError
from alignkit.evaluate.results.before_after import compare_results
from alignkit.models.critic import add_value_head, remove_value_head
from alignkit.models.held_weights import held_weights
from alignkit.models.save import STEERING
from alignkit.models.shards import write_shards
from alignkit.models.steering import Steering
from alignkit.parallel.cut import set_whole
from alignkit.parallel.group import Group
from alignkit.parallel.trainer import stored_tensors
from alignkit.recipe.read import dump_recipe
from alignkit.recipe.rules import evaluates_offline
from alignkit.recipe.schema import Recipe, Stage
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rollout.collect import Collector
from alignkit.run.train import build, build_data
from alignkit.run.train.build_order import drawn_of_parts, training_tasks
from alignkit.run.train.build_stage import StageBuilder
from alignkit.run.train.epochs import GivenData
from alignkit.run.train.held_out import tell_trained_questions
from alignkit.run.train.journal import Journal
from alignkit.run.train.loader import cutter_of, loader
from alignkit.run.train.saved import save_final
from alignkit.run.train.stop import Stop
from alignkit.run.train.suite import SuiteEvaluation
from alignkit.run_folder.light import Light
from alignkit.run_folder.run_folder import step_of
from alignkit.train import checkpoint
from alignkit.train.evaluate import Evaluator
from alignkit.train.evaluate_offline import OfflineEvaluator
from alignkit.train.health import Health, HealthLimits, stop_if_needed
from alignkit.train.inputs import Input
from alignkit.train.loop import StageLoop
from alignkit.train.source import Drawn
from alignkit.train.state import State
from alignkit.train.sync import Sync
from alignkit.train.untrained import Untrained, on_all
from alignkit.types.batch import Batch
from alignkit.types.task import Task


@dataclass(kw_only=True)
class Run:
    """A run in progress on this rank. engine and evaluator exist on the first rank only.

    recipe: with the number of its steps, where `written` gives epochs in their place. start: the checkpoint to go on
    from, or None. stop: says whether a signal came; honoured after the step in progress.
    given: the sources of given data, as far as they were read to count steps. inputs: what the run computes from, for
    its checkpoints.
    """

    recipe: Recipe
    written: Recipe
    group: Group
    policy: build.Policy
    journal: Journal
    engine: Engine | None
    sync: Sync
    resources: contextlib.ExitStack
    state: State
    start: Path | None
    stop: Stop
    given: GivenData
    inputs: Sequence[Input] = ()
    health: Health = field(default_factory=Health)
    evaluator: Evaluator | OfflineEvaluator | None = None
    suite: SuiteEvaluation | None = None
    loop: StageLoop = field(init=False)
    untrained: Untrained = field(init=False)
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
                self.stop.stepping = True
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
        """The present stage's loop, restored from the checkpoint when the run resumes inside it."""
        builder = StageBuilder(
            recipe=self.recipe,
            group=self.group,
            collector=self._collector,
            folder=self.path,
            given=self.given,
            tasks_read=self._compare_with_benchmarks,
            report=self.journal.report,
            load=loader(self.group),
            cutter=cutter_of(self.group),
        )
        initial = self._first_weights() if self.state.stage and builder.looks_back(self.stage) else None
        loop = builder.build_stage(self.state.stage, self.policy, initial, sync=self.sync, finish=self._finish)
        self.group.barrier()  # the first rank has read the data and started rewards: the others wait for that here
        health, rollouts = self.recipe.health, self.stage.rollouts
        limits = HealthLimits(
            dead_steps=health.dead_steps,
            max_kl=health.max_kl,
            max_unscorable=rollouts.max_unscorable,
            canary_tolerance=rollouts.canary_tolerance,
        )
        self.health = Health(limits)
        if self.start is not None:
            for folder, part in checkpoint.kept_parts(loop).items():
                part.load(self.start / folder)
            self.health.restore(self.state.health)
            self.start = None
        self.untrained = Untrained(self.policy.model)
        self.evaluator = self.suite = None  # of the stage before: another one may steer what they ask
        return loop

    def _steering(self) -> Steering | None:
        """What the present stage's critics add where its policy speaks; None: nothing."""
        step, target = self.loop.step, self.loop.target
        beta = step.algorithm.steers(step.config)
        return Steering(target.forward.model, beta=beta) if beta and target else None

    def _speaker(self) -> Engine:
        """What the evaluation asks: the engine, which the critics steer where there are such."""
        assert self.engine is not None, "evaluations are the first rank's, which has the engine"
        steering = self._steering()
        if steering is None:
            return self.engine
        assert isinstance(self.engine, HfEngine), "recipes of other engines are refused (recipe/rules.py)"
        return SteeredEngine(self.engine, steering)

    def _compare_with_benchmarks(self, tasks: Sequence[Task]) -> None:
        """Once, as the stage begins."""
        if self.state.step == 0:
            tell_trained_questions(self.stage, tasks, self.journal, beside=build.beside(self.recipe))

    def _collector(
        self, number: int, tasks: Sequence[Task] | None = None, *, engine: Engine | None = None
    ) -> Collector:
        """The collector of a stage; its reward processes start once and live as long as the run. tasks: what the stage
        trains on, where it is loaded already. engine: what it asks, None: the run's."""
        engine = engine or self.engine
        assert engine is not None, "collectors live on the first rank, which has the engine"
        stage = self.recipe.stages[number]
        if stage.rewards and number not in self._pools:
            tasks = training_tasks(stage, self.recipe) if tasks is None else tasks
            self._pools[number] = build.build_pool(self.recipe, number, tasks)
            self.resources.callback(self._pools[number].close)
        return build.build_collector(self.recipe, stage, self.policy, engine, self._pools.get(number))

    def _first_weights(self) -> build.First:
        """The weights with which the present stage began, kept in files so that a resumed run finds them."""
        name = f"stage-{self.state.stage}-first"
        if self.state.step == 0 and self.start is None:
            weights = held_weights(self.policy.model)
            if self.group.first:
                write_shards(weights, self.path, name=name)
            deque(weights, maxlen=0)
        self.group.barrier()
        stored = stored_tensors(self.path, name)
        if not stored:
            file = self.path / f"{name}.safetensors"
            raise CheckpointError(f"{file} is missing: the reference of this stage is in it; put it back from a copy")
        return stored

    def _leave_stage(self) -> None:
        """The next stage goes on with these weights, a fresh optimizer and fresh health."""
        self.policy = self._whole_policy()
        self.state = self.state.next_stage()

    def _whole_policy(self) -> build.Policy:
        """The policy as trained, which ends its trainer. A sharded one is built anew and given one weight at a time."""
        trained = self.loop.step.trainer.hand_over()
        if self.loop.critic:
            deque(self.loop.critic.trainer.hand_over(), maxlen=0)
        algorithm, reward = self.loop.step.algorithm, self.loop.step.algorithm.trains_reward
        if self.group.world == 1:
            if not reward:
                remove_value_head(self.policy.model)
            return self.policy
        policy = build.build_policy(self.recipe, self.group)
        if reward and (heads := len(algorithm.heads(self.loop.step.config))):
            add_value_head(policy.model, heads, seed=0)  # of which every number is replaced
        parameters = dict(policy.model.named_parameters())
        for name, weight in trained:
            if name in parameters:  # a critic's head on the policy ends with its stage
                set_whole(parameters[name], weight)
        return policy

    def _finish(self, state: State, drawn: Drawn, trained: Batch | None, metrics: dict[str, Any]) -> bool:
        """Records a finished step, looks after health, evaluates and checkpoints; False ends the run here."""
        self.state = state
        metrics = {**metrics, **drawn_of_parts(self.stage.data, drawn.consumed)}
        untrained = on_all(self.group.gather(self.untrained.names))
        lights = self.health.lights(metrics, untrained=untrained) if self.group.first else []
        self.journal.step(state.done - 1, self.stage.name, drawn, trained, metrics, lights)
        verdict = self.group.from_first(_stop_sentence(lights))
        if verdict:
            raise HealthError(verdict)
        every = self.recipe.evaluation.every if self.recipe.evaluation else None
        if (
            every
            and state.done % every == 0
            and state.done < sum(stage.train.steps or 0 for stage in self.recipe.stages)
        ):
            self._evaluate()
        stopping = any(self.group.gather(self.stop.asked))
        period = self.recipe.checkpoints.every
        if stopping or (period and state.done % period == 0):
            self._checkpoint(final=stopping)
        return not stopping

    def _evaluate(self) -> None:
        if self.recipe.evaluation is None:
            return
        if evaluates_offline(self.recipe.stages[-1], build.algorithm_of(self.recipe, self.recipe.stages[-1])[0]):
            self._judge()
        else:
            self._answer()

    def _judge(self) -> None:
        """Evaluates by what the model says of held-out completions, in the last stage only."""
        if self.state.stage + 1 < len(self.recipe.stages):
            return
        if not isinstance(self.evaluator, OfflineEvaluator):
            self.evaluator = build_data.build_offline_evaluator(self.recipe, self.policy)
        rows, summary = self.evaluator.run(self.loop)
        if self.group.first:
            self.journal.evaluation(self.state.done, self.stage.name, rows, summary)

    def _answer(self) -> None:
        """Evaluates by what the policy answers to held-out tasks."""
        assert self.recipe.evaluation is not None
        self.loop.sync_engine(self.state)
        if self.group.first:
            self._examine()
        self.sync.rest()

    def _examine(self) -> None:
        """What the engine answers, judged and written down."""
        assert self.recipe.evaluation is not None
        if not isinstance(self.evaluator, Evaluator):
            speaker = self._speaker()
            collector = self._collector(len(self.recipe.stages) - 1, engine=speaker)
            self.evaluator = build_data.build_evaluator(self.recipe, self.policy, collector)
            if self.recipe.evaluation.suite is not None:
                self.suite = SuiteEvaluation(self.recipe, self.policy, speaker, self.path)
        rows, summary = self.evaluator.run()
        if self.suite is not None:
            summary |= self.suite.run(self.state.done)
        self.journal.evaluation(self.state.done, self.stage.name, rows, summary)

    def _checkpoint(self, *, final: bool = False) -> None:
        """Writes a checkpoint. A full disk costs the checkpoint, not the run, unless the run ends with it."""
        try:
            checkpoint.save(
                self.path / "checkpoints",
                replace(self.state, health=self.health.state()),
                recipe=dump_recipe(self.written),
                parts=checkpoint.kept_parts(self.loop),
                group=self.group,
                keep=self.recipe.checkpoints.keep,
                inputs=self.inputs,
            )
        except CheckpointError as error:
            if final:
                raise
            self.journal.report(f"{error} (training goes on; the checkpoints before it are whole)")

    def conclude(self) -> dict[str, Any] | None:
        """Saves the final model, compares before with after; the run's summary on the first rank."""
        step, final, steering = self.loop.step, self.path / "final", self._steering()
        if self.loop.critic:
            self.loop.critic.trainer.finish()
        if not step.algorithm.trains_reward:
            remove_value_head(self.policy.model)
        gaps = save_final(self.recipe, self.policy, step.trainer, final, self.sync.probe, self.group, steering=steering)
        if not self.group.first:
            return None
        self.journal.folder.event("saved", step=self.state.done, **gaps)
        summary: dict[str, Any] = {"run": str(self.path), "steps": self.state.done, "model": str(final)}
        files = sorted((self.path / "evaluations").glob("*.json"), key=step_of)
        if len(files) >= 2:
            results = [json.loads(file.read_text())["results"] for file in (files[0], files[-1])]
            comparison, _ = compare_results(*results, seed=self.recipe.seed)
            summary["comparison"] = {**asdict(comparison), "sentence": comparison.sentence}
            self.journal.report(comparison.sentence)
        exports = None if step.algorithm.trains_reward else "merged" if self.recipe.model.scratch else "gguf"
        if steering is not None:
            self.journal.report(
                f"the critics that steer it are in {final / STEERING}: sample, chat and eval speak with them on the hf "
                "engine, an export is the policy alone"
            )
        self.journal.report(last_line(self.path, exports))
        return summary


def last_line(run: Path, exports: str | None) -> str:
    """Where the model is and what to do next. exports: what it is best exported to, None where it says no words."""
    where = shlex.quote(str(run))
    out = f", `alignkit export {where} --to {exports}`" if exports else ""
    return f"the trained model is {run / 'final'}; next: `alignkit report {where}`{out}"


def _stop_sentence(lights: Sequence[Light]) -> str | None:
    try:
        stop_if_needed(lights)
    except HealthError as error:
        return str(error)
    return None
