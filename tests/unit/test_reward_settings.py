"""Settings of a reward: which rows, read how, normalised, clipped, and paid where. Numbers by hand."""

import asyncio
import importlib
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.algorithms.rollouts.ppo import Config, estimate
from alignkit.errors import RecipeError
from alignkit.recipe.explain import explain_recipe
from alignkit.recipe.lookup.find import find
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.blend import Blend, is_for
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.steps import split_steps
from alignkit.rollout.items import items
from alignkit.rollout.placement import pay_too, place
from alignkit.types.batch import pack
from alignkit.types.rollout import EpisodeEnd, Rollout, StopReason, Turn
from alignkit.types.score import Fault, FaultKind, Score, StepScore
from tests.unit.reward_rollouts import question, rollouts

PIECES = {1: b"ab", 2: b"\n", 3: b"c\nd", 4: b"\xf0\x9f", 5: b"\x98\x80", 6: b"e", 9: b""}  # 9 is the stop token


def decode(ids) -> str:
    return b"".join(PIECES[i] for i in ids).decode(errors="replace")


def spoken(*turns, score=None, stop=StopReason.END_OF_TEXT) -> Rollout:
    """A rollout of these tokens, a tuple per turn."""
    said, before = [], (7,)
    for ids in turns:
        said.append(
            Turn(prompt_ids=before, completion_ids=ids, sampler_logprobs=(0.0,) * len(ids), stop=stop, text=decode(ids))
        )
        before = (*before, *ids, 8)
    return Rollout(task=question(), group=0, member=0, turns=tuple(said), policy_version=0, score=score)


def spec(**settings) -> RewardSpec:
    return RewardSpec(name="r", **settings)


def values(specs, *groups):
    """groups: (task, Scores of the only spec)."""
    asked = [(task, rollouts(task, *(["x y"] * len(scores)))) for task, scores in groups]
    return [[one.value for one in group] for group in Blend(specs).scores(asked, [[scores] for _, scores in groups])]


def blended(one: RewardSpec, *scores: Score, text="a b c"):
    task = question()
    return Blend([one]).scores([(task, rollouts(task, *([text] * len(scores))))], [[list(scores)]])[0]


@pytest.mark.parametrize(
    ("risk", "value"),
    [
        ({"measure": "mean"}, 2.5),
        ({"measure": "cvar", "level": 0.5}, 0.5),
        ({"measure": "cvar", "level": 0.25}, 0.0),
        ({"measure": "low_quantile", "level": 0.4}, 1.0),
        ({"measure": "mean_minus_std", "weight": 2.0}, 2.5 - 2 * 2.5**0.5 * 1.5**0.5),
    ],
)
def test_a_distribution_is_read_by_its_risk(risk, value):
    [score] = blended(spec(risk=risk), Score(value=9.0, spread=(0.0, 1.0, 3.0, 6.0)))
    if risk["measure"] == "mean_minus_std":
        value = 2.5 - 2 * ((2.5**2 + 1.5**2 + 0.5**2 + 3.5**2) / 4) ** 0.5
    assert score.value == pytest.approx(value)
    assert score.parts["r.value"] == 9.0
    assert score.parts["r"] == score.value


def test_members_are_centred_in_their_group_and_their_disagreement_is_told():
    first, second = Score(value=0.0, members=(1.0, 10.0)), Score(value=0.0, members=(3.0, 8.0))
    found = blended(spec(ensemble={"reducer": "worst"}), first, second)
    # centred (-1, 1) and (1, -1): the worst is -1 for both; the level of all is 5.5
    assert [score.value for score in found] == [4.5, 4.5]
    assert [score.parts["r.disagreement"] for score in found] == [1.0, 1.0]
    assert [score.value for score in blended(spec(ensemble={"reducer": "mean"}), first, second)] == [5.5, 5.5]
    uncertain = blended(spec(ensemble={"reducer": "mean_minus_variance", "weight": 0.5}), first, second)
    assert [score.value for score in uncertain] == [5.0, 5.0]


@pytest.mark.parametrize(
    ("settings", "score", "said"),
    [
        ({"risk": {}}, Score(value=1.0), "says no distribution"),
        ({"ensemble": {}}, Score(value=1.0), "says no members"),
        ({"steps": {}}, Score(value=1.0), "scores no steps"),
        ({"steps": {}}, Score(value=1.0, steps=(StepScore(6, 1.0),)), "ends at character 6 of turn 0, which has 5"),
        ({"steps": {}}, Score(value=1.0, steps=(StepScore(4, 1.0), StepScore(2, 1.0))), "not in the order"),
        ({"steps": {}}, Score(value=1.0, steps=(StepScore(4, 1.0, turn=1),)), "of turn 1; there are 1"),
        ({"only": {"source": "math"}}, Score(value=1.0), "no column 'source'"),
        ({"normalise": {"by": "source"}}, Score(value=1.0), "no column 'source'"),
    ],
)
def test_what_a_score_or_a_row_lacks_is_a_fault_and_never_zero(settings, score, said):
    [found] = blended(spec(**settings), score)
    assert found.value is None
    assert found.fault.kind is FaultKind.CONTRACT
    assert said in found.fault.message


