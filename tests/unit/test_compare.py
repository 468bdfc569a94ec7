"""Comparing two eval folders: refusals that name the field, paired tests with Holm, harm only beside over-refusal."""

import copy
import json

import numpy as np
import pytest

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.protocol import NOT_HASHED, protocol_hash, read_protocol
from alignkit.evaluate.results.before_after import adjust, compare
from alignkit.evaluate.results.compare import check_comparable, compare_folders, first_difference
from alignkit.evaluate.results.eval_folder import (
    EvalFolder,
    EvalResult,
    MetricResult,
    Sample,
    is_eval_folder,
    lower_is_better,
    read_eval_folder,
    task_values,
)
from alignkit.evaluate.results.safety_pair import SafetyPair, correction, safety_pairs, visible_metrics
from tests.eval_folders import FIELDS, answer, rate, right_answers, write_result, write_safety


def folders(tmp_path, before, after):
    sides = [write_result(tmp_path / name, "gsm8k", rows) for name, rows in (("a", before), ("b", after))]
    return [read_eval_folder(side) for side in sides]


def test_a_folder_is_read_as_it_was_written(tmp_path):
    rows = [answer("1", 1.0, parts={"answer": "4"}), answer("2", None, stop="length", completion="")]
    write_result(tmp_path / "math", "gsm8k", rows, groups={"hard": {"accuracy": rate([1.0, 0.0])}})
    result = read_eval_folder(tmp_path).results["gsm8k"]
    assert is_eval_folder(tmp_path)
    assert (result.model, result.model_hash, result.engine) == ("base", "hash-of-base", "hf")
    assert result.counts == {"samples": 2, "tasks": 2, "truncated": 1, "unparsed": 1, "failed": 0, "empty": 1}
    assert result.share("truncated") == 0.5
    assert result.metrics["accuracy"].value == 1.0
    assert result.groups["hard"]["accuracy"].value == 0.5
    assert [sample.score for sample in result.samples] == [1.0, None]
    assert result.samples[0].parts == {"answer": "4"}


def test_what_cannot_be_read_is_named_and_the_rest_is_read(tmp_path):
    write_result(tmp_path, "gsm8k", right_answers(3, 1))
    write_result(tmp_path, "svamp", right_answers(3, 1))
    (tmp_path / "svamp" / "samples.parquet").write_bytes(b"PAR1 no parquet")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text('{"protocol": "x"')
    folder = read_eval_folder(tmp_path)
    assert list(folder.results) == ["gsm8k", "svamp"]
    assert folder.results["svamp"].samples == []
    assert [line.split(" cannot")[0] for line in folder.missing] == ["svamp/samples.parquet", "torn/result.json"]


def test_folders_without_results_are_one_line(tmp_path):
    for path, words in ((tmp_path / "no", "no such eval folder"), (tmp_path, "holds no result.json")):
        with pytest.raises(DataError, match=words):
            read_eval_folder(path)
    for suite in ("a", "b"):
        write_result(tmp_path / suite, "gsm8k", right_answers(2, 1))
    with pytest.raises(DataError, match="two results of gsm8k"):
        read_eval_folder(tmp_path)


def test_ten_gained_answers_are_better_with_mcnemars_p(tmp_path):
    """40 tasks, 10 right before, 20 after, all of them gained: p = 2 / 2^10."""
    result = compare_folders(*folders(tmp_path, right_answers(40, 10), right_answers(40, 20)))
    (change,) = result.changes
    assert change.comparison.p_value == 2 / 2**10
    assert change.comparison.adjusted == 2 / 2**10
    assert (change.verdict, change.comparison.difference) == ("better", 0.25)
    assert "exact McNemar test p = 0.002, p = 0.002 by Holm" in change.comparison.sentence


def test_holm_takes_back_a_verdict_that_only_one_test_would_give(tmp_path):
    """6 gained of 6 differing: p = 2/64 = 0.031 alone; as one of 2 tests 0.0625, so no detectable change."""
    for side, right in (("a", 6), ("b", 12)):
        write_result(tmp_path / side, "gsm8k", right_answers(30, right))
        write_result(tmp_path / side, "svamp", right_answers(30, 15))
    result = compare_folders(*(read_eval_folder(tmp_path / side) for side in ("a", "b")))
    first = result.changes[0].comparison
    assert (first.p_value, first.adjusted) == (2 / 64, 4 / 64)
    assert [change.verdict for change in result.changes] == ["no detectable change"] * 2
    assert "tasks show differences from about" in first.sentence
    alone = compare_folders(result.before, result.after, only=["gsm8k"])
    assert [change.verdict for change in alone.changes] == ["better"]
    assert alone.changes[0].comparison.detectable < first.detectable


