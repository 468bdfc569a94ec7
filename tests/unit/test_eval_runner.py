"""The runner: nothing asked twice, nothing scored by accident, the same numbers in any order and any cut."""

import asyncio
import json
import random
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import EngineError
from alignkit.evaluate.benchmark import answers, metrics
from alignkit.evaluate.benchmark.answers import AnswerLog, collect_answers
from alignkit.evaluate.benchmark.protocol import Sampling
from alignkit.evaluate.benchmark.runner import BenchmarkJob, Runner
from alignkit.evaluate.benchmark.tasks import choose, cut, load_benchmark
from alignkit.types.task import Task
from tests.unit.eval_parts import ScriptedEngine, scripted_model, sums

UNTIMED = ("seconds", "started")


def right(prompt, seed):
    return str(2 * int(prompt.partition("+")[0]))


def often_right(prompt, seed):
    return right(prompt, seed) if seed % 3 else "I do not know"


def run(folder: Path, engine, named, *, limit=None, seed=0, control=None, model=None):
    tasks = choose(load_benchmark(named, data=named.file.parent, seed=seed), limit, seed)
    runner = Runner(
        model=model or scripted_model(engine), folder=folder / "out", logs=folder / "logs", seed=seed, workers=1
    )
    return runner.run(BenchmarkJob(named=named, tasks=tasks, limit=limit), control)


def samples(folder: Path, name="sums"):
    return pyarrow.parquet.read_table(folder / "out" / name / "samples.parquet").to_pylist()


def timeless(result):
    return {name: value for name, value in result.items() if name not in UNTIMED}


def test_a_result_has_its_numbers_its_counts_and_where_they_come_from(tmp_path):
    def answer(prompt, seed):
        left = int(prompt.partition("+")[0])
        if left < 5:
            return right(prompt, seed) + "\nQ: what else?"
        return {5: "", 6: "no idea", 7: "14" + " indeed" * 40}.get(left, "1")

    named = sums(tmp_path)
    result = run(tmp_path, ScriptedEngine(answer), named)
    assert result["metrics"]["accuracy"] == pytest.approx(
        {"value": 0.3, "low": 0.14547720, "high": 0.51897282, "n": 20, "unit": "share"}
    )
    assert result["counts"] == {"samples": 20, "tasks": 20, "truncated": 1, "unparsed": 2, "failed": 0, "empty": 1}
    assert result["groups"]["even"]["accuracy"]["value"] == 0.3
    assert result["protocol_hash"] == named.hash
    assert result["protocol_fields"] == named.fields
    assert result["scorers"][0]["name"] == "accuracy: final_number"
    rows = samples(tmp_path)
    assert [row["outcome"] for row in rows[:8]] == ["right"] * 5 + ["unparsed", "unparsed", "right"]
    assert rows[3] | {"parts": json.loads(rows[3]["parts"])} == {
        "task_id": "sums/3", "category": "odd", "prompt": "3+3=", "completion": "6", "stop": "stop_text",
        "outcome": "right", "sample": 0, "tokens": 16, "score": 1.0, "parts": {"accuracy": 1.0, "answer": "6"},
    }  # fmt: skip
    assert rows[7]["stop"] == "length"


def test_an_engine_that_dies_half_way_leaves_what_it_answered_and_no_prompt_is_generated_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "BLOCK", 4)
    named = sums(tmp_path)
    whole = run(tmp_path / "whole", ScriptedEngine(often_right), named)
    asked = []
    for dies_after in (3, 4, 11):  # in the first block, after it, in the third of what is left
        engine = ScriptedEngine(often_right, dies_after=dies_after)
        with pytest.raises(EngineError, match="it died"):
            run(tmp_path / "torn", engine, named)
        asked += engine.asked
        assert not (tmp_path / "torn" / "out").exists()
    engine = ScriptedEngine(often_right)
    result = run(tmp_path / "torn", engine, named)
    asked += engine.asked
    assert len(asked) == len(set(asked)) == 20
    assert timeless(result) == timeless(whole)
    assert samples(tmp_path / "torn") == samples(tmp_path / "whole")


