"""The blend's arithmetic by hand, and what a failed part does to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_rollouts import question

from alignkit.errors import RewardError
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.base import FunctionReward, as_score, reward, unscorable
from alignkit.rewards.pool.blend import Blend, check_blend, part_names
from alignkit.rewards.pool.shape import Part
from alignkit.run_folder.names import check_names
from alignkit.types.score import Fault, FaultKind, Score, StepScore

values = st.floats(-100, 100)


def of(value):
    return Score(value=value)


def blend(scores, specs):
    return Blend(specs).score({name: Part(score, score.value) for name, score in scores.items()})


def test_a_blend_is_the_weighted_sum_times_the_gates():
    specs = [RewardSpec(name="right"), RewardSpec(name="short", weight=-0.5), RewardSpec(name="format", gate=True)]
    score = blend({"right": of(1.0), "short": of(0.5), "format": of(0.5)}, specs)
    assert score.value == (1.0 - 0.25) * 0.5
    assert score.parts == {"right": 1.0, "short": 0.5, "format": 0.5}
    assert score.fault is None


def test_a_closed_gate_gives_exactly_zero():
    specs = [RewardSpec(name="right"), RewardSpec(name="format", gate=True)]
    assert blend({"right": of(1.0), "format": of(0.0)}, specs).value == 0.0


@pytest.mark.parametrize("broken", ["right", "format"])
def test_a_needed_part_without_a_value_leaves_none_with_its_fault_and_never_zero(broken):
    specs = [RewardSpec(name="right"), RewardSpec(name="format", gate=True)]
    parts = {"right": of(1.0), "format": of(0.0)} | {broken: unscorable(FaultKind.TIMEOUT, broken, "killed")}
    score = blend(parts, specs)
    assert score.value is None
    assert score.fault == Fault(kind=FaultKind.TIMEOUT, where=broken, message="killed")
    assert score.parts[broken] is None


def test_a_part_of_weight_zero_is_only_watched():
    specs = [RewardSpec(name="right"), RewardSpec(name="judge", weight=0.0)]
    score = blend({"right": of(1.0), "judge": unscorable(FaultKind.UNREACHABLE, "judge")}, specs)
    assert score.value == 1.0
    assert score.fault is not None
    assert score.fault.kind is FaultKind.UNREACHABLE


def test_a_sum_that_overflows_is_no_number():
    specs = [RewardSpec(name="a", weight=1e308), RewardSpec(name="b", weight=1e308)]
    score = blend({"a": of(1.0), "b": of(1.0)}, specs)
    assert score.value is None
    assert score.fault is not None
    assert score.fault.kind is FaultKind.NOT_A_NUMBER


def test_parts_of_parts_and_steps_come_through():
    inner = Score(
        value=1.0,
        parts={"judge": 1.0, "clarity": 0.25},
        steps=(StepScore(3, 0.5), StepScore(9, 1.0)),
        spread=(0.0, 1.0, 2.0),
    )
    score = blend({"judge": inner}, [RewardSpec(name="judge")])
    assert score.parts == {"judge": 1.0, "judge.clarity": 0.25}
    assert score.steps == (StepScore(3, 0.5), StepScore(9, 1.0))
    assert score.spread == (0.0, 1.0, 2.0)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=5), values)
def test_the_blend_is_linear_in_its_parts(pairs, factor):
    specs = [RewardSpec(name=f"r{i}", weight=weight) for i, (weight, _) in enumerate(pairs)]
    once = blend({f"r{i}": of(value) for i, (_, value) in enumerate(pairs)}, specs).value
    scaled = blend({f"r{i}": of(value * factor) for i, (_, value) in enumerate(pairs)}, specs).value
    assert scaled == pytest.approx(once * factor, rel=1e-9, abs=1e-6)


def test_part_names_are_short_and_unique():
    names = ["final_number", "./my.py:good", "trl:accuracy_reward", "verifiable/final_number", "./alone.py", "a.b:good"]
    assert part_names([RewardSpec(name=name) for name in names]) == [
        "final_number",
        "good",
        "accuracy_reward",
        "final_number#2",
        "alone",
        "good#2",
    ]


def test_a_list_of_rewards_that_can_only_be_constant_is_refused():
    for specs in ([], [RewardSpec(name="a", gate=True)], [RewardSpec(name="a", weight=0.0)]):
        with pytest.raises(RewardError):
            check_blend(specs)
    check_blend([RewardSpec(name="a", gate=True), RewardSpec(name="b", weight=-1.0)])


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (None, FaultKind.REFUSED),
        (float("nan"), FaultKind.NOT_A_NUMBER),
        (float("-inf"), FaultKind.NOT_A_NUMBER),
        (Score(value=float("inf")), FaultKind.NOT_A_NUMBER),
        ("1.0", FaultKind.CONTRACT),
        ([1.0], FaultKind.CONTRACT),
        (1j, FaultKind.CONTRACT),
    ],
)
def test_what_is_not_a_finite_number_is_a_named_fault(result, kind):
    score = as_score(result, where="r")
    assert score.value is None
    assert score.fault is not None
    assert score.fault.kind is kind


def test_numbers_truths_and_scores_are_taken_as_they_are():
    assert as_score(True, where="r").value == 1.0
    assert as_score(3, where="r") == Score(value=3.0, parts={"r": 3.0})
    own = Score(value=0.5, parts={"a": 0.1})
    assert as_score(own, where="r") is own


def test_a_decorated_function_is_still_a_function():
    @reward
    def double(completion, task, *, factor=2):
        return len(completion) * factor

    assert isinstance(double, FunctionReward)
    assert double.name == "double"
    assert double("abc", question()) == 6
    assert double("abc", question(), factor=3) == 9


def test_inner_parts_have_names_that_a_run_may_log():
    inner = Score(value=1.0, parts={"judge": 1.0, "clarity": 0.25})
    parts = blend({"judge": inner}, [RewardSpec(name="judge")]).parts
    check_names([f"reward/part/{name}" for name in parts])
