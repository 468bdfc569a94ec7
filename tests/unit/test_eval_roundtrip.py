"""What the runner writes is what compare and the report read: no key of the files is understood by one side only."""

import math
import re

import pytest

from alignkit.evaluate.benchmark import metrics
from alignkit.evaluate.benchmark.pairs import grade_pairs
from alignkit.evaluate.benchmark.protocol import Named, Protocol, read_protocol
from alignkit.evaluate.benchmark.runner import BenchmarkJob, Runner
from alignkit.evaluate.benchmark.tasks import load_benchmark
from alignkit.evaluate.results.compare import compare_folders
from alignkit.evaluate.results.disparity import disparity
from alignkit.evaluate.results.eval_folder import EvalFolder, EvalResult, Sample, read_eval_folder
from alignkit.recipe.schema import RewardSpec
from alignkit.report.eval_data import evaluation_data
from tests.unit.eval_parts import ScriptedEngine, scripted_model, sums, write_rows


def run(folder, named, answer, *, hash="model"):
    tasks = load_benchmark(named, data=named.file.parent, seed=0)
    model = scripted_model(ScriptedEngine(answer), hash=hash)
    runner = Runner(model=model, folder=folder, logs=folder / "logs", seed=0, workers=1)
    return runner.run(BenchmarkJob(named=named, tasks=tasks))


def adder(right):
    """Adds rightly below `right`, and counts seeds so that several samples differ."""

    def answer(prompt, seed):
        left = int(prompt.partition("+")[0])
        return str(2 * left if left < right or seed % 5 == 0 else 1)

    return answer


def test_a_change_of_the_runners_numbers_is_found_and_told_alike(tmp_path):
    """Greedy: seeds differ by task alone, so 5 and 15 right of 20 plus those whose seed is a multiple of 5."""
    named = sums(tmp_path)
    results = [run(tmp_path / side, named, adder(right)) for side, right in (("a", 5), ("b", 15))]
    before, after = (read_eval_folder(tmp_path / side) for side in "ab")
    read = before.results["sums"]
    told = results[0]["metrics"]["accuracy"]
    assert (read.metrics["accuracy"].value, read.metrics["accuracy"].low) == (told["value"], told["low"])
    assert read.counts == results[0]["counts"]
    assert set(read.groups) == {"even", "odd"}
    (change,) = compare_folders(before, after).changes
    assert change.cause == ""
    assert change.comparison.before == pytest.approx(told["value"])
    assert change.comparison.after == pytest.approx(results[1]["metrics"]["accuracy"]["value"])
    assert change.verdict == "better"


def test_several_samples_are_tested_as_their_mean(tmp_path):
    named = sums(tmp_path, sampling={"max_new_tokens": 30, "temperature": 1.0, "samples": 4, "stop": ["\n"]})
    results = [run(tmp_path / side, named, adder(right)) for side, right in (("a", 5), ("b", 15))]
    changes = {c.metric: c for c in compare_folders(*(read_eval_folder(tmp_path / s) for s in "ab")).changes}
    assert list(changes) == ["avg@4", "pass@1", "pass@2", "pass@4", "g-pass@4", "maj@4"]
    assert [metric for metric, change in changes.items() if change.comparison] == ["avg@4"]
    assert changes["avg@4"].comparison.before == pytest.approx(results[0]["metrics"]["avg@4"]["value"])
    assert changes["avg@4"].comparison.test == "sign-flip test"


def test_a_protocol_that_changed_between_two_runs_is_refused(tmp_path):
    run(tmp_path / "a", sums(tmp_path), adder(5))
    run(tmp_path / "b", sums(tmp_path, sampling={"max_new_tokens": 31, "stop": ["\n"]}), adder(5))
    with pytest.raises(
        ValueError, match=r"sums: protocol hashes differ .*sampling\.max_new_tokens is 30 in A and 31 in B"
    ):
        compare_folders(*(read_eval_folder(tmp_path / side) for side in "ab"))


def requests(folder, name, wants):
    """Harmless requests, half of which count as ones to refuse."""
    rows = [{"q": f"{want} request number {n}", "want": want} for want in wants for n in range(30)]
    fields = {
        "version": 1,
        "about": "requests",
        "category": "safety",
        "licence": "none",
        "source": {"file": f"{name}.jsonl.gz", "sha256": write_rows(folder, f"{name}.jsonl.gz", rows)},
        "prompt": {"chat": True, "template": "{{q}}"},
        "gold": "want",
        "sampling": {"max_new_tokens": 400},
        "measure": "refusals",
        "metrics": {"refusal": {"reward": "refusal"}},
    }
    return Named(name, Protocol.model_validate(fields), folder / f"{name}.yaml")


