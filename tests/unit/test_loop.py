"""One stage of training with a scripted source: what is filled in, updated, counted and handed on, in which order."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch

from alignkit.algorithms.rollouts import raft
from alignkit.algorithms.rollouts.grpo import ALGORITHM, Config, PolicyLoss
from alignkit.errors import BatchError
from alignkit.models.forward import Forward
from alignkit.parallel.group import Group
from alignkit.recipe.schema import Critic as CriticSettings
from alignkit.recipe.schema import Optimizer, Rollouts, Stage, Train
from alignkit.train.hooks.build import hooks_of
from alignkit.train.loop import StageLoop
from alignkit.train.reference import Reference
from alignkit.train.source import Drawn
from alignkit.train.state import State
from alignkit.train.step import Step
from alignkit.types.batch import Batch
from tests.tiny import Recorder, causal_lm, noise, on_ranks, random_batch


class Scripted:
    """A Source of random batches near the model's own log-probs; steps in `empty` have none."""

    def __init__(self, model: torch.nn.Module, *, empty: tuple[int, ...] = ()):
        self.model, self.empty, self.asked = model, empty, []

    def next(self, cursor: int, version: int) -> Drawn:
        self.asked.append((cursor, version))
        if len(self.asked) - 1 in self.empty:
            return Drawn(batch=None, cursor=cursor + 3, consumed=[])
        batch = random_batch(seed=cursor)
        with torch.no_grad():
            logprobs = Forward(model=self.model, dtype=torch.float32)(batch, temperature=0.9).logprobs
        batch = batch.replace(sampler_logprobs=logprobs + noise(batch, 0.1, seed=cursor))
        return Drawn(batch=batch, cursor=cursor + 3, consumed=["t"] * 3, metrics={"rollout/tokens": 7})


class Rates(Recorder):
    """Records the learning rate of each optimizer step."""

    def __init__(self, model: torch.nn.Module):
        super().__init__(model)
        self.rates: list[float] = []

    def step(self, lr: float) -> float:
        self.rates.append(lr)
        return super().step(lr)


class Run:
    """A StageLoop and what its callbacks were told."""

    def __init__(self, *, train: dict[str, Any], optimizer: dict[str, Any] | None = None, stop_after: int = 99, **loss):
        self.model = causal_lm()
        self.finished: list[tuple[State, Batch | None, dict[str, Any]]] = []
        self.synced: list[int] = []
        self.trainer, self.source = Rates(self.model), Scripted(self.model)
        self.forward = Forward(model=self.model, dtype=torch.float32)
        self.stop_after = stop_after
        step = Step(
            algorithm=ALGORITHM,
            config=Config(type="grpo", loss=PolicyLoss(**loss)),
            trainer=self.trainer,
            forward=self.forward,
            group=Group(),
            temperature=0.9,
            max_tokens=40,
        )
        stage = Stage.model_validate(
            {"data": {"source": "generator:arithmetic"}, "algorithm": {}, "rollouts": Rollouts()}
            | {"optimizer": Optimizer(**({"lr": 1.0} | (optimizer or {}))), "train": Train(**train)}
        )
        self.loop = StageLoop(
            stage=stage,
            source=self.source,
            step=step,
            reference=Reference(forward=Forward(model=causal_lm(seed=1), dtype=torch.float32)),
            seed=3,
            sync=self,
            finish=self.finish,
            hooks=list(hooks_of(stage, ALGORITHM.needs(step.config))),
            needs=ALGORITHM.needs(step.config),
        )

    @property
    def state(self) -> State:
        """After the last finished step."""
        return self.finished[-1][0]

    def __call__(self, version: int, trainer: Any, forward: Any) -> dict[str, Any]:
        assert (trainer, forward) == (self.trainer, self.forward)
        self.synced.append(version)
        return {"sync/policy_version": version}

    def rest(self) -> None:
        """The engine of these tests shares nothing."""

    def finish(self, state: State, drawn: Drawn, trained: Batch | None, metrics: dict[str, Any]) -> bool:
        self.finished.append((state, trained, metrics))
        return len(self.finished) < self.stop_after


def test_steps_versions_and_cursors_are_counted_and_the_engine_is_in_step_before_each_draw():
    run = Run(train={"steps": 3, "epochs": 2, "minibatches": 2})
    assert run.loop.run(State())
    state = run.state
    assert run.synced == [0, 4, 8]
    assert run.source.asked == [(0, 0), (3, 4), (6, 8)]
    assert (state.step, state.done, state.version, state.cursor) == (3, 3, 12, 9)
    assert [(told.step, told.version) for told, _, _ in run.finished] == [(1, 4), (2, 8), (3, 12)]