def test_a_faulty_member_of_a_group_costs_only_itself():
    good = [Score(value=0.0, members=(1.0, 2.0)), Score(value=0.0, members=(3.0, 4.0))]
    found = blended(spec(ensemble={"reducer": "median"}), good[0], Score(value=1.0), good[1])
    assert [score.value for score in found] == [1.5, None, 3.5]


@pytest.mark.parametrize(
    ("returns", "worth", "paid"),
    [
        ("sum", 6.0, [3.0, 1.0, 2.0]),
        ("mean", 2.0, [1.0, 1 / 3, 2 / 3]),
        ("min_form", 1.0, [0.0, -1.0, 2.0]),
        ("difference", 2.0, [3.0, -2.0, 1.0]),
        ("last", 2.0, [0.0, 0.0, 2.0]),
        ("product", 6.0, [3.0, 0.0, 3.0]),
    ],
)
def test_steps_are_paid_so_that_they_sum_to_the_worth_of_all(returns, worth, paid):
    steps = tuple(StepScore(end, value) for end, value in ((1, 3.0), (3, 1.0), (5, 2.0)))
    [found] = blended(spec(weight=0.5, steps={"returns": returns}), Score(value=9.0, steps=steps))
    assert found.value == pytest.approx(0.5 * worth)
    assert [step.value for step in found.steps] == pytest.approx([0.5 * one for one in paid])
    [at_end] = blended(spec(weight=0.5, steps={"returns": returns, "place": "end"}), Score(value=9.0, steps=steps))
    assert at_end.value == pytest.approx(found.value)


def test_a_completion_without_steps_keeps_its_value():
    [found] = blended(spec(steps={}), Score(value=-0.5, steps=()))
    assert (found.value, found.steps) == (-0.5, ())


def test_normalising_is_by_source_and_clipping_comes_after():
    math, chat = question(source="math"), question(source="chat")
    groups = [(math, [Score(value=1.0), Score(value=3.0)]), (chat, [Score(value=70.0), Score(value=70.0)])]
    assert values([spec(normalise={"by": "source"})], *groups) == [[-1.0, 1.0], [0.0, 0.0]]
    assert values([spec(normalise={"by": "source"}, clip=(-0.5, 0.25))], *groups) == [[-0.5, 0.25], [0.0, 0.0]]
    assert values([spec(normalise={})], groups[0]) == [[-1.0, 1.0]]


def test_parts_show_what_was_said_before_normalising_and_the_share_that_was_clipped():
    found = blended(spec(normalise={}, clip=(-0.5, 2.0)), Score(value=1.0), Score(value=3.0))
    assert [score.parts for score in found] == [{"r": 1.0, "r.clipped": 1.0}, {"r": 3.0, "r.clipped": 0.0}]


def test_each_row_is_judged_by_the_rewards_that_are_for_it():
    specs = [RewardSpec(name="a", only={"source": "math"}), RewardSpec(name="b", only={"source": ["chat", "code"]})]
    tasks = [question(source=source) for source in ("math", "code", "law")]
    assert [[is_for(one, task) for one in specs] for task in tasks] == [[True, False], [False, True], [False, False]]
    asked = [(task, rollouts(task, "x")) for task in tasks]
    said = [[[Score(value=1.0)], []], [[], [Score(value=2.0)]], [[], []]]
    found = [group[0] for group in Blend(specs).scores(asked, said)]
    assert [score.value for score in found] == [1.0, 2.0, None]
    assert [set(score.parts) for score in found] == [{"a"}, {"b"}, set()]
    assert found[2].fault.kind is FaultKind.REFUSED


numbers = st.integers(-9, 9).map(float)


@given(st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4), min_size=1, max_size=4), st.randoms())
def test_the_order_of_groups_and_of_completions_changes_no_reward(drawn, random):
    one = spec(ensemble={"reducer": "mean_minus_std"}, normalise={})
    groups = [(question(), [Score(value=0.0, members=pair) for pair in group]) for group in drawn]
    order = random.sample(range(len(groups)), len(groups))
    inner = [random.sample(range(len(group)), len(group)) for group in drawn]
    shuffled = [(groups[g][0], [groups[g][1][i] for i in inner[g]]) for g in order]
    found, mixed = values([one], *groups), values([one], *shuffled)
    for number, g in enumerate(order):
        assert mixed[number] == pytest.approx([found[g][i] for i in inner[g]], rel=1e-6, abs=1e-6)


