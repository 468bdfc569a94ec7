"""What every reward on the shelf must keep: its name, its card, its own examples, and no pay for failure.

Real answers (GSM8K, MATH) are graded where $ALIGNKIT_DATA or ../shared/data has them.
"""

import ast
import asyncio
import gzip
import importlib
import json
import os
import time
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.recipe.find import find, list_content, load
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.base import FunctionReward
from alignkit.rewards.lift import find_reward
from alignkit.rewards.pool import RewardPool
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import FaultKind
from alignkit.types.task import Task

SHELF = [found for found in list_content("rewards") if found.origin == "shelf" and "verifiable" in found.path.parts]
NAMES = [found.name for found in SHELF]
GRADERS = ["boxed_answer", "choice_letter", "exact_match", "final_number", "gsm8k_answer", "math_answer"]
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ALIGNKIT_DATA") or ROOT.parent / "shared" / "data")
needs_data = pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no GSM8K and MATH rows: set ALIGNKIT_DATA")


def rollout(task, text, stop=StopReason.END_OF_TEXT):
    turn = Turn(
        prompt_ids=(), completion_ids=(0,) * len(text), sampler_logprobs=(0.0,) * len(text), stop=stop, text=text
    )
    return Rollout(task=task, group=0, member=0, turns=(turn,), policy_version=0)


def said(name, completion, *, reference=None, options=None, stop=StopReason.END_OF_TEXT):
    task = Task(id="case", text="?", reference=reference)
    [score] = asyncio.run(find_reward(name, options or {}).score(task, [rollout(task, completion, stop)]))
    return score


def rows(file):
    return [json.loads(line) for line in gzip.open(DATA / file, "rt", encoding="utf-8")]


def graded(name, pairs, **spec):
    """Scores of (reference, completion) pairs through the pool."""
    tasks = [Task(id=str(number), text="?", reference=reference) for number, (reference, _) in enumerate(pairs)]
    groups = [(task, [rollout(task, text)]) for task, (_, text) in zip(tasks, pairs, strict=True)]
    with closing(RewardPool([RewardSpec(name=name, **spec)], workers=2)) as pool:
        return [group[0] for group in asyncio.run(pool.score(groups))]


def test_the_shelf_has_the_verifiable_rewards():
    expected = [*GRADERS, "ends_with_stop", "format_think_answer", "length_penalty"]
    assert set(expected) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_says_of_its_own_examples_what_it_promises(name):
    module = ast.parse(find("rewards", name).path.read_text())
    assert len(ast.get_docstring(module) or "") > 60, "the docstring is the card"
    target = load(find("rewards", name))
    assert isinstance(target, FunctionReward)
    assert target.name == name
    cases = importlib.import_module(str(find("rewards", name).module)).SELF_TEST
    assert len({case.expected for case in cases}) > 1, "the examples must show more than one outcome"
    for case in cases:
        score = said(name, case.completion, reference=case.reference, options=case.options, stop=case.stop)
        assert (score.fault.kind if score.value is None else score.value) == case.expected, case


@pytest.mark.parametrize("name", GRADERS)
@pytest.mark.parametrize("reference", [None, "", "   ", [], {"a": 1}, True])
def test_a_gold_answer_that_cannot_be_read_is_the_rows_fault_and_never_right(name, reference):
    for completion in ("", "nan", "True", "None", "0", "1", r"\boxed{}", "#### ", "A"):
        score = said(name, completion, reference=reference)
        assert score.value is None, (completion, score)
        assert score.fault.kind is FaultKind.GOLD


@pytest.mark.parametrize("name", GRADERS)
@given(
    completion=st.text(max_size=200) | st.text(alphabet="0123456789.,-/ \\boxed{}#A()<think>answer is:^!", max_size=80)
)
@settings(max_examples=60, deadline=None)
def test_no_failure_pays_more_than_an_honest_wrong_answer(name, completion):
    """The reference is no substring of anything drawn, so nothing here may be right: 0, or no value."""
    reference = "Z" if name == "choice_letter" else "987654321987"
    options = {"letters": "YZ"} if name == "choice_letter" else {}
    score = said(name, completion.replace("Z", ""), reference=reference, options=options)
    assert score.value in (0.0, None)


def test_options_are_bound_and_checked():
    assert said("length_penalty", "x" * 18, options={"max_tokens": 20, "buffer": 4}).value == -0.5
    assert said("exact_match", "EVEN", reference="even", options={"ignore_case": True}).value == 1.0


@needs_data
@pytest.mark.parametrize("file", ["gsm8k/train.jsonl.gz", "gsm8k/test.jsonl.gz"])
@pytest.mark.parametrize("name", ["gsm8k_answer", "final_number", "math_answer"])
def test_every_gold_solution_of_gsm8k_is_right(file, name):
    pairs = [(row["answer"], row["answer"]) for row in rows(file)]
    start = time.monotonic()
    scores = graded(name, pairs)
    print(f"\n{name} on {file}: {len(pairs) / (time.monotonic() - start):,.0f} answers/s, start-up included")
    assert len(pairs) in (7473, 1319)
    assert {score.value for score in scores} == {1.0}


@needs_data
def test_every_gold_answer_of_math500_is_right_in_every_frame():
    answers = rows("math/math500_test.jsonl.gz")
    for frame in (r"\boxed{{{answer}}}", "{solution}"):
        pairs = [(row["answer"], frame.format(**row)) for row in answers]
        assert {score.value for score in graded("boxed_answer", pairs)} == {1.0}
    stated = [(row["answer"], f"The answer is ${row['answer']}$.") for row in answers]
    assert {score.value for score in graded("math_answer", stated)} == {1.0}


@needs_data
def test_answers_of_other_problems_are_wrong_and_all_can_be_judged():
    """1,000 pairs of MATH-500 answers, drawn at random; most of them reach math-verify, the slowest path."""
    golds = [row["answer"] for row in rows("math/math500_test.jsonl.gz")]
    rng = Random(0)
    pairs = [(gold, rf"\boxed{{{other}}}") for gold in golds for other in rng.sample(golds, 2)]
    start = time.monotonic()
    scores = graded("boxed_answer", pairs)
    print(f"\nboxed_answer on random pairs: {len(pairs) / (time.monotonic() - start):,.0f} answers/s")
    right = [pair for pair, score in zip(pairs, scores, strict=True) if score.value == 1.0]
    different = {pair for pair in right if pair[1] != rf"\boxed{{{pair[0]}}}"}
    assert different <= {("x=5", r"\boxed{5}"), (r"36^\circ", r"\boxed{36}")}
    assert all(score.value is not None for score in scores)


@needs_data
def test_verdicts_on_real_model_solutions_agree_with_their_published_labels():
    """GSM8K's 4,000 labelled solutions of GPT-3 models: the last number decides exactly as its authors did."""
    models = ["175b_finetuning", "175b_verification", "6b_finetuning", "6b_verification"]
    labelled = [
        (row["ground_truth"].rsplit("A:", 1)[1].strip(), row[model]["solution"], row[model]["is_correct"])
        for row in rows("gsm8k/example_model_solutions.jsonl.gz")
        for model in models
    ]
    for name in ("final_number", "math_answer"):
        scores = graded(name, [(gold, solution) for gold, solution, _ in labelled])
        assert [score.value for score in scores] == [float(label) for _, _, label in labelled]