def test_other_ranks_get_the_arrays_and_none_of_the_texts():
    run = Run(train={"steps": 1})
    batch, text = random_batch(seed=0), ["what was said"]
    told = Drawn(batch=batch, cursor=7, consumed=["task"], rollouts=text, trained=text, metrics={"reward/mean": 1.0})

    def draw(group: Group, model: torch.nn.Module) -> Drawn:
        source = type("Source", (), {"next": lambda self, cursor, version: told})() if group.first else None
        return replace(run.loop, source=source, step=replace(run.loop.step, group=group)).draw(State())

    first, other = on_ranks(2, draw, run.model)
    assert first is told
    assert (other.consumed, other.rollouts, other.trained, other.metrics, other.cursor) == ([], [], [], {}, 7)
    assert torch.equal(other.batch.tokens, batch.tokens)


def test_a_run_goes_on_at_the_step_of_its_state_and_stops_when_told():
    run = Run(train={"steps": 9}, stop_after=2)
    assert not run.loop.run(State(step=4, done=10, version=4, cursor=12))
    assert run.source.asked == [(12, 4), (15, 5)]
    assert (run.state.step, run.state.done) == (6, 12)


def test_metrics_of_source_sync_update_and_phases_reach_the_end_of_the_step():
    run = Run(train={"steps": 1})
    run.loop.run(State())
    _, batch, metrics = run.finished[0]
    assert batch is not None
    assert metrics["rollout/tokens"] == 7
    assert metrics["sync/policy_version"] == 0
    assert metrics["loss/tokens"] == batch.num_actions
    assert metrics["optim/grad_norm"] == pytest.approx(float(run.trainer.gradient.norm()))
    assert metrics["loss/policy"] == pytest.approx(run.trainer.loss, rel=1e-6)
    phases = {name for name in metrics if name.startswith("time/")}
    assert phases == {"time/step_s", "time/sync_s", "time/logprobs_s", "time/update_s"}


def test_a_step_without_a_batch_updates_nothing_but_counts():
    run = Run(train={"steps": 2})
    run.source.empty = (0,)
    run.loop.run(State())
    assert len(run.trainer.rates) == 1
    assert (run.state.step, run.state.version, run.state.cursor) == (2, 1, 6)
    assert "optim/lr" not in run.finished[0][2]


