"""`check` on TRL functions: columns that nobody supplies, and functions that read completions in the other form."""

import pytest
from reward_rollouts import question

from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.training import Training
from alignkit.run.check.check_trl import trl_problems
from alignkit.types.task import Task

FUNCTIONS = """
def needs(completions, solution, threshold=1, **kwargs):
    return [float(s == "1") for s in solution]

def reads_text(completions, **kwargs):
    return [float(len(c.split())) for c in completions]

def reads_messages(completions, **kwargs):
    return [float(len(c[0]["content"])) for c in completions]

def annealed(completions, trainer_state, **kwargs):
    return [trainer_state.global_step / trainer_state.max_steps] * len(completions)

def by_key(completions, **kwargs):
    return [float(s == "1") for s in kwargs["solution"]]

def brittle(completions, **kwargs):
    return [len(c[0]["content"]) / (c[0]["content"] == "good") for c in completions]

def abstains(completions, **kwargs):
    return [None for _ in completions]

def one_task(completions, kind, **kwargs):
    return [len(c[0]["content"]) if k == "b" else None for c, k in zip(completions, kind)]

def own(completion, task):
    raise ValueError("not a TRL function, so not asked")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("check")
    (made / "mine.py").write_text(FUNCTIONS)
    return made


def found(folder, tasks, *names, **settings):
    specs = [RewardSpec(name=f"./mine.py:{name}", **settings) for name in names]
    return trl_problems(specs, tasks, beside=folder, training=Training(updates=10, columns=columns(tasks)))


def columns(tasks):
    return tuple({name: None for task in tasks for name in task.columns})


def test_a_required_column_that_no_row_has_is_named_with_those_it_has(folder):
    [problem] = found(folder, [question("1", solutions="1", level=2)], "needs")
    assert problem == (
        "rewards.0 './mine.py:needs': needs the column 'solution', which no row has (did you mean 'solutions'?); they "
        "have level, solutions; rename one with data.columns (solution: THEIRS) or make it an option"
    )


def test_a_column_that_some_rows_have_or_an_option_gives_is_enough(folder):
    rows = [question(solution="1"), Task(id="other", text="?", columns={"level": 1})]
    assert found(folder, rows, "needs") == []
    assert found(folder, [question(level=1)], "needs", options={"solution": ["1"]}) == []


def test_only_the_rows_that_a_reward_is_for_must_have_its_column(folder):
    rows = [question(kind="a"), question(kind="b", solution="1")]
    assert found(folder, rows, "needs", only={"kind": "b"}) == []
    assert "needs the column 'solution'" in found(folder, rows, "needs", only={"kind": "a"})[0]


def test_a_function_that_reads_messages_is_named_before_it_meets_plain_text(folder):
    plain = [Task(id=f"p{i}", text="say:") for i in range(12)]
    [problem] = found(folder, plain, "reads_messages")
    assert problem.startswith(
        "rewards.0 'reads_messages': failed on made-up answers to each of 8 rows: crash: TypeError"
    )
    assert "set data.chat to true, or read the string" in problem
    [other] = found(folder, [question()], "reads_text")
    assert "crash: AttributeError" in other
    assert "data.chat" not in other
    assert found(folder, plain, "reads_text") == []
    assert found(folder, [question()], "reads_messages") == []


def test_a_key_that_is_missing_and_a_division_by_zero_are_found_by_trying(folder):
    problems = found(folder, [question(level=1)], "by_key", "annealed", "brittle", "abstains", "own")
    assert [problem.split(":")[0] for problem in problems] == ["rewards.0 'by_key'", "rewards.2 'brittle'"]
    assert "KeyError: 'solution'" in problems[0]
    assert "ZeroDivisionError" in problems[1]


def test_a_failure_on_some_rows_only_is_left_to_training(folder):
    rows = [question("good"), question("bad")]
    assert found(folder, [*rows, question("good")], "brittle") == []


def test_rows_that_a_function_leaves_to_others_do_not_hide_its_failure(folder):
    rows = [Task(id=str(i), text="?", columns={"kind": "b" if i > 40 else "a"}) for i in range(50)]
    assert "failed on made-up answers to each of 1 rows: crash: TypeError" in found(folder, rows, "one_task")[0]


def test_shipped_rewards_start_no_process(folder, monkeypatch):
    monkeypatch.setattr("alignkit.run.check.check_trl.RewardPool", None)
    assert (
        trl_problems([RewardSpec(name="exact_match")], [question("1")], beside=folder, training=Training(updates=1))
        == []
    )