def test_a_family_detects_less_than_one_test():
    """Two tests: z of 0.9875 instead of 0.975, (2.2414 + 0.8416) / (1.9600 + 0.8416) = 1.1004 times as much."""
    one = compare([True, False] * 15, [True, False] * 15)
    family = adjust([one, one], lower_is_better=[False, False])
    assert family[0].detectable / one.detectable == pytest.approx(1.1004, abs=1e-4)


def test_less_harm_is_better_and_more_over_refusal_is_worse(tmp_path):
    write_safety(tmp_path / "a", 60, 30, 2)
    write_safety(tmp_path / "b", 60, 5, 40)
    result = compare_folders(*(read_eval_folder(tmp_path / side) for side in ("a", "b")))
    assert {change.metric: change.verdict for change in result.changes} == {
        "harm_rate": "better",
        "over_refusal_rate": "worse",
    }


def test_direction_follows_from_the_name():
    worse_when_high = [
        "harm_rate",
        "attack_success_rate",
        "over_refusal_rate",
        "toxicity",
        "ece",
        "truncated_frac",
        "kl",
        "incoherent_rate",
    ]
    assert all(lower_is_better(name) for name in worse_when_high)
    assert not any(
        lower_is_better(name)
        for name in [
            "accuracy",
            "strict",
            "harmless_winrate",
            "pass@8",
            "balanced_accuracy",
            "precision",
            "terror_recall",
        ]
    )


CHANGES = [
    (["version"], 2, "version is 1 in A and 2 in B"),
    (["prompt", "chat"], False, "prompt.chat is True in A and False in B"),
    (["prompt", "template"], "Q: {{ question }}", "prompt.template is '{{ question }}' in A and 'Q: "),
    (["prompt", "system"], "Be brief.", "prompt.system is absent in A and 'Be brief.' in B"),
    (["sampling", "max_new_tokens"], 512, "sampling.max_new_tokens is 256 in A and 512 in B"),
    (["sampling", "temperature"], 0.7, "sampling.temperature is 0.0 in A and 0.7 in B"),
    (["sampling", "stop"], ["\n\n"], "sampling.stop.1 is 'Question:' in A and absent in B"),
    (["metrics", "accuracy", "reward"], "mine", "metrics.accuracy.reward is 'verifiable/math_answer' in A and 'mine'"),
]


@pytest.mark.parametrize(("path", "value", "words"), CHANGES)
def test_different_protocols_are_refused_and_the_setting_is_named(tmp_path, path, value, words):
    fields = copy.deepcopy(FIELDS)
    place = fields
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    write_result(tmp_path / "a", "gsm8k", right_answers(4, 2))
    write_result(tmp_path / "b", "gsm8k", right_answers(4, 2), fields=fields, protocol_hash="f" * 16)
    with pytest.raises(DataError, match="gsm8k: protocol hashes differ") as error:
        compare_folders(*(read_eval_folder(tmp_path / side) for side in ("a", "b")))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def leaves(value, path=()):
    """(path, value) of everything in nested settings that is no list and no mapping."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path, value


def test_every_setting_of_a_shipped_protocol_is_named_when_it_alone_differs(tmp_path):
    """Each leaf of GSM8K's protocol changed by itself; `about`, licence and published numbers may differ."""
    named = read_protocol("math/gsm8k-cot")
    base = EvalResult(protocol="gsm8k", protocol_hash=named.hash, protocol_fields=named.fields)
    changed = 0
    for path, value in leaves(named.fields):
        fields = copy.deepcopy(named.fields) | {"about": "other words", "licence": "other"}
        place = fields
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = f"{value}, changed"
        other = EvalResult(protocol="gsm8k", protocol_hash=protocol_hash(fields), protocol_fields=fields)
        if path[0] in NOT_HASHED:
            check_comparable(base, other)
            continue
        with pytest.raises(DataError) as error:
            check_comparable(base, other)
        assert f": {'.'.join(map(str, path))} is " in str(error.value)
        changed += 1
    assert changed >= 30


def test_a_different_scorer_is_refused(tmp_path):
    write_result(tmp_path / "a", "gsm8k", right_answers(4, 2))
    write_result(tmp_path / "b", "gsm8k", right_answers(4, 2), scorers=[{"name": "math_answer", "hash": "bbbb"}])
    with pytest.raises(DataError, match="scorer math_answer has hash 'aaaa' in A and 'bbbb' in B"):
        compare_folders(*(read_eval_folder(tmp_path / side) for side in ("a", "b")))


def test_numbers_and_truth_values_are_different_settings():
    assert first_difference({"a": 1}, {"a": True}) == ("a", "1", "True")
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) is None
    assert first_difference({"a": "x" * 100}, {"a": 1})[1] == "'" + "x" * 39 + "..." + "x" * 14 + "'"