def test_each_update_has_the_learning_rate_of_its_place_in_the_stage():
    """Two updates a step, four steps, warm-up 2, linear to 0 over the other six: 1/2 1 1 5/6 4/6 3/6 2/6 1/6."""
    run = Run(train={"steps": 4, "minibatches": 2}, optimizer={"schedule": "linear", "warmup_steps": 2})
    run.loop.run(State())
    assert run.trainer.rates == pytest.approx([1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    resumed = Run(train={"steps": 4, "minibatches": 2}, optimizer={"schedule": "linear", "warmup_steps": 2})
    resumed.loop.run(State(step=2))
    assert resumed.trainer.rates == pytest.approx([4 / 6, 3 / 6, 2 / 6, 1 / 6])


class Critic:
    """Stands for the Step of a critic: records what it is updated on."""

    def __init__(self) -> None:
        self.updates: list[tuple[list[int], float]] = []

    def update(self, batch: Batch, sequences: list[int], lr: float) -> tuple[dict[str, Any], float]:
        self.updates.append((sequences, lr))
        return {}, 1.0


def test_a_critic_of_its_own_passes_over_the_batch_as_often_as_it_is_told():
    """Three passes in halves beside the policy's one update, also while the policy still waits."""
    run = Run(train={"steps": 2, "critic_warmup_steps": 1}, optimizer={"lr": 2.0})
    critic: Any = Critic()
    run.loop.critic = critic
    run.loop.stage = run.loop.stage.model_copy(update={"critic": CriticSettings(lr=0.5, epochs=3, minibatches=2)})
    run.loop.run(State())
    assert len(run.trainer.rates) == 1
    assert [lr for _, lr in critic.updates] == [0.5] * 12
    batch = run.finished[0][1]
    assert batch is not None
    halves = [sequences for sequences, _ in critic.updates[:6]]
    assert all(sorted(halves[i] + halves[i + 1]) == list(range(batch.num_sequences)) for i in (0, 2, 4))
    assert len({tuple(half) for half in halves}) > 2  # each pass in an order of its own


def test_a_critic_passes_over_the_batch_with_the_policy_unless_it_is_told_otherwise():
    run = Run(train={"steps": 1, "epochs": 2, "minibatches": 2})
    critic: Any = Critic()
    run.loop.critic = critic
    run.loop.run(State())
    assert len(critic.updates) == len(run.trainer.rates) == 4


def annotated(**options: Any) -> tuple[Run, Batch]:
    run = Run(**options)
    run.loop.run(State())
    batch = run.finished[0][1]
    assert batch is not None
    return run, batch


def test_old_log_probs_are_computed_only_when_a_batch_is_used_more_than_once_or_they_are_needed():
    assert annotated(train={"steps": 1})[1].old_logprobs is None
    for options in ({"train": {"steps": 1, "epochs": 2}}, {"train": {"steps": 1, "minibatches": 2}}):
        run, batch = annotated(**options)
        wanted = run.forward(batch, temperature=0.9).logprobs.detach()
        torch.testing.assert_close(batch.require("old_logprobs"), wanted, rtol=1e-5, atol=1e-5)


def test_the_reference_fills_its_own_column_at_the_same_temperature():
    run, batch = annotated(train={"steps": 1}, kl="loss", kl_weight=0.1)
    assert run.loop.reference is not None
    wanted = run.loop.reference.forward(batch, temperature=0.9).logprobs.detach()
    torch.testing.assert_close(batch.require("ref_logprobs"), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(batch.require("ref_logprobs"), batch.require("old_logprobs"), atol=0.1)


def test_with_one_update_a_batch_the_detached_log_probs_of_its_own_forward_are_the_old_ones():
    """The gradient of the short cut is that of old log-probs computed beforehand."""
    short, batch = annotated(train={"steps": 1})
    long = Run(train={"steps": 1})
    filled = batch.replace(old_logprobs=long.loop.step.read(batch, long.forward, "logprobs"))
    long.loop.update(filled, step=0)
    gap = (short.trainer.gradient - long.trainer.gradient).norm() / long.trainer.gradient.norm()
    assert gap < 1e-5


def test_every_epoch_has_an_order_of_its_own_that_depends_on_seed_step_and_epoch_alone():
    run = Run(train={"steps": 2, "epochs": 2, "minibatches": 3})
    batch = random_batch()
    first = list(run.loop.minibatches(batch, step=5))
    assert first == list(Run(train={"steps": 2, "epochs": 2, "minibatches": 3}).loop.minibatches(batch, step=5))
    assert [sorted(chain.from_iterable(epoch)) for epoch in (first[:3], first[3:])] == [list(range(10))] * 2
    assert first[:3] != first[3:]
    assert first != list(run.loop.minibatches(batch, step=6))


def test_a_source_that_hands_over_numbers_that_are_none_is_stopped_before_the_update():
    run = Run(train={"steps": 1})
    good = run.source.next

    def broken(cursor: int, version: int) -> Drawn:
        drawn = good(cursor, version)
        assert drawn.batch is not None
        column = torch.where(drawn.batch.action_mask, float("nan"), 0.0)
        return replace(drawn, batch=drawn.batch.replace(sampler_logprobs=column))

    run.source.next = broken
    with pytest.raises(BatchError, match="sampler_logprobs holds NaN or inf"):
        run.loop.run(State())
    assert run.trainer.rates == []


def test_where_an_algorithm_keeps_nothing_no_weight_moves_and_the_step_says_so():
    """The run goes on: the cursor moves, the version stays, and what was not trained on is counted."""
    run = Run(train={"steps": 2})
    run.loop.step.algorithm, run.loop.step.config = raft.ALGORITHM, raft.Config(type="raft", min_reward=9.0)
    assert run.loop.run(State())
    assert (run.state.step, run.state.version, run.state.cursor) == (2, 0, 6)
    assert run.trainer.rates == []
    assert all(batch is None for _, batch, _ in run.finished)
    assert all(metrics["loss/tokens"] == metrics["loss/sequences"] == 0 for _, _, metrics in run.finished)


def test_the_surest_completions_leave_after_the_estimate_and_are_counted():
    run = Run(train={"steps": 1, "drop_confident": 0.3})
    run.loop.run(State())
    _, batch, metrics = run.finished[0]
    assert batch is not None
    assert batch.num_sequences == metrics["loss/sequences"] == 7  # of 10
    assert metrics["loss/tokens"] == batch.num_actions
