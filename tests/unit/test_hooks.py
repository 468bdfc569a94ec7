"""Hooks: which a recipe asks for, what they need, and that the loop calls each at its place and keeps its memory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import pytest

from alignkit.recipe.schema import Optimizer, Stage, Train
from alignkit.train.checkpoint import read_state
from alignkit.train.hooks.build import hooks_of
from alignkit.train.hooks.hook import Hook
from alignkit.train.hooks.kl_limit import KlLimit
from alignkit.train.state import Learned, State
from alignkit.types.metric import Mean
from alignkit.types.needs import REFERENCE_KL, Needs
from tests.unit.test_loop import Run


def stage(train: dict[str, Any] | None = None, **sections: Any) -> Stage:
    return Stage.model_validate(
        {"data": {"source": "generator:arithmetic"}, "algorithm": {}, "optimizer": Optimizer(lr=1e-3)}
        | {"train": Train(steps=1, **(train or {}))}
        | sections
    )


def test_a_plain_stage_has_no_hooks_and_each_setting_brings_one():
    assert list(hooks_of(stage(), Needs())) == []
    everything = {"drop_confident": 0.1, "max_update_kl": 0.1, "fixup": {"kl": 0.1}, "watch_noise": True}
    hooks = list(hooks_of(stage(everything, constraints=[{"of": "kl", "limit": 1.0}]), Needs()))
    assert [hook.name for hook in hooks] == ["constraints", "confidence", "kl_limit", "fixup", "noise"]


def test_what_they_need_is_filled_in_for_them():
    limited = stage({"fixup": {"kl": 0.1}}, constraints=[{"of": "kl", "limit": 1.0}])
    kl, fixup = hooks_of(limited, Needs())
    assert kl.needs == REFERENCE_KL
    assert fixup.needs == Needs(columns=("old_logprobs",))
    [length] = hooks_of(stage(constraints=[{"of": "length", "limit": 1.0}]), Needs())
    assert length.needs == Needs()


@pytest.mark.parametrize(("columns", "mix"), [((), True), (("costs",), False)])
def test_costs_are_mixed_into_the_reward_unless_the_algorithm_weighs_them(columns, mix):
    [hook] = hooks_of(stage(constraints=[{"of": "length", "limit": 1.0}]), Needs(columns=columns))
    assert hook.mix is mix


def test_the_kl_limit_is_enough_above_it_and_not_at_it():
    limit = KlLimit(limit=0.5)
    assert not limit.is_enough({"policy/kl_update": Mean(5.0, 10)})
    assert limit.is_enough({"policy/kl_update": Mean(5.1, 10)})
    assert not limit.is_enough({"policy/kl_update": Mean(0.0, 0)})


@dataclass(frozen=True, kw_only=True)
class Told(Hook):
    """Writes down where it is called, and counts steps in its memory."""

    name: ClassVar[str] = "told"
    calls: list[str] = field(default_factory=list)
    enough_after: int = 99

    def begin(self):
        return {"steps": 0}

    def before_estimate(self, batch, memory, step):
        assert batch.advantages is None
        self.calls.append(f"before {step}")
        return batch, memory, {"told/before": memory["steps"]}

    def after_estimate(self, batch):
        assert batch.advantages is not None
        self.calls.append("after")
        return batch

    def is_enough(self, metrics):
        self.calls.append("update")
        return self.calls.count("update") >= self.enough_after

    def after_updates(self, step, batch, lr):
        self.calls.append(f"updated at {lr}")
        return {"told/more": 1}, 10

    def at_end(self, metrics, memory):
        assert metrics["told/more"] == 1
        self.calls.append("end")
        return {"steps": memory["steps"] + 1}, {"told/end": 1}


def test_the_loop_calls_a_hook_at_five_places_and_keeps_its_memory_in_the_state():
    run, hook = Run(train={"steps": 2, "minibatches": 2}), Told()
    run.loop.hooks = [hook]
    run.loop.run(State())
    assert hook.calls[:6] == ["before 0", "after", "update", "update", "updated at 1.0", "end"]
    assert [metrics["told/before"] for _, _, metrics in run.finished] == [0, 1]
    assert run.state.hooks == {"told": {"steps": 2}}
    assert run.state.version == 2 * (2 + 10)  # its own steps are updates, too


def test_a_hook_that_has_enough_ends_the_step_s_minibatches():
    run, hook = Run(train={"steps": 1, "minibatches": 4}), Told(enough_after=2)
    run.loop.hooks = [hook]
    run.loop.run(State())
    assert len(run.trainer.rates) == 2
    assert run.state.version == 2 + 10


def test_a_state_is_advanced_as_a_new_value_and_the_next_stage_begins_anew():
    before = State(step=3, done=7, version=9, cursor=5, controls={"a": 1.0}, health={"dead": 1})
    after = before.after(Learned(controls={"a": 2.0}, hooks={"h": {"x": 1}}, updates=4), cursor=8)
    assert after == State(
        step=4, done=8, version=13, cursor=8, controls={"a": 2.0}, hooks={"h": {"x": 1}}, health={"dead": 1}
    )
    assert after.next_stage() == State(stage=1, done=8, version=13, health={"dead": 1})
    with pytest.raises(AttributeError):
        before.step = 4  # ty: ignore[invalid-assignment]


def test_a_state_written_when_two_hooks_stood_beside_the_rest_is_read(tmp_path):
    state = State(step=1, hooks={"constraints": {"harm": {"multiplier": 2.0, "costs": [1.0]}}, "noise": {}})
    (tmp_path / "state.json").write_text(json.dumps(asdict(state)))
    assert read_state(tmp_path) == state
    older = {name: value for name, value in asdict(state).items() if name != "hooks"} | dict(state.hooks)
    (tmp_path / "state.json").write_text(json.dumps(older))
    assert read_state(tmp_path) == state