def test_a_batch_of_other_groups_changes_nothing_but_what_is_normalised():
    one = spec(ensemble={"reducer": "worst"}, clip=(-1, 1))
    groups = [(question(), [Score(value=0.0, members=(i, i * 0.3 - 1)) for i in range(n)]) for n in (2, 3)]
    assert values([one], *groups) == values([one], groups[0]) + values([one], groups[1])


def test_rounding_errors_are_not_normalised_into_a_signal():
    assert values([spec(normalise={})], (question(), [Score(value=0.1 + 0.2), Score(value=0.3)])) == [[0.0, 0.0]]


def scored(rollout: Rollout, *steps: StepScore, value: float) -> Rollout:
    return place(replace(rollout, score=Score(value=value, steps=steps)), decode)


def test_a_step_is_paid_on_the_token_that_completes_it():
    """ab / newline / `c newline d` / half an emoji / its other half / e / stop."""
    rollout = spoken((1, 2, 3, 4, 5, 6, 9))
    steps = (StepScore(3, 1.0), StepScore(5, 2.0), StepScore(7, 4.0), StepScore(8, 8.0))
    assert decode((1, 2, 3, 4, 5, 6)) == "ab\nc\nd😀e"
    # `ab\n` ends with the newline, `c\n` inside the third token, the emoji with its second half, the rest with the stop
    assert scored(rollout, *steps, value=15.0).paid == ((0.0, 1.0, 2.0, 0.0, 4.0, 0.0, 8.0),)
    assert scored(rollout, *steps, value=16.0).paid == ((0.0, 1.0, 2.0, 0.0, 4.0, 0.0, 9.0),)
    assert scored(rollout, value=3.0).paid == ((0.0,) * 6 + (3.0,),)


def test_a_cut_completion_and_an_empty_one_are_paid_on_their_last_token():
    cut = spoken((1, 2, 6), stop=StopReason.LENGTH)
    assert scored(cut, StepScore(3, 1.0), StepScore(4, -1.0), value=0.0).paid == ((0.0, 1.0, -1.0),)
    assert scored(spoken((9,)), value=-0.5).paid == ((-0.5,),)


def test_steps_of_several_turns_lie_in_their_turns():
    rollout = spoken((1, 2, 9), (6, 9))
    found = scored(rollout, StepScore(2, 1.0, turn=0), StepScore(1, 2.0), value=4.0)
    assert found.paid == ((1.0, 0.0, 0.0), (0.0, 3.0))
    [item] = items(found, reward=4.0)
    assert item.rewards == [1.0, 0.0, 0.0, 0.0, 0.0, 3.0]  # the fourth token is what the policy was told between
    assert item.action == [True, True, True, False, True, True]


def test_of_turns_the_steps_are_paid_together_at_the_end_of_each():
    rollout = spoken((1, 2, 9), (6, 9))
    steps = (StepScore(2, 1.0, turn=0), StepScore(3, 1.0, turn=0), StepScore(1, 2.0, turn=1))
    one = spec(steps={"returns": "sum", "place": "turn"})
    [[score]] = Blend([one]).scores([(rollout.task, [rollout])], [[[Score(value=0.0, steps=steps)]]])
    assert place(replace(rollout, score=score), decode).paid == ((0.0, 0.0, 2.0), (0.0, 2.0))


def test_an_episode_is_paid_by_its_environment_and_by_rewards_where_each_pays():
    rollout = spoken((1, 2, 9), (6, 9), score=Score(value=1.5, parts={"return": 1.5}))
    turns = tuple(replace(turn, reward=reward) for turn, reward in zip(rollout.turns, (0.5, 1.0), strict=True))
    rollout = replace(rollout, turns=turns, end=EpisodeEnd.DONE)
    judged = Score(value=5.0, parts={"r": 5.0}, steps=(StepScore(2, 2.0, turn=0),))
    found = pay_too(rollout, judged, decode, places_steps=True)
    assert (found.reward, found.score.parts) == (6.5, {"return": 1.5, "r": 5.0})
    assert found.paid == ((2.0, 0.0, 0.5), (0.0, 4.0))
    assert pack(items(found, reward=6.5)).rewards.tolist() == [0.0, 2.0, 0.0, 0.5, 0.0, 0.0, 4.0]
    broken = pay_too(
        rollout, Score(value=None, fault=Fault(kind=FaultKind.TIMEOUT, where="r")), decode, places_steps=True
    )
    assert broken.reward is None


def ppo_returns(rollout: Rollout, reward: float):
    batch = pack(items(rollout, reward=reward))
    batch = batch.replace(values=torch.zeros(batch.num_tokens, 1))
    found = estimate(Config(type="ppo", gae_lambda=1.0, whiten_advantages=False), batch)
    return found.returns[batch.action_mask].tolist()