def test_a_log_cut_at_any_byte_gives_the_same_result(tmp_path):
    named = sums(tmp_path, count=6)
    whole = run(tmp_path / "whole", ScriptedEngine(often_right), named)
    [log] = (tmp_path / "whole" / "logs").iterdir()
    data = log.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    middles = [(begin + end) // 2 for begin, end in zip([0, *ends], ends, strict=False)]
    for end in sorted({0, 1, *middles, *(end - 1 for end in ends), *ends, *(end + 1 for end in ends[:-1])}):
        folder = tmp_path / str(end)
        (folder / "logs").mkdir(parents=True)
        (folder / "logs" / log.name).write_bytes(data[:end])
        engine = ScriptedEngine(often_right)
        assert timeless(run(folder, engine, named)) == timeless(whole)
        assert len(engine.asked) == 6 - data[:end].count(b"\n")


def test_the_second_run_asks_nothing_and_a_change_of_seed_model_or_protocol_asks_all(tmp_path):
    named = sums(tmp_path)
    first = run(tmp_path, ScriptedEngine(right), named)
    engine = ScriptedEngine(right)
    again = run(tmp_path, engine, named)
    assert again.pop("cached")
    assert (engine.asked, again) == ([], first)
    for change in (
        {"seed": 1},
        {"model": scripted_model(ScriptedEngine(right), hash="other")},
        {"named": sums(tmp_path, sampling={"max_new_tokens": 29})},
    ):
        model = change.pop("model", None)
        engine = model.engine if model else ScriptedEngine(right)
        run(tmp_path, engine, change.pop("named", named), model=model, **change)
        assert len(engine.asked) == 20, change


def test_a_changed_scorer_grades_anew_what_was_answered_before(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(completion, task):\n    return 1.0\n")
    named = sums(tmp_path, metrics={"accuracy": {"reward": "./mine.py:mine"}})
    assert run(tmp_path, ScriptedEngine(right), named)["metrics"]["accuracy"]["value"] == 1
    (tmp_path / "mine.py").write_text("def mine(completion, task):\n    return 0.0\n")
    engine = ScriptedEngine(right)
    assert run(tmp_path, engine, named)["metrics"]["accuracy"]["value"] == 0
    assert not engine.asked


def test_a_larger_limit_keeps_the_answers_of_the_smaller_one(tmp_path):
    named = sums(tmp_path)
    few = run(tmp_path, ScriptedEngine(right), named, limit=5)
    engine = ScriptedEngine(right)
    more = run(tmp_path, engine, named, limit=12)
    assert (few["counts"]["tasks"], more["counts"]["tasks"], len(engine.asked)) == (5, 12, 7)


@settings(max_examples=25)
@given(order=st.randoms(use_true_random=False), block=st.sampled_from([1, 7, 64]), seed=st.integers(0, 5))
def test_answers_depend_neither_on_the_order_of_tasks_nor_on_the_cut_into_calls(tmp_path_factory, order, block, seed):
    tasks = [Task(id=str(number), text=f"{number}+{number}=") for number in range(23)]
    shuffled = tasks.copy()
    order.shuffle(shuffled)
    sampling = Sampling(max_new_tokens=9, temperature=1.0, samples=2)

    def collected(tasks, size):
        answers.BLOCK = size
        log = AnswerLog(tmp_path_factory.mktemp("log") / "log.jsonl")
        model = scripted_model(ScriptedEngine(lambda prompt, seed: f"{prompt}{seed}"))
        return asyncio.run(collect_answers(model, tasks, sampling, log, seed=seed, report=lambda done: None))

    try:
        plain = {given[0].task_id: given for given in collected(tasks, 128)}
        other = {given[0].task_id: given for given in collected(shuffled, block)}
    finally:
        answers.BLOCK = 128
    assert plain == other
    assert all(one.token_ids != two.token_ids for one, two in plain.values()) or seed < 0


def test_workers_change_no_score(tmp_path):
    named = sums(tmp_path)
    tasks = load_benchmark(named, data=tmp_path, seed=0)
    results = []
    for workers in (1, 2, 4):
        model = scripted_model(ScriptedEngine(often_right))
        folder = tmp_path / str(workers)
        runner = Runner(model=model, folder=folder / "out", logs=folder / "logs", seed=0, workers=workers)
        results.append(timeless(runner.run(BenchmarkJob(named=named, tasks=tasks))))
    assert results[0] == results[1] == results[2]


def test_a_prompt_that_fills_the_context_fails_and_is_no_wrong_answer(tmp_path):
    named = sums(tmp_path)  # prompts of 4 characters for 0 to 9, of 6 for the others
    result = run(tmp_path, None, named, model=scripted_model(ScriptedEngine(right), context=6))
    assert result["counts"]["failed"] == 10
    assert (result["metrics"]["accuracy"]["value"], result["metrics"]["accuracy"]["n"]) == (1.0, 10)
    failed = [row for row in samples(tmp_path) if row["outcome"] == "failed"]
    assert len(failed) == 10
    assert all(row["score"] is None and row["stop"] == "no_room" for row in failed)


@pytest.mark.parametrize(
    ("body", "outcome", "value"),
    [
        ("return None", "unscored", None),
        ("raise ValueError", "crashed", None),
        ("import os; os._exit(1)", "crashed", None),
        ("while True: pass", "timeout", None),
        ("return float('nan')", "unscored", None),
        ("return 0.25", "scored", 0.25),
    ],
)
def test_a_scorer_that_fails_is_named_counted_and_scores_nothing(tmp_path, body, outcome, value):
    (tmp_path / "mine.py").write_text(f"def mine(completion, task):\n    {body}\n")
    metric = {"reward": "./mine.py:mine", "deadline_s": 0.3}
    result = run(tmp_path, ScriptedEngine(right), sums(tmp_path, count=2, metrics={"accuracy": metric}))
    assert result["metrics"]["accuracy"]["value"] == value
    assert result["counts"]["failed"] == (2 if value is None else 0)
    assert {(row["outcome"], row["score"]) for row in samples(tmp_path)} == {(outcome, value)}
    if value is None:
        assert result["metrics"]["accuracy"]["cause"] == "no answer could be graded"


def test_several_samples_give_avg_pass_and_majority(tmp_path):
    def answer(prompt, seed):  # answers "2n" or "2n.0" for even n, which are one answer; for odd n always another
        left = int(prompt.partition("+")[0])
        return str(random.Random(seed).randrange(10**6)) if left % 2 else f"{2 * left}{'.0' * (seed % 2)}"

    sampling = {"max_new_tokens": 30, "samples": 4, "temperature": 1.0}
    result = run(tmp_path, ScriptedEngine(answer), sums(tmp_path, sampling=sampling))
    told = {name: number["value"] for name, number in result["metrics"].items()}
    assert told == {"avg@4": 0.5, "pass@1": 0.5, "pass@2": 0.5, "pass@4": 0.5, "g-pass@4": 0.5, "maj@4": 0.5}
    assert result["counts"]["samples"] == 80
    low, high = result["metrics"]["avg@4"]["low"], result["metrics"]["avg@4"]["high"]
    assert low < 0.32
    assert high > 0.68  # as wide as for 20 tasks: four equal samples tell no more than one


def refusals(folder, **changes):
    fields = {
        "category": "safety",
        "measure": "refusals",
        "gold": "'refuse' if kind == 'odd' else 'comply'",
        "metrics": {"refusal": {"reward": "refusal"}},
        "sampling": {"max_new_tokens": 400},
        **changes,
    }
    return sums(folder, **fields)


def test_refusals_are_told_by_what_the_prompt_wants_and_incoherence_counts_for_neither(tmp_path):
    said = {
        0: "It is 0, of course.",
        2: "I'm sorry, but I can't help with that.",
        4: "",
        6: "Sure: 12.",
        8: "The answer is 16.",
        1: "I cannot provide help with this request.",
        3: "Sure, here is how:\n1. Take 3.\n2. Take 3 again.",
        5: "I'm sorry, I can't assist with that request.",
        7: "yes yes yes " * 30,
        9: "I won't help with that.",
    }
    result = run(tmp_path, ScriptedEngine(lambda prompt, seed: said[int(prompt[0])]), refusals(tmp_path, count=10))
    told = {name: (number["value"], number["n"]) for name, number in result["metrics"].items()}
    assert told == {
        "harm_rate": (0.25, 4),
        "over_refusal_rate": (0.25, 4),
        "balanced_accuracy": (0.75, 8),
        "incoherent_rate": (0.2, 10),
    }
    outcomes = {int(row["prompt"][0]): row for row in samples(tmp_path)}
    assert (outcomes[4]["outcome"], outcomes[7]["outcome"]) == ("incoherent", "incoherent")
    assert outcomes[4]["score"] is outcomes[7]["score"] is None
    assert json.loads(outcomes[3]["parts"])["harm_rate"] == 1
    assert json.loads(outcomes[2]["parts"])["over_refusal_rate"] == 1
    assert "harm_rate" not in json.loads(outcomes[4]["parts"])
    [scorer] = result["scorers"]
    assert scorer["known_error"]["metrics"] == ["over_refusal_rate"]
    assert (
        0 <= result["metrics"]["harm_rate"]["corrected"]["low"] <= result["metrics"]["harm_rate"]["corrected"]["high"]
    )


def test_a_scorer_that_tells_no_classes_gives_no_rates(tmp_path):
    named = refusals(tmp_path, metrics={"refusal": {"reward": "exact_match"}})
    result = run(tmp_path, ScriptedEngine(right), named)
    assert all(result["metrics"][name]["value"] is None for name in ("harm_rate", "over_refusal_rate"))
    assert {row["outcome"] for row in samples(tmp_path)} == {"unscored"}


def test_a_harm_rate_is_never_told_without_an_over_refusal_rate(tmp_path):
    named = refusals(tmp_path, gold="'refuse'", control="safety/xstest")
    alone = run(tmp_path / "alone", ScriptedEngine(right), named)
    assert alone["metrics"]["harm_rate"]["value"] is None
    assert "no over-refusal rate" in alone["metrics"]["harm_rate"]["cause"]
    uncontrolled = run(tmp_path / "uncontrolled", ScriptedEngine(right), refusals(tmp_path, gold="'refuse'"))
    assert uncontrolled["metrics"]["harm_rate"]["value"] is None
    silent = {"protocol": "safety/xstest", "metrics": {"over_refusal_rate": metrics.absent("nothing")}}
    assert (
        run(tmp_path / "silent", ScriptedEngine(right), named, control=silent)["metrics"]["harm_rate"]["value"] is None
    )
    control = {
        "protocol": "safety/xstest",
        "metrics": {"over_refusal_rate": metrics.rate(5, 250, cause="")},
        "key": "k",
    }
    beside = run(tmp_path / "beside", ScriptedEngine(right), named, control=control)["metrics"]["harm_rate"]
    assert beside["value"] == 1
    assert (beside["over_refusal"]["value"], beside["over_refusal"]["protocol"]) == (0.02, "safety/xstest")


def test_choices_are_picked_by_likelihood_and_by_likelihood_per_character(tmp_path):
    # the scripted log-prob of a character is -(code % 7): 'a' -6, 'b' 0, 'c' -1, a space -4
    fields = {
        "measure": "choices",
        "prompt": {"chat": False, "template": "{{q}}"},
        "gold": "1",
        "columns": {"choices": "['c', 'bca', 'b']"},
        "metrics": {},
        "sampling": None,
    }
    engine = ScriptedEngine(right)
    result = run(tmp_path, engine, sums(tmp_path, count=3, **fields))
    # sums: ' c' -5, ' bca' -11, ' b' -4; per character: -5, -11/3, -4
    assert {name: number["value"] for name, number in result["metrics"].items()} == {"acc": 0.0, "acc_norm": 1.0}
    assert engine.asked[0] == ("0+0= c", None)
    assert samples(tmp_path)[0]["completion"] == "b"
    labelled = sums(tmp_path, count=3, **{**fields, "gold": "[1, 0, 0]"})
    import math

    share = math.exp(-5) / (math.exp(-5) + math.exp(-11) + math.exp(-4))
    assert run(tmp_path, ScriptedEngine(right), labelled)["metrics"]["mc2"]["value"] == pytest.approx(share, abs=1e-12)


@given(st.text(alphabet="ab\n", max_size=12))
def test_a_cut_is_before_the_first_stop_text(text):
    stop = ("\n", "ab")
    places = [place for place in range(len(text)) if any(text.startswith(mark, place) for mark in stop)]
    assert cut(text, stop) == (text[: places[0]] if places else text)
