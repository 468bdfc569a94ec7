"""The code reward on the canonical, empty and wrong solutions of HumanEval and MBPP."""

import gzip
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from alignkit.rewards.pool.lift import find_reward
from alignkit.sandbox.isolation import available
from alignkit.types.task import Task

DATA = Path(os.environ.get("ALIGNKIT_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason="no HumanEval rows: set ALIGNKIT_DATA")
needs_walls = pytest.mark.skipif(not available().is_enough, reason=f"nothing to lock programs in with: {available()}")


def rows(file):
    return [json.loads(line) for line in gzip.open(DATA / file, "rt", encoding="utf-8")]


def humaneval():
    """(task, canonical completion, wrong completions) of each row; answers as continuations and as fenced files."""
    for number, row in enumerate(rows("humaneval/HumanEval.jsonl.gz")):
        fenced = number % 2 == 1
        text = f"Complete it:\n\n{row['prompt']}" if fenced else row["prompt"]
        right = f"```python\n{row['prompt']}{row['canonical_solution']}```" if fenced else row["canonical_solution"]
        yield (
            Task(id=row["task_id"], text=text, columns=row),
            right,
            ("    pass\n", "    return None\n", "    return 0\n"),
        )


def mbpp():
    for row in rows("mbpp/mbpp.jsonl.gz"):
        empty = re.sub(r"(?m)^(def \w+\(.*?\)):.*", r"\1: pass", row["code"].split("\n    ")[0])
        name = re.findall(r"^def (\w+)", row["code"], re.M)[-1]
        wrong = (f"def {name}(*a, **k): pass", f"def {name}(*a, **k): return a[0]", empty)
        yield Task(id=str(row["task_id"]), text=row["prompt"], columns=row), f"```python\n{row['code']}\n```", wrong[:2]


def grade(pairs):
    reward = find_reward("code", {"timeout_s": 20.0})
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda pair: reward.function(pair[1], pair[0], **reward.options), pairs))


@needs_data
@needs_walls
@pytest.mark.slow
def test_all_canonical_solutions_of_humaneval_and_mbpp_pass():
    pairs = [(task, right) for task, right, _ in [*humaneval(), *mbpp()]]
    assert len(pairs) == 164 + 399
    start = time.monotonic()
    scores = grade(pairs)
    print(f"\n{len(pairs) / (time.monotonic() - start):.1f} programs/s, {time.monotonic() - start:.0f} s in all")
    assert [task.id for (task, _), score in zip(pairs, scores, strict=True) if score.value != 1.0] == []


@needs_data
@needs_walls
@pytest.mark.slow
def test_empty_and_wrong_bodies_fail():
    """One wrong body for each row, drawn by seed. Which rows a constant satisfies is written down here."""
    rng = Random(0)
    pairs = [(task, rng.choice(wrong)) for task, _, wrong in [*humaneval(), *mbpp()]]
    scores = grade(pairs)
    passed = {task.id for (task, _), score in zip(pairs, scores, strict=True) if score.value != 0.0}
    assert passed == {"404"}  # the smaller of two numbers: in all of its tests that is the first


@needs_data
@needs_walls
def test_a_sample_of_humaneval_and_mbpp_by_seed():
    sample = Random(0).sample([*humaneval(), *mbpp()], 24)
    scores = grade([(task, right) for task, right, _ in sample] + [(task, wrong[0]) for task, _, wrong in sample])
    assert [score.value for score in scores] == [1.0] * 24 + [0.0] * 24
