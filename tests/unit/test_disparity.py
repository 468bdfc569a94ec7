"""Differences between groups that were asked the same: pairing, Holm, and what is no comparison at all."""

from alignkit.evaluate.results.disparity import disparity
from alignkit.evaluate.results.eval_folder import EvalFolder, EvalResult, MetricResult, Sample
from alignkit.report.eval_data import evaluation_data
from alignkit.report.eval_html import render


def result(**right):
    """Groups of 30 items; the first `right` of them are answered right, in the words of the group."""
    samples = [
        Sample(
            task_id=f"generator:dialects/{group}:{item}", category=group, score=float(item < count), completion="a b"
        )
        for group, count in right.items()
        for item in range(30)
    ]
    return EvalResult(
        protocol="dialects", protocol_hash="h", metrics={"accuracy": MetricResult(value=0.5)}, samples=samples
    )


def test_a_group_that_is_answered_worse_is_named():
    """12 items right for the first group only: p = 2 / 2^12, times 2 groups by Holm."""
    gaps = {gap.group: gap for gap in disparity(result(standard=24, scots=12, german=23))}
    assert list(gaps) == ["scots", "german"]
    assert gaps["scots"].comparison.p_value == 2 / 2**12
    assert gaps["scots"].comparison.adjusted == 4 / 2**12
    assert (gaps["scots"].comparison.verdict, gaps["scots"].comparison.difference) == ("worse", -0.4)
    assert gaps["german"].comparison.verdict == "no detectable change"
    assert gaps["german"].length == 1.0


def test_the_reference_group_can_be_chosen():
    (gap,) = disparity(result(standard=24, scots=12), reference="scots")
    assert (gap.group, gap.reference, gap.comparison.verdict) == ("standard", "scots", "better")


def test_groups_that_were_asked_different_things_are_not_compared():
    told = result(algebra=10, geometry=20)
    moved = [Sample(task_id=f"{s.task_id}{s.category[0]}", category=s.category, score=s.score) for s in told.samples]
    assert disparity(EvalResult(protocol="p", protocol_hash="h", samples=moved)) == []
    assert disparity(result(only=3)) == []
    assert disparity(result(standard=3, scots=3), reference="klingon") == []


def test_items_that_only_one_group_was_asked_are_left_out():
    told = result(standard=30, scots=30)
    kept = [s for s in told.samples if not s.task_id.endswith("scots:0")]
    (gap,) = disparity(EvalResult(protocol="p", protocol_hash="h", samples=kept))
    assert gap.comparison.tasks == 29


def test_items_without_a_score_are_left_out():
    told = result(standard=30, scots=30)
    samples = [
        Sample(task_id=s.task_id, category=s.category, score=None if s.task_id.endswith("7") else 1.0)
        for s in told.samples
    ]
    (gap,) = disparity(EvalResult(protocol="p", protocol_hash="h", samples=samples))
    assert gap.comparison.tasks == 27
    assert gap.length is None
    nothing = [Sample(task_id=s.task_id, category=s.category) for s in told.samples]
    assert disparity(EvalResult(protocol="p", protocol_hash="h", samples=nothing)) == []


def test_the_report_shows_the_gaps(tmp_path):
    page = render(evaluation_data(EvalFolder(path=tmp_path, results={"dialects": result(standard=24, scots=12)})))
    assert "Differences between groups: dialects" in page
    assert '<td class="verdict-cell worse">worse</td>' in page
