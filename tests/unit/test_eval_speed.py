"""Scoring the answers to whole test sets takes seconds, and real gold answers pass."""

import os
import time
from pathlib import Path

import pytest

from alignkit.evaluate.benchmark.answers import Answer
from alignkit.evaluate.benchmark.grade import grade
from alignkit.evaluate.benchmark.protocol import read_protocol
from alignkit.evaluate.benchmark.tasks import load_benchmark

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ALIGNKIT_DATA") or ROOT.parent / "shared" / "data")
pytestmark = pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no benchmark rows: set ALIGNKIT_DATA")


def answered(tasks, texts):
    return [
        [Answer(task_id=task.id, sample=0, token_ids=(), text=text, stop="end_of_text")]
        for task, text in zip(tasks, texts, strict=True)
    ]


def graded(name, text_of, tasks=None):
    """Outcomes of every task answered with text_of(task)."""
    named = read_protocol(name)
    tasks = load_benchmark(named, data=DATA, seed=0) if tasks is None else tasks
    done = grade(tasks, answered(tasks, map(text_of, tasks)), named.protocol.metrics, beside=named.file.parent)
    return [one.outcome for [one] in done]


@pytest.mark.slow
def test_1819_math_answers_are_scored_in_20_seconds_and_the_worked_solutions_are_right():
    begun = time.perf_counter()
    gsm8k = graded("math/gsm8k-chat", lambda task: task.reference)
    math500 = graded("math/math500-boxed", lambda task: f"So the answer is $\\boxed{{{task.reference}}}$.")
    took = time.perf_counter() - begun
    assert len(gsm8k) + len(math500) == 1819
    assert gsm8k.count("right") == 1319
    assert math500.count("right") == 500
    assert took < 20


@pytest.mark.slow
def test_wrong_math_answers_take_no_longer():
    named = read_protocol("math/math500-boxed")
    tasks = load_benchmark(named, data=DATA, seed=0)
    others = {task.id: other.reference for task, other in zip(tasks, [*tasks[1:], tasks[0]], strict=True)}
    begun = time.perf_counter()
    outcomes = graded("math/math500-boxed", lambda task: f"\\boxed{{{others[task.id]}}}", tasks)
    assert time.perf_counter() - begun < 20
    assert outcomes.count("right") < 20  # neighbours that happen to have the same answer


@pytest.mark.slow
def test_humaneval_and_mbpp_solutions_pass_their_own_tests_and_broken_ones_do_not():
    from alignkit.data.rows import read_rows

    rows = {f"humaneval/HumanEval/{row.columns['task_id']}": row.columns for row in
            read_rows(DATA / "humaneval/HumanEval.jsonl.gz")}  # fmt: skip
    right = graded("code/humaneval", lambda task: rows[task.id]["canonical_solution"])
    assert right.count("right") == 164
    tasks = load_benchmark(read_protocol("code/humaneval"), data=DATA, seed=0)[:20]
    assert "right" not in graded("code/humaneval", lambda task: "    return None\n", tasks)
    solutions = {f"mbpp/mbpp/{row.columns['task_id']}": row.columns["code"] for row in
                 read_rows(DATA / "mbpp/mbpp.jsonl.gz")}  # fmt: skip
    mbpp = load_benchmark(read_protocol("code/mbpp"), data=DATA, seed=0)[:100]
    assert graded("code/mbpp", lambda task: f"```python\n{solutions[task.id]}\n```", mbpp).count("right") == 100