def test_ppo_learns_from_where_steps_are_paid_and_their_total_is_that_of_the_end():
    rollout = spoken((1, 2, 6, 9))
    steps = (StepScore(2, 1.0), StepScore(3, -2.0), StepScore(4, 4.0))
    along = scored(rollout, *steps, value=3.0)
    at_end = replace(rollout, score=Score(value=3.0))
    assert ppo_returns(along, 3.0) == [3.0, 2.0, 4.0, 4.0]
    assert ppo_returns(at_end, 3.0) == [3.0, 3.0, 3.0, 3.0]
    assert ppo_returns(scored(rollout, StepScore(4, 3.0), value=3.0), 3.0) == ppo_returns(at_end, 3.0)


REWARDS = """
from alignkit.types.score import Score, StepScore

def letters(completion, task):
    return Score(value=9.0, steps=tuple(StepScore(i + 1, float(c == "a")) for i, c in enumerate(completion)))
"""


def test_a_pool_shapes_what_its_workers_said_and_evaluates_without_normalising(tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    one = RewardSpec(name="./mine.py:letters", steps={"returns": "sum"}, normalise={}, only={"source": "a"})
    tasks = [question(source="a"), question(source="b")]
    groups = [(task, rollouts(task, "ab", "ba")) for task in tasks]
    with closing(RewardPool([one], workers=1, beside=tmp_path)) as pool:
        trained = asyncio.run(pool.score(groups))
        graded = asyncio.run(pool.unnormalised().score(groups))
    assert [score.steps for score in trained[0]] == [
        (StepScore(1, 1.0), StepScore(2, -1.0)),
        (StepScore(1, -1.0), StepScore(2, 1.0)),
    ]
    assert [score.value for score in graded[0]] == [1.0, 1.0]
    assert [score.value for score in trained[1]] == [None, None]


RECIPE = """
model: {scratch: {characters: "0123456789+="}}
data: {source: "generator:arithmetic", options: {digits: 1, operations: "+", style: characters}, chat: false}
rewards: [{name: matching_steps, steps: {returns: sum}}]
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 4}
algorithm: {type: reinforce}
optimizer: {lr: 1e-3}
train: {steps: 2}
"""


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["algorithm={type: grpo}"], "grpo sees one reward per completion, not where it is paid; set this to `end`"),
        (["rewards.0.risk={}"], "a reward is read in one way; got risk and steps"),
        (["rewards=[{name: exact_match, ensemble: {}}]", "rollouts.group=1"], "set `rollouts.group` to at least 2"),
        (["rewards.0.gate=true"], "a gate multiplies whole completions"),
        (["rewards.0.clip=[1, 1]"], r"must be \[lowest, highest\]; got \[1.0, 1.0\]"),
        (["rewards.0.normalise={}", "rollouts.dynamic_sampling=true"], "is sampled in rounds"),
        (["rollouts.guide_roll_in=0.5"], "a guide.s steps are not the policy's"),
    ],
)
def test_what_cannot_go_together_is_refused_with_its_cure(tmp_path, overrides, problem):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    with pytest.raises(RecipeError, match=problem):
        read_recipe(path, overrides)


def test_explain_says_what_is_made_of_each_reward(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    more = "{name: exact_match, weight: 2, risk: {level: 0.1, weight: 3}, clip: [0, 1], only: {source: math}}"
    given = f"rewards=[{{name: matching_steps, steps: {{returns: sum}}, normalise: {{}}}}, {more}]"
    stage = explain_recipe(read_recipe(path, [given]))["stages"][0]
    assert stage["reward"] == (
        "1 x [sum of the steps of matching_steps, paid where each ends, normalised] + "
        "2 x [cvar 0.1 of exact_match, clipped to 0..1, only where source is math]"
    )
    assert "rewards.1.risk.weight (the measure is cvar)" in stage["without_effect"]


def test_matching_steps_says_what_its_cases_promise():
    found = find("rewards", "matching_steps")
    module = importlib.import_module(found.module)
    for case in module.SELF_TEST:
        task = question(case.reference)
        score = asyncio.run(module.matching_steps.score(task, rollouts(task, case.completion)))[0]
        if isinstance(case.expected, FaultKind):
            assert score.fault.kind is case.expected
        else:
            assert score.value == pytest.approx(case.expected)
            assert [step.end for step in score.steps] == [one.end for one in split_steps(case.completion, "newline")]
    task = question("21")
    [score] = asyncio.run(
        replace(module.matching_steps, options={"pattern": "(?<=.)"}).score(task, rollouts(task, "219"))
    )
    assert score.steps == (StepScore(1, 1.0), StepScore(2, 1.0), StepScore(3, 0.0))