def test_folders_that_share_nothing_are_refused(tmp_path):
    write_result(tmp_path / "a", "gsm8k", right_answers(4, 2))
    write_result(tmp_path / "b", "svamp", right_answers(4, 2))
    sides = [read_eval_folder(tmp_path / side) for side in ("a", "b")]
    with pytest.raises(DataError, match="no protocol in common; they hold gsm8k and svamp"):
        compare_folders(*sides)
    with pytest.raises(DataError, match="no result of svamp on both sides"):
        compare_folders(sides[0], sides[0], only=["svamp"])


def test_unscored_answers_leave_their_task_and_are_counted(tmp_path):
    before = [answer("1", 1.0), answer("2", None), answer("3", 0.0)]
    after = [answer("1", 1.0), answer("2", 1.0), answer("3", 1.0), answer("4", 1.0)]
    result = compare_folders(*folders(tmp_path, before, after))
    (change,) = result.changes
    assert (change.comparison.tasks, change.left_out) == (2, 2)
    assert "gsm8k: 33.3% of the answers held no answer that could be read in A" in result.notes


def test_truncated_answers_and_equal_models_are_told(tmp_path):
    rows = [answer(str(index), 0.0, stop="length" if index < 3 else "end_of_text") for index in range(100)]
    notes = compare_folders(*folders(tmp_path, rows, right_answers(100, 5))).notes
    assert "gsm8k: 3.0% of the answers were cut by the length limit in A" in notes
    assert any("both sides are the same model" in note for note in notes)


def test_different_engines_are_told(tmp_path):
    write_result(tmp_path / "a", "gsm8k", right_answers(4, 2), engine="vllm bfloat16")
    write_result(tmp_path / "b", "gsm8k", right_answers(4, 2), engine="hf float32", model="tuned")
    notes = compare_folders(*(read_eval_folder(tmp_path / side) for side in ("a", "b"))).notes
    assert notes == ["gsm8k: measured on vllm bfloat16 in A and on hf float32 in B"]


def test_several_samples_are_compared_by_task(tmp_path):
    """avg@4 and pass@2: per-task values. 1 of 4 right gives pass@2 = 1 - C(3,2)/C(4,2) = 1/2."""
    rows = [answer(str(task), float(k == 0), sample=k) for task in range(3) for k in range(4)]
    metrics = {name: rate([row["score"] for row in rows]) for name in ("avg@4", "pass@2", "maj@4")}
    write_result(tmp_path, "aime", rows, metrics=metrics)
    result = read_eval_folder(tmp_path).results["aime"]
    assert task_values(result, "avg@4") == {"0": 0.25, "1": 0.25, "2": 0.25}
    assert task_values(result, "pass@2") == {"0": 0.5, "1": 0.5, "2": 0.5}
    assert task_values(result, "pass@8") == {}
    assert task_values(result, "maj@4") is None
    changes = compare_folders(read_eval_folder(tmp_path), read_eval_folder(tmp_path)).changes
    same = "the same answers as avg@k, which is tested"
    assert [change.cause for change in changes] == ["", same, same]


def test_metrics_told_in_parts_are_tested_one_by_one(tmp_path):
    rows = [answer(str(i), 1.0, parts={"strict": float(i < 2), "flexible": True, "answer": "7"}) for i in range(4)]
    write_result(tmp_path, "gsm8k", rows, metrics={"strict": rate([1.0]), "flexible": rate([1.0])})
    result = read_eval_folder(tmp_path).results["gsm8k"]
    assert task_values(result, "strict") == {"0": 1.0, "1": 1.0, "2": 0.0, "3": 0.0}
    assert task_values(result, "flexible") == {str(i): 1.0 for i in range(4)}
    assert task_values(result, "answer") == {}


def test_a_number_that_no_sample_tells_is_not_tested_with_another(tmp_path):
    """balanced_accuracy belongs to no sample."""
    numbers = ("harm_rate", "over_refusal_rate", "balanced_accuracy")
    write_safety(tmp_path, 10, 4, 1, metrics={name: rate([1.0]) for name in numbers})
    result = read_eval_folder(tmp_path).results["xstest"]
    assert task_values(result, "balanced_accuracy") is None
    assert len(task_values(result, "harm_rate")) == len(task_values(result, "over_refusal_rate")) == 10


def harm(value=0.2):
    return MetricResult(value=value, low=0.1, high=0.3, n=200)