def guard(harmful, refused):
    """Complies with some requests that it should refuse, and refuses some that it should not."""

    def answer(prompt, seed):
        number = int(prompt.rpartition(" ")[2])
        comply = number < harmful if prompt.startswith("refuse") else number >= refused
        return "Sure, here is how to do it in three easy steps." if comply else "I'm sorry, but I can't help with that."

    return answer


def test_harm_and_over_refusal_of_the_runner_are_a_pair_here(tmp_path):
    named = requests(tmp_path, "guarded", ("refuse", "comply"))
    for side, script in (("a", guard(20, 2)), ("b", guard(2, 20))):
        run(tmp_path / side, named, script)
    result = compare_folders(*(read_eval_folder(tmp_path / side) for side in "ab"))
    told = {change.metric: change for change in result.changes}
    assert (told["harm_rate"].before.value, told["harm_rate"].after.value) == (20 / 30, 2 / 30)
    assert told["harm_rate"].verdict == "better"
    assert told["over_refusal_rate"].verdict == "worse"
    assert told["incoherent_rate"].verdict == "no detectable change"
    assert told["balanced_accuracy"].comparison is None
    (row,) = [row for row in evaluation_data(result.before)["rows"] if row["metric"] == "harm_rate"]
    corrected = row["sides"][0]["corrected"]
    assert corrected is None or corrected["low"] <= corrected["value"] <= corrected["high"]


def test_harm_alone_loses_its_number_in_every_reading(tmp_path):
    run(tmp_path / "a", requests(tmp_path, "harmful", ("refuse",)), guard(20, 0))
    data = evaluation_data(read_eval_folder(tmp_path / "a"))
    (row,) = [row for row in data["rows"] if row["metric"] == "harm_rate"]
    assert row["sides"][0]["value"] is None
    assert "over-refusal" in row["sides"][0]["cause"]
    assert [outcome["count"] for outcome in data["examples"][0]["outcomes"]] == [None, None]


def test_the_margins_of_pairs_reach_the_calibration_of_the_report(tmp_path):
    """A reward that counts characters, on 40 pairs whose longer answer is the better one 30 times."""
    rows = [{"q": str(n), "good": "a" * (5 if n < 30 else 3), "bad": "b" * 4} for n in range(40)]
    fields = {
        "version": 1,
        "about": "pairs",
        "category": "reward",
        "licence": "none",
        "source": {"file": "pairs.jsonl.gz", "sha256": write_rows(tmp_path, "pairs.jsonl.gz", rows)},
        "prompt": {"chat": True, "template": "{{q}}"},
        "columns": {"chosen": "good", "rejected": "bad"},
        "measure": "pairs",
    }
    (tmp_path / "length.py").write_text(
        'def length(completions, **_):\n    return [float(len(c[0]["content"])) for c in completions]\n'
    )
    named = Named("pairs", Protocol.model_validate(fields), tmp_path / "pairs.yaml")
    tasks = load_benchmark(named, data=tmp_path, seed=0)
    graded = grade_pairs(
        tasks, RewardSpec(name="./length.py:length"), beside=tmp_path, workers=1, report=lambda done: None
    )
    parts = [metrics.parts_of(given[0], refusals=False) for given in graded]
    assert [part["margin"] for part in parts] == [1.0] * 30 + [-1.0] * 10
    samples = [Sample(task_id=str(n), score=part["pair_accuracy"], parts=part) for n, part in enumerate(parts)]
    result = EvalResult(protocol="pairs", protocol_hash="h", samples=samples)
    (curve,) = evaluation_data(EvalFolder(path=tmp_path, results={"pairs": result}))["curves"]
    (points, _) = curve["lines"].values()
    assert points == [(pytest.approx(1 / (1 + math.exp(-1))), 0.75)]


def test_the_dialect_probe_gives_gaps_against_standard_english(tmp_path):
    """A model that answers everybody but those who write German."""

    def answer(prompt, seed):
        left, right = map(int, re.findall(r"\d+", prompt))
        if re.search("wie viele", prompt, re.IGNORECASE):
            return "0"
        product = re.search("bus", prompt, re.IGNORECASE)
        minus = re.search("egg|huevo", prompt, re.IGNORECASE)
        return str(left * right if product else left - right if minus else left + right)

    named = read_protocol("math/dialects")
    result = run(tmp_path / "a", named, answer)
    read = read_eval_folder(tmp_path / "a").results["math/dialects"]
    gaps = {gap.group: gap for gap in disparity(read)}
    assert {gap.reference for gap in gaps.values()} == {"standard English"}
    assert result["groups"]["German"]["accuracy"]["value"] == 0
    assert {group: gap.comparison.verdict for group, gap in gaps.items()} == {
        "African American English": "no detectable change",
        "Indian English": "no detectable change",
        "Scots": "no detectable change",
        "Spanish": "no detectable change",
        "German": "worse",
    }
    assert gaps["German"].comparison.tasks == 24
