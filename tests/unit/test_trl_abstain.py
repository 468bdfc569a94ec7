"""TRL functions for several tasks: None of one leaves it out of that row's sum; None of all refuses the row."""

import ast
import asyncio
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from reward_rollouts import question, rollouts

from alignkit.data.offline.example import Example
from alignkit.recipe.schema import Evaluation, RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.pool.training import Training
from alignkit.rewards.serve.remote import RemoteReward
from alignkit.rewards.serve.trl import trl_arguments
from alignkit.train.evaluate import Evaluator
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task
from tests.unit.loopback import TOKEN, served
from tests.unit.test_collect import ScriptedEngine, collector

FUNCTIONS = """
import asyncio, math

def sums(completions, kind, **kwargs):
    return [float(len(c[0]["content"])) if k == "sum" else None for c, k in zip(completions, kind)]

async def words(completions, kind, **kwargs):
    await asyncio.sleep(0.001)
    return [-float(len(c[0]["content"])) if k == "word" else None for c, k in zip(completions, kind)]

def short(completions, **kwargs):
    return [1.0 if len(c[0]["content"]) < 3 else None for c in completions]

def broken(completions, **kwargs):
    return [math.nan for _ in completions]

def crashes(completions, **kwargs):
    raise ValueError("no")

def never(completions, **kwargs):
    return [None for _ in completions]

def half(completions, **kwargs):
    return [0.5 for _ in completions]

def annealed(completions, trainer_state, **kwargs):
    return [1 - trainer_state.global_step / trainer_state.max_steps] * len(completions)

def asks(completions, trainer_state, log_extra, log_metric, field, **kwargs):
    log_extra("length", [len(c[0]["content"]) for c in completions])
    log_metric("mean", 1.0)
    return [float(getattr(trainer_state, field[0]) or 0)] * len(completions)

def of_another_part(completions, solution, **kwargs):
    return [None if s is None else 1.0 for s in solution]

def own(completion, task):
    return None
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("rewards")
    (made / "mine.py").write_text(FUNCTIONS)
    return made


def blended(folder, task, specs, *texts, training=None):
    """specs: `name` or (name, settings)."""
    specs = [RewardSpec(name=f"./mine.py:{one}") if isinstance(one, str) else one for one in specs]
    with closing(RewardPool(specs, workers=1, beside=folder, training=training)) as pool:
        return asyncio.run(pool.score([(task, rollouts(task, *texts))]))[0]


def spec(name, **settings):
    return RewardSpec(name=f"./mine.py:{name}", **settings)


def test_a_function_that_says_none_is_left_out_of_that_rows_sum_as_under_trl(folder):
    pair = [spec("sums", weight=2.0), spec("words", weight=3.0)]
    assert [s.value for s in blended(folder, question(kind="sum"), pair, "a", "bbb")] == [2.0, 6.0]
    assert [s.value for s in blended(folder, question(kind="word"), pair, "a", "bbb")] == [-3.0, -9.0]


def test_three_functions_of_which_one_applies_to_some_completions_of_a_group_only(folder):
    scores = blended(folder, question(kind="sum"), ["sums", "words", "short"], "a", "bbbb")
    assert [s.value for s in scores] == [2.0, 4.0]
    assert [s.parts["short"] for s in scores] == [1.0, None]
    assert [s.parts["short.abstained"] for s in scores] == [0.0, 1.0]
    assert [s.parts["words.abstained"] for s in scores] == [1.0, 1.0]
    assert [s.parts["sums.abstained"] for s in scores] == [0.0, 0.0]
    assert [s.fault for s in scores] == [None, None]  # an abstention beside a value is no fault to count


def test_a_row_that_nobody_scores_is_refused_with_the_names_and_the_cure(folder):
    [score] = blended(folder, question(kind="other"), ["sums", "words"], "a")
    assert (score.value, score.fault.kind) == (None, FaultKind.REFUSED)
    assert score.fault.message.startswith("no reward scored this row: sums, words returned None;")
    assert "`only`" in score.fault.message
    [alone] = blended(folder, question(kind="other"), ["sums"], "a")
    assert (alone.value, alone.fault.kind) == (None, FaultKind.REFUSED)


def test_a_reward_that_is_only_watched_scores_no_row_by_itself(folder):
    [score] = blended(folder, question(), ["never", spec("half", weight=0)], "a")
    assert (score.value, score.fault.kind) == (None, FaultKind.REFUSED)
    [score] = blended(folder, question(), [spec("never", weight=0), "half"], "a")
    assert score.value == 0.5


def test_a_gate_that_abstains_leaves_the_sum_as_it_is(folder):
    [score] = blended(folder, question(), [spec("never", gate=True), "half"], "a")
    assert score.value == 0.5
    [nothing] = blended(folder, question(), ["never", spec("half", gate=True)], "a")
    assert (nothing.value, nothing.fault.kind) == (None, FaultKind.REFUSED)


@pytest.mark.parametrize(
    ("other", "kind"),
    [("broken", FaultKind.NOT_A_NUMBER), ("crashes", FaultKind.CRASH), ("own", FaultKind.REFUSED)],
)
def test_nan_a_crash_and_none_of_an_own_function_are_still_faults_of_the_rollout(folder, other, kind):
    for rewards in (["half", other], ["never", other], ["half", other, "never"]):
        [score] = blended(folder, question(), rewards, "a")
        assert (score.value, score.fault.kind) == (None, kind)
        assert score.fault.message


def test_normalising_takes_its_mean_over_the_rows_that_were_scored(folder):
    [a, b] = blended(folder, question(), [spec("short", normalise={}), "half"], "a", "bbbb")
    assert (a.value, b.value) == (0.5, 0.5)  # one score alone is its own mean, and the other had none


def test_a_function_that_anneals_over_max_steps_gets_the_updates_of_the_stage(folder):
    training = Training(updates=14, passes=3.0, columns=("kind",), save_every=20)
    [score] = blended(folder, question(), ["annealed"], "a", training=training)
    assert score.value == 0.5  # the rollouts are of version 7
    later = Training(updates=4, before=5)
    assert blended(folder, question(), ["annealed"], "a", training=later)[0].value == 0.5  # (7 - 5) / 4
    assert blended(folder, question(field="epoch"), ["asks"], "a", training=training)[0].value == 1.5
    assert training.trainer_state(7) == {
        "global_step": 7,
        "max_steps": 14,
        "epoch": 1.5,
        "num_train_epochs": 3,
        "logging_steps": 1,
        "save_steps": 20,
        "eval_steps": None,
    }


def test_what_is_not_known_of_the_trainer_is_named(folder):
    [score] = blended(folder, question(), ["annealed"], "a")
    assert score.fault.kind is FaultKind.CRASH
    assert "trainer_state.max_steps is not known here; known are global_step" in score.fault.message


def test_a_column_that_only_other_rows_have_is_none_as_in_a_table(folder):
    training = Training(updates=1, columns=("kind", "solution"))
    [score] = blended(folder, question(kind="sum"), ["of_another_part", "sums"], "ab", training=training)
    assert (score.value, score.parts["of_another_part.abstained"]) == (2.0, 1.0)
    [without] = blended(folder, question(kind="sum"), ["of_another_part", "sums"], "ab")
    assert "needs the column solution" in without.fault.message


def test_every_field_of_transformers_trainer_state_that_is_given_is_one_of_its_fields():
    task = question()
    state = trl_arguments(task, rollouts(task, "a"), Training(updates=2).trainer_state(1))["trainer_state"]
    source = Path(next(iter(find_spec("transformers").submodule_search_locations))) / "trainer_callback.py"
    [theirs] = [n for n in ast.parse(source.read_text()).body if getattr(n, "name", "") == "TrainerState"]
    fields = {line.target.id for line in theirs.body if isinstance(line, ast.AnnAssign)}
    assert len(fields) > 15
    assert set(vars(state)) == fields - {"num_input_tokens_seen", "total_flos"}


def test_a_served_function_abstains_for_its_client_too(folder, monkeypatch):
    pytest.importorskip("fastapi")
    from alignkit.rewards.serve.server import build_app

    monkeypatch.setenv("ALIGNKIT_TOKEN", TOKEN)
    with (
        closing(RewardPool([spec("short")], workers=1, beside=folder)) as pool,
        served(build_app(pool, reward="short", token=TOKEN)) as url,
    ):
        remote, task = RemoteReward(url), question()
        told = asyncio.run(remote.score(task, rollouts(task, "a", "bbbb")))
        again = asyncio.run(remote.score(task, rollouts(task, "a", "bbbb")))
    for scores in (told, again):
        assert [s.value for s in scores] == [1.0, None]
        assert scores[1].fault.kind is FaultKind.ABSTAINED


class Scripted:
    """Scores the first task by the first reward, the second by the second."""

    async def score(self, groups):
        return [[self.one(task) for _ in group] for task, group in groups]

    def one(self, task: Task) -> Score:
        first = task.id == "t0"
        parts = {"sums": 1.0 if first else None, "sums.abstained": float(not first), "words": None if first else 0.25}
        fault = Fault(kind=FaultKind.REFUSED, where="blend", message="nobody")
        return Score(value=1.0, parts=parts) if task.id != "t2" else Score(value=None, parts={}, fault=fault)


def test_an_evaluation_grades_by_the_first_reward_that_did_not_abstain():
    driver = collector({}, engine=ScriptedEngine())
    examples = [Example(task=Task(id=f"t{i}", text="?"), prompt=(1,)) for i in range(3)]
    evaluator = Evaluator(
        collector=replace(driver, scorer=Scripted()),
        examples=examples,
        settings=Evaluation(),
        grader=lambda task: "sums",
        graders=("sums", "words"),
    )
    rows, summary = evaluator.run()
    assert [row["correct"] for row in rows] == [1.0, 0.25, None]
    assert summary["eval/accuracy"] == 0.625


@pytest.mark.slow
def test_sums_are_those_of_trls_own_trainer_for_every_pattern_of_none_and_weight(folder, monkeypatch):
    """All 27 patterns of (None, 1, 2) of three functions, weights 2, -1, 0.5: TRL's own code and the pool agree."""
    import logging

    import torch
    from trl.trainer import grpo_trainer

    monkeypatch.setattr(grpo_trainer, "logger", logging.getLogger("trl"))  # its own wants a state of accelerate
    monkeypatch.setattr(grpo_trainer, "gather", lambda values: values)
    patterns = [[(number // 3**place) % 3 or None for place in range(3)] for number in range(27)]
    functions = [lambda completions, p, i=i, **_: [row[i] for row in p] for i in range(3)]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=False),
        reward_funcs=functions,
        reward_func_names=["a", "b", "c"],
        reward_processing_classes=[None] * 3,
        state=SimpleNamespace(global_step=0),
        environments=None,
        args=SimpleNamespace(report_to=[]),
        _log_completion_extra=None,
        _log_metric=None,
    )
    inputs = [{"prompt": "?", "p": pattern} for pattern in patterns]
    per_function = grpo_trainer.GRPOTrainer._calculate_rewards(trainer, inputs, ["?"] * 27, ["x"] * 27, [[1]] * 27)
    weights = torch.tensor([2.0, -1.0, 0.5])
    theirs = (per_function * weights).nansum(dim=1)
    theirs[per_function.isnan().all(dim=1)] = torch.nan
    (folder / "patterns.py").write_text(
        "\n".join(f"def f{i}(completions, p, **_): return [row[{i}] for row in p]" for i in range(3))
    )
    specs = [RewardSpec(name=f"./patterns.py:f{i}", weight=float(weights[i])) for i in range(3)]
    groups = [(task := question(p=pattern), rollouts(task, "x")) for pattern in patterns]
    with closing(RewardPool(specs, workers=1, beside=folder)) as pool:
        ours = [score.value for [score] in asyncio.run(pool.score(groups))]
    assert ours == [None if value != value else value for value in theirs.tolist()]
    assert ours.count(None) == 1
