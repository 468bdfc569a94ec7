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

from alignkit.recipe.lookup.find import find, list_content, load
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.base import FunctionReward, unscorable
from alignkit.rewards.pool.blend import Blend
from alignkit.rewards.pool.lift import find_reward
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.pool.shape import Part
from alignkit.rewards.verdict import Outcome, judged, outcome_of
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

SHELF = [found for found in list_content("rewards") if found.origin == "shelf" and "verifiable" in found.path.parts]
NAMES = [found.name for found in SHELF]
OTHERS = {"ends_with_stop", "format_think_answer", "length_penalty"}  # judge the form, without a reference
UNKNOWN = "987654321987"
VERIFIERS = {  # name -> a reference that nothing drawn below can meet, and options
    "boxed_answer": (UNKNOWN, {}),
    "choice_letter": ("Z", {"letters": "YZ"}),
    "code": ([f"assert f() == {UNKNOWN}"], {"timeout_s": 2.0}),
    "exact_match": (UNKNOWN, {}),
    "extracted_match": (UNKNOWN, {"pattern": "answer is:(.*)"}),
    "final_number": (UNKNOWN, {}),
    "gsm8k_answer": (UNKNOWN, {}),
    "instruction_following": (
        {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": [UNKNOWN]}]},
        {"mode": "loose", "per": "instruction"},
    ),
    "json_schema": ({"const": UNKNOWN}, {}),
    "math_answer": (UNKNOWN, {}),
    "minerva_answer": (UNKNOWN, {}),
    "qa_answer": (UNKNOWN, {"metric": "f1"}),
    "rlsp_exploration": (UNKNOWN, {}),
}
GRADERS = list(VERIFIERS)
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
    assert {*GRADERS, *OTHERS} <= set(NAMES)


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
        score = said(name, completion, reference=reference, options=VERIFIERS[name][1])
        assert score.value is None, (completion, score)
        assert score.fault.kind is FaultKind.GOLD


PIECES = '0123456789.,-/ \\boxed{}#A()<think>answer is:^!`\n[]"def fxreturn'


@pytest.mark.parametrize("name", GRADERS)
@given(completion=st.text(max_size=200) | st.text(alphabet=PIECES, max_size=80))
@settings(max_examples=60, deadline=None)
def test_no_failure_pays_more_than_an_honest_wrong_answer(name, completion):
    """The reference is no part of anything drawn, so nothing here may be right; most of it cannot even be read."""
    reference, options = VERIFIERS[name]
    completion = completion.replace("Z", "")
    score = said(name, completion, reference=reference, options=options)
    if name == "rlsp_exploration":  # pays by length: compare with a wrong answer of the same length
        wrong = said(name, "." * max(0, len(completion) - 9) + r"\boxed{1}", reference=reference, options=options)
        assert score.value <= wrong.value
    else:
        assert score.value in (0.0, None)
    assert outcome_of(score) in (Outcome.WRONG, Outcome.UNPARSED, Outcome.TIMEOUT, Outcome.CRASHED)


FAILING = [
    *["", "<think>", r"\boxed{", r"\boxed{9^{9^{9^9}}}", "[" * 5000, "(" * 5000, "9" * 5000, "<answer>" * 500],
    *["```python\n", "```python\ndef f(): 1/0\n```", "```python\nimport os; os._exit(0)\n```"],
    *["\x00", "\ud800", "x" * 200_000],
]


@pytest.mark.parametrize("name", GRADERS)
@pytest.mark.parametrize("completion", FAILING, ids=lambda text: repr(text[:12]))
def test_hostile_answers_have_an_outcome_and_do_not_pay(name, completion):
    reference, options = VERIFIERS[name]
    start = time.monotonic()
    score = said(name, completion, reference=reference, options=options)
    assert time.monotonic() - start < 5.0
    assert outcome_of(score) not in (Outcome.RIGHT, Outcome.GOLD_ERROR)
    assert score.value is None or score.value <= 0.0


@pytest.mark.parametrize("kind", FaultKind)
def test_every_fault_has_one_of_the_six_outcomes(kind):
    named = {FaultKind.PARSE: "unparsed", FaultKind.TIMEOUT: "timeout", FaultKind.GOLD: "gold_error"}
    assert outcome_of(unscorable(kind, "x")) == named.get(kind, "crashed")
    assert [str(outcome) for outcome in Outcome] == ["right", "wrong", "unparsed", "timeout", "crashed", "gold_error"]


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_survives_as_a_score_and_only_right_pays(outcome):
    score = judged(outcome, "x", "why")
    assert outcome_of(score) is outcome
    assert score.value == {Outcome.RIGHT: 1.0, Outcome.GOLD_ERROR: None}.get(outcome, 0.0)


def test_rlsp_with_a_judge_of_effort_gives_its_authors_numbers():
    specs = [RewardSpec(name="rlsp_exploration", weight=0.8), RewardSpec(name="effort", weight=0.2)]
    effort = Score(value=0.6)
    as_part = {"effort": Part(effort, 0.6)}
    for length, answer, value in ((4000, "3", 0.12), (16000, "3", 0.72), (16000, "4", -0.08)):
        own = said("rlsp_exploration", "a" * length + rf"\boxed{{{answer}}}", reference="3")
        assert Blend(specs).score({"rlsp_exploration": Part(own, own.value), **as_part}).value == pytest.approx(value)


@needs_data
@pytest.mark.parametrize(
    ("file", "count"),
    [("medqa_test", 1273), pytest.param("medmcqa_validation", 4183, marks=pytest.mark.slow), ("mmlu_clinical", 1089)],
)
def test_every_gold_letter_of_the_medical_sets_is_right_in_every_frame(file, count):
    golds = [row["answer"] for row in rows(f"medqa/{file}.jsonl.gz")]
    assert len(golds) == count
    for frame, form in (("{letter}", "free"), ("The answer is ({letter}).", "free"), (MEDICAL, "think_answer")):
        pairs = [(gold, frame.format(letter=gold[0], text=gold)) for gold in golds]
        assert {score.value for score in graded("choice_letter", pairs, options={"form": form})} == {1.0}
    others = [(gold, f"<think>{gold}</think><answer>{'B' if gold[0] == 'A' else 'A'}</answer>") for gold in golds]
    assert {score.value for score in graded("choice_letter", others, options={"form": "think_answer"})} == {0.0}


MEDICAL = "<think>Is it {letter}, or another?</think>\n<answer>{text}</answer>"


def test_options_are_bound_and_checked():
    assert said("length_penalty", "x" * 18, options={"max_tokens": 20, "buffer": 4}).value == -0.5
    assert said("exact_match", "EVEN", reference="even", options={"ignore_case": True}).value == 1.0


@needs_data
@pytest.mark.parametrize("file", [pytest.param("gsm8k/train.jsonl.gz", marks=pytest.mark.slow), "gsm8k/test.jsonl.gz"])
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
