"""TRL reward functions run unchanged: the stock ones of the installed trl, and users' own."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest
import trl
from reward_rollouts import question, rollouts

from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.serve.trl import is_trl_style, trl_arguments
from alignkit.types.score import FaultKind
from alignkit.types.task import Task


@pytest.fixture(scope="module")
def accuracy():
    """A pool of TRL's accuracy reward, whose worker imports TRL once; its own alarms come long before the deadline."""
    with closing(RewardPool([RewardSpec(name="trl:accuracy_reward", deadline_s=600)], workers=1)) as pool:
        yield pool


def scored(pool, task, *texts, tokens=3):
    return asyncio.run(pool.score([(task, rollouts(task, *texts, tokens=tokens))]))[0]


def test_accuracy_reward_grades_in_the_worker_with_its_own_timers(accuracy):
    task = question(solution=r"\frac{1}{3}")
    scores = scored(accuracy, task, r"\boxed{\frac{1}{3}}", r"\boxed{\frac{1}{2}}", r"\boxed{\frac{2}{6}}")
    assert [one.value for one in scores] == [1.0, 0.0, 1.0]


def test_a_gold_answer_that_trl_cannot_read_is_refused_and_not_zero(accuracy):
    scores = scored(accuracy, question(solution="no mathematics at all"), r"\boxed{1}")
    assert scores[0].value is None
    assert scores[0].fault.kind is FaultKind.REFUSED


def test_accuracy_reward_on_a_tower_of_powers_ends_by_its_own_alarm(accuracy):
    """math-verify's timers need the main thread; in any other thread this answer would run until it is killed."""
    scores = scored(accuracy, question(solution="1"), r"\boxed{9^{9^{9^9}}}")
    assert scores[0].value == 0.0  # killed at its deadline, it would have none


def test_the_other_stock_rewards_give_trls_own_numbers():
    task = question(solution="1")
    options: dict[str, dict] = {
        "think_format_reward": {},
        "get_soft_overlong_punishment": {"max_completion_len": 100, "soft_punish_cache": 20},
        "get_repetition_penalty_reward": {"ngram_size": 2},
        "reasoning_accuracy_reward": {"reasoning_delimiters": ["@@"]},
        "get_cosine_scaled_reward": {"max_len": 100},
    }
    specs = [RewardSpec(name=f"trl:{name}", options=given, deadline_s=10.0) for name, given in options.items()]
    with closing(RewardPool(specs, workers=1)) as pool:

        def values(name, *texts, tokens=3):
            return [one.parts[name] for one in scored(pool, task, *texts, tokens=tokens)]

        assert values("think_format_reward", "<think>a</think> b", "b") == [1.0, 0.0]
        assert values("get_soft_overlong_punishment", "x", tokens=90) == [-0.5]
        assert values("get_repetition_penalty_reward", "x", tokens=5) == [0.0]  # five different tokens
        assert values("reasoning_accuracy_reward", r"a @@ \boxed{1}", r"\boxed{1}") == [1.0, 0.0]
        cosine = values("get_cosine_scaled_reward", r"\boxed{1}", r"\boxed{2}", tokens=50)
        assert cosine == pytest.approx([0.75, -0.75])


def test_arguments_are_those_of_the_installed_trainer():
    source = (Path(str(trl.__file__)).parent / "trainer" / "grpo_trainer.py").read_text()
    task = question(5, solution="5", level=3)
    arguments = trl_arguments(task, rollouts(task, "a", "b"))
    assert "prompts=prompts, completions=completions, completion_ids=completion_ids_list, **reward_kwargs" in source
    for extra in ("trainer_state", "log_extra", "log_metric"):
        assert f'reward_kwargs["{extra}"]' in source
        assert extra in arguments
    assert arguments["prompts"] == [[{"role": "user", "content": "?"}]] * 2
    assert arguments["completions"] == [[{"role": "assistant", "content": text}] for text in "ab"]
    assert arguments["completion_ids"] == [[0, 1, 2]] * 2
    assert arguments["solution"] == ["5", "5"]
    assert arguments["level"] == [3, 3]
    assert arguments["trainer_state"].global_step == 7
    plain = Task(id="p", text="say:", columns={"completion": "gold", "x": 1})
    assert trl_arguments(plain, rollouts(plain, "a"))["completions"] == ["a"]
    assert trl_arguments(plain, rollouts(plain, "a"))["prompts"] == ["say:"]
    assert "completion" not in trl_arguments(plain, rollouts(plain, "a"))


USERS = """
import asyncio

def by_length(completions, **kwargs):
    return [float(len(c[0]["content"])) for c in completions]

async def slowly(prompts, completions, level, log_metric=None, **kwargs):
    await asyncio.sleep(0.01)
    log_metric("mean", 1.0)
    return [l + len(p) for l, p in zip(level, prompts)]

def some_none(completions, **kwargs):
    return [None if i else 1 for i, _ in enumerate(completions)]

def too_few(completions, **kwargs):
    return [1.0]

def no_list(completions, **kwargs):
    return 1.0

def not_numbers(completions, **kwargs):
    return [1.0, "x", float("nan")]

def needs(completions, colour, **kwargs):
    return [1.0 for _ in completions]

def without_kwargs(completions, level):
    return [float(l) for l in level]

def scheduled(completions, trainer_state, **kwargs):
    return [trainer_state.global_step] * len(completions)

def raises(completions, **kwargs):
    raise KeyError("solution")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(USERS)
    return tmp_path


def scored_by(folder, name, task, *texts):
    spec = RewardSpec(name=f"./mine.py:{name}", deadline_s=10.0)
    with closing(RewardPool([spec], workers=1, beside=folder)) as pool:
        return scored(pool, task, *texts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("by_length", [1.0, 2.0, 3.0]),
        ("slowly", [5.0, 5.0, 5.0]),
        ("some_none", [1.0, FaultKind.REFUSED, FaultKind.REFUSED]),
        ("too_few", [FaultKind.CONTRACT] * 3),
        ("no_list", [FaultKind.CONTRACT] * 3),
        ("not_numbers", [1.0, FaultKind.CONTRACT, FaultKind.NOT_A_NUMBER]),
        ("needs", [FaultKind.CRASH] * 3),
        ("without_kwargs", [4.0, 4.0, 4.0]),
        ("scheduled", [7.0, 7.0, 7.0]),
        ("raises", [FaultKind.CRASH] * 3),
    ],
)
def test_users_trl_functions_run_unchanged_and_their_failures_are_named(folder, name, expected):
    scores = scored_by(folder, name, question(level=4), "a", "bb", "ccc")
    assert [one.fault.kind if one.value is None else one.value for one in scores] == expected


def test_a_missing_column_is_named_with_those_the_data_has(folder):
    [score] = scored_by(folder, "needs", question(1, level=4), "a")
    assert (
        score.fault.message == "needs the column colour, the data has level, reference; rename one with `data.columns`"
    )


def test_the_two_forms_of_a_reward_are_told_apart_by_their_arguments():
    assert is_trl_style(lambda completions, **kwargs: [])
    assert is_trl_style(lambda prompts, completions: [])
    assert is_trl_style(lambda completion_ids, **kwargs: [])
    assert not is_trl_style(lambda completion, task: 1.0)
    assert not is_trl_style(lambda completion, task, *, rollout: 1.0)