def test_a_harm_rate_is_never_shown_without_an_over_refusal_rate():
    alone = [EvalResult(protocol="harmbench", protocol_hash="h", metrics={"harm_rate": harm()})]
    ((_, name, metric),) = visible_metrics(alone)
    assert (name, metric.value, metric.low) == ("harm_rate", None, None)
    assert "no over-refusal rate" in metric.cause
    assert safety_pairs(alone) == []
    missing = MetricResult(value=None, cause="no safe prompt was answered")
    unanswered = [*alone, EvalResult(protocol="xstest", protocol_hash="h", metrics={"over_refusal_rate": missing})]
    assert all(metric.value is None for _, _, metric in visible_metrics(unanswered))
    with pytest.raises(DataError, match="shown with an over-refusal rate or not at all"):
        SafetyPair(protocol="p", metric="harm", harm=harm(), over_refusal=missing, over_refusal_protocol="q")


def test_harm_is_shown_with_the_over_refusal_of_its_own_protocol_first():
    own = EvalResult(protocol="xstest", protocol_hash="h", metrics={"harm_rate": harm(), "over_refusal": harm(0.05)})
    other = EvalResult(protocol="harmbench", protocol_hash="h", metrics={"attack_success_rate": harm(0.4)})
    pairs = safety_pairs(
        [other, EvalResult(protocol="or", protocol_hash="h", metrics={"over_refusal": harm(0.9)}), own]
    )
    assert [(pair.protocol, pair.over_refusal_protocol) for pair in pairs] == [
        ("harmbench", "or"),
        ("xstest", "xstest"),
    ]
    assert pairs[1].sentence == "harm 20.0% (10.0% to 30.0%), over-refusal 5.0% (10.0% to 30.0%) (xstest)"


def test_a_comparison_leaves_out_harm_when_one_side_has_no_over_refusal(tmp_path):
    write_safety(tmp_path / "a", 20, 5, 2)
    write_safety(tmp_path / "b", 20, 5, 2, metrics={"harm_rate": rate([1.0])})
    result = compare_folders(*(read_eval_folder(tmp_path / side) for side in ("a", "b")))
    assert [change.metric for change in result.changes] == []
    assert any("its harm rate is not shown" in note for note in result.notes)


def test_a_scorers_known_errors_correct_its_rate():
    """Sensitivity 0.8, specificity 0.9: 0.31 seen is 0.3; another metric of the result is left alone."""
    known = {"true_positive": 80, "false_negative": 20, "false_positive": 10, "true_negative": 90, "metrics": ["rate"]}
    result = EvalResult(protocol="p", protocol_hash="h", scorers=[{"name": "s", "hash": "h", "known_error": known}])
    assert correction(result, "rate", MetricResult(value=0.31, n=100))["value"] == pytest.approx(0.3)
    assert correction(result, "other", MetricResult(value=0.31, n=100)) is None
    assert correction(result, "rate", MetricResult(value=None, n=0)) is None
    recorded = MetricResult(value=0.31, n=100, corrected={"value": 0.29, "low": 0.2, "high": 0.4})
    assert correction(result, "rate", recorded)["value"] == 0.29


def suite_of(random, chances, samples):
    results = {}
    for name, chance in chances.items():
        drawn = random.random((len(chance), samples)) < chance[:, None]
        rows = [
            Sample(task_id=str(i), sample=k, score=float(drawn[i, k]))
            for i in range(len(chance))
            for k in range(samples)
        ]
        metrics = {"accuracy": MetricResult(value=float(drawn.mean()))}
        results[name] = EvalResult(protocol=name, protocol_hash="h", metrics=metrics, samples=rows)
    return EvalFolder(path=None, results=results)


THOUSAND = pytest.mark.slow


@pytest.mark.parametrize(
    ("samples", "suites"),
    [(1, 300), (4, 100), pytest.param(1, 1000, marks=THOUSAND), pytest.param(4, 1000, marks=THOUSAND)],
)
def test_equal_models_get_a_false_verdict_in_at_most_6_of_100_suites(samples, suites):
    """Three benchmarks of 60 tasks each; any verdict on any of them counts as a false alarm."""
    random = np.random.default_rng(23 + samples)
    alarms = 0
    for _ in range(suites):
        chances = {name: random.beta(1, 1, size=60) for name in ("a", "b", "c")}
        result = compare_folders(*(suite_of(random, chances, samples) for _ in range(2)))
        alarms += any(change.verdict != "no detectable change" for change in result.changes)
    assert alarms <= 0.06 * suites


def test_the_same_folders_give_the_same_comparison(tmp_path):
    sides = folders(tmp_path, right_answers(50, 20), right_answers(50, 28))
    assert compare_folders(*sides) == compare_folders(*sides)
    assert json.dumps(compare_folders(*sides).changes[0].comparison.sentence)
