"""The HTML report: right numbers, inert model text, and a page for every broken folder; charts as pure functions."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import DataError
from alignkit.report import chart
from alignkit.report.html import shown, write_report
from alignkit.report.run_data import flipped, health_summary, read_run, status, total_steps
from alignkit.run_folder.light import Light
from alignkit.run_folder.run_folder import RunFolder
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task
from tests.pace import takes_at_most

HOSTILE = '</pre><script>alert(1)</script><img src="http://evil/x" onerror=alert(1)>{{ 7*7 }}{% raw %}&#60;\x00\x1b[31m'
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects tags, attributes and visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def page(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    parsed = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name in ("src", "href")]
    assert "default-src 'none'" in text
    return parsed


def rollout(text, value, member=0):
    task = Task(id="add-4", text="2+2?")
    turn = Turn(
        prompt_ids=(1,), completion_ids=(2, 3), sampler_logprobs=(-0.1, -0.1), stop=StopReason.LENGTH, text=text
    )
    fault = Fault(kind=FaultKind.TIMEOUT, where="exact", message=HOSTILE) if value is None else None
    score = Score(value=value, parts={"exact": value}, fault=fault)
    return Rollout(task=task, group=0, member=member, turns=(turn,), policy_version=0, score=score)


def answers(count, right, text="4"):
    return [{"task_id": f"held-{index}", "correct": index < right, "text": text} for index in range(count)]


def whole_run(path, steps=30):
    folder = RunFolder(path, clock=lambda: 1_700_000_000.0)
    folder.recipe({"model": {"path": "tiny", "revision": None}, "stages": [{"train": {"steps": 40}}]})
    folder.started()
    folder.evaluation(0, answers(40, 4), truncated_frac=0.1)
    for step in range(steps):
        folder.metrics(
            step,
            {
                "reward/mean": step / 100,
                "loss/policy": 0.5,
                "optim/grad_norm": 1.0 + step,
                "time/sample_s": 3.0,
                "time/update_s": 7.0,
                "time/step_s": 10.0,
                "rollout/tokens": 100,
                "policy/kl_reference": None,
            },
        )
    folder.lights(7, [Light(name="truncation", level="warn", sentence="60% were cut", advice="raise the limit")])
    folder.rollouts(0, [rollout("early", 0.5)])
    last = [rollout(f"completion number {value}", value / 10, member=value) for value in range(9)]
    folder.rollouts(29, [*last, rollout("", None)])
    folder.evaluation(30, answers(40, 30))
    folder.event("end", reason="finished")
    return path


def test_the_report_of_a_whole_run_says_its_numbers(tmp_path):
    text = page(whole_run(tmp_path / "quickstart")).text
    assert "better: 0.100 -> 0.750 on 40 tasks (+0.650, 95 % interval" in text
    assert "0.040 to 0.231" in text  # Wilson of 4 / 40
    assert "10.0% of the answers before were cut by the length limit" in text
    assert "26 became right , 0 became wrong" in text
    assert "30 of 40" in text
    assert "0.000 → 0.290" in text
    assert "5 min 00 s" in text  # 30 steps of 10 s
    assert "60% were cut" in text
    assert "raise the limit" in text
    assert "completion number 8" in text
    assert "completion number 0" in text
    assert "completion number 4" not in text  # neither among the 3 best nor the 3 worst
    assert "timeout in exact" in text
    assert "reward/mean: 0 → 0.29, between 0 and 0.29" in text
    assert "time/update_s: mean 7.0 s" in text
    assert "2023-11-14 22:13:20 UTC" in text
    assert '"revision": null' in text
    assert "What is missing here" not in text


def test_hostile_text_is_shown_and_does_nothing(tmp_path):
    """In prompts, completions, faults, answers, recipe, events, stage, task ids and the folder's name."""
    folder = RunFolder(tmp_path / "<script>alert(2)<&script>")
    folder.recipe({"model": {"path": HOSTILE}, HOSTILE: HOSTILE})
    folder.event("start", text=HOSTILE, versions={HOSTILE: HOSTILE})
    folder.event("health", step=0, name=HOSTILE, level=HOSTILE, sentence=HOSTILE, advice=HOSTILE)
    folder.metrics(0, {"reward/mean": 0.1, f"user/{HOSTILE.replace('/', '')}": 1.0})
    folder.rollouts(0, [rollout(HOSTILE, 1.0), rollout(HOSTILE, None)])
    folder.evaluation(0, [{"task_id": HOSTILE, "correct": False, "text": HOSTILE}], stage=HOSTILE)
    folder.evaluation(1, [{"task_id": HOSTILE, "correct": True, "text": HOSTILE}], stage=HOSTILE)
    parsed = page(folder.path)
    assert "<script>alert(1)</script>" in parsed.text
    assert "{{ 7*7 }}" in parsed.text
    assert "\x1b" not in parsed.text
    assert "\x00" not in (folder.path / "report.html").read_text()


def test_an_empty_folder_gives_a_report_that_says_what_is_missing(tmp_path):
    text = page(tmp_path).text
    for sentence in (
        "recipe.resolved.json is missing",
        "metrics.jsonl is missing: no step was finished",
        "events.jsonl is missing",
        "before/after: 0 of the 2 evaluations",
        "completions: rollouts/ holds no file",
        "No step was finished, so there is nothing to draw.",
        "unknown: it recorded no start",
    ):
        assert sentence in text


def test_a_run_that_crashed_at_step_0_still_shows_its_beginning(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.recipe({"stages": [{"train": {"steps": 40}}]})
    folder.started()
    folder.evaluation(0, answers(10, 1))
    text = page(folder.path).text
    assert "has not ended: still running, or killed" in text
    assert "before/after: 1 of the 2 evaluations" in text
    assert "0 of 40" in text


def test_a_damaged_folder_is_shown_as_far_as_it_can_be_read(tmp_path):
    path = whole_run(tmp_path / "run")
    (path / "recipe.resolved.json").write_text('{"seed": ')
    (path / "rollouts" / "main-000029.parquet").write_bytes(b"PAR1 not parquet")
    (path / "evaluations" / "main-000030.json").write_text('{"results": 3}')
    with (path / "metrics.jsonl").open("a") as file:
        file.write('nonsense\n{"step": "x"}\n{"step": 30, "reward/mean": "NaN", "loss/policy": {}}\n{"torn')
    text = page(path).text
    assert "recipe.resolved.json cannot be read" in text
    assert "rollouts/main-000029.parquet cannot be read" in text
    assert "metrics.jsonl: 1 lines cannot be read and were skipped" in text
    assert "early" in text
    assert "0.000 → 0.290" in text


def test_evaluations_without_common_tasks_are_not_compared(tmp_path):
    folder = RunFolder(tmp_path)
    folder.evaluation(0, answers(5, 1))
    folder.evaluation(1, [{"task_id": "other", "correct": True, "text": ""}])
    text = page(tmp_path).text
    assert "share no scored task" in text
    assert "No comparison" in text


def test_a_hundred_thousand_steps_and_huge_completions_stay_small_and_fast(tmp_path):
    folder = RunFolder(tmp_path)
    lines = [
        json.dumps({"stage": "main", "step": step, "reward/mean": step % 7, "optim/grad_norm": 1.0, "time/update_s": 1})
        for step in range(100_000)
    ]
    lines[70_123] = json.dumps({"stage": "main", "step": 70_123, "reward/mean": 5000.0, "time/update_s": 1})
    folder.metrics_file.write_text("\n".join(lines) + "\n")
    folder.rollouts(0, [rollout("x" * 3_000_000, 1.0)])
    pages: list[Page] = []
    assert takes_at_most(20, lambda: pages.append(page(tmp_path)))
    parsed = pages[-1]
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    assert "2,998,000 characters left out" in parsed.text
    assert "between 0 and 5k" in parsed.text or "between 0 and 5000" in parsed.text


def test_a_missing_folder_is_an_error_in_one_line(tmp_path):
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


def test_shown_keeps_the_ends_of_a_long_text_and_counts_the_rest():
    text = shown("a" * 1600 + "b" * 100 + "c" * 400)
    assert text == "a" * 1600 + "\n[... 100 characters left out ...]\n" + "c" * 400
    assert shown("a\tb\r\nc\x07\u202e") == "a\tb\nc��"


def test_the_health_table_counts_each_step_once_and_keeps_the_worst_level():
    """Step 4 was done twice, because the run was resumed there."""
    steps = [(3, "warn"), (4, "warn"), (4, "warn"), (9, "stop")]
    events = [{"kind": "health", "name": "signal", "level": level, "step": step} for step, level in steps]
    events.append({"kind": "health", "name": "entropy", "level": "warn", "step": 5})
    first, second = health_summary(events)
    assert (first["name"], first["level"], first["count"], first["first"], first["last"]) == ("signal", "stop", 3, 3, 9)
    assert second["name"] == "entropy"


def test_a_run_that_was_resumed_after_its_end_is_open_again():
    events = [{"kind": "start"}, {"kind": "end", "reason": "SIGTERM"}]
    assert status(events, done=3, total=5) == "SIGTERM"
    events += [{"kind": "resume"}, {"kind": "health"}]
    assert status(events, done=3, total=5) == "has not ended: still running, or killed"
    assert status(events, done=5, total=5) == "finished"


def test_flips_pair_first_answers():
    rows = [("a", False), ("a", True), ("b", True), ("c", None)]
    before = {"results": [{"task_id": task, "correct": correct, "text": "old"} for task, correct in rows]}
    after = {"results": [{"task_id": task, "correct": task == "a", "text": "new"} for task in "abc"]}
    assert flipped(before, after) == {
        "gained": [{"task_id": "a", "before": "old", "after": "new"}],
        "lost": [{"task_id": "b", "before": "old", "after": "new"}],
    }


def test_total_steps_add_up_over_stages_or_are_unknown(tmp_path):
    assert total_steps({"stages": [{"train": {"steps": 3}}, {"train": {"steps": 4}}]}) == 7
    assert total_steps({"stages": [{}]}) is None
    assert read_run(tmp_path).recipe == {}


def test_a_line_maps_its_ends_to_the_corners_of_the_plot():
    """Steps 0..10 and values 0..1, padded by 6 % of the range: 0 lies 0.06 / 1.12 above the bottom."""
    svg = chart.line_chart({"a": [(0, 0.0), (10, 1.0)]}, title="t")
    height = chart.HEIGHT - chart.TOP - chart.BOTTOM
    low = chart.HEIGHT - chart.BOTTOM - height * 0.06 / 1.12
    high = chart.TOP + height * 0.06 / 1.12
    right = chart.WIDTH - chart.RIGHT
    assert f'points="{chart.LEFT:.1f},{low:.1f} {right:.1f},{high:.1f}"' in svg


def test_a_logarithmic_axis_puts_powers_of_ten_at_equal_distances():
    frame = chart.Frame(0, 1, 0.0, 2.0, log=True)
    assert frame.y(1) - frame.y(10) == pytest.approx(frame.y(10) - frame.y(100))
    assert "log" not in chart.line_chart({"a": [(0, 0.0), (1, 10.0)]}, title="t", log=True)  # 0 has no logarithm


def test_an_axis_of_fractions_has_ticks_and_steps_have_whole_ones():
    fractions = chart.line_chart({"a": [(0.5, 0.5), (0.93, 0.9)]}, title="t")
    assert ">0.6</text>" in fractions
    assert "<title>0.93: a 0.9</title>" in fractions
    steps = chart.line_chart({"a": [(0, 2.0), (2, 4.0)]}, title="t")
    assert ">1</text>" in steps
    assert not re.search(r'text-anchor="middle">[0-9]\.[0-9]', steps)
    assert "<title>step 2: a 4</title>" in steps


def test_stacked_layers_add_up():
    """3 s and 7 s: the upper band's top is at 10 of 10.5, its bottom at 3 of 10.5."""
    svg = chart.stacked_chart({"a": [(0, 3.0), (1, 3.0)], "b": [(0, 7.0), (1, 7.0)]}, title="t")
    height, floor = chart.HEIGHT - chart.TOP - chart.BOTTOM, chart.HEIGHT - chart.BOTTOM
    top, middle = floor - height * 10 / 10.5, floor - height * 3 / 10.5
    left, right = chart.LEFT, chart.WIDTH - chart.RIGHT
    corners = f"{left:.1f},{top:.1f} {right:.1f},{top:.1f} {right:.1f},{middle:.1f} {left:.1f},{middle:.1f}"
    assert corners in svg


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000))
def test_thinning_keeps_order_and_extremes(values):
    points = list(enumerate(values))
    thinned = chart.thin(points)
    assert len(thinned) <= 2 * chart.BUCKETS
    assert [step for step, _ in thinned] == sorted(step for step, _ in thinned)
    assert min(thinned, key=lambda point: point[1])[1] == min(values)
    assert max(thinned, key=lambda point: point[1])[1] == max(values)


SERIES = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=50).map(lambda v: list(enumerate(v)))


@given(st.dictionaries(st.text(max_size=8), SERIES, max_size=3), st.booleans())
def test_any_finite_series_gives_balanced_svg_without_nan(lines, log):
    for svg in (chart.line_chart(lines, title="<t>", log=log), chart.stacked_chart(lines, title="<t>")):
        Page(svg)
        assert not re.search(r"\b(nan|inf)\b", re.sub(r"<title>.*?</title>", "", svg, flags=re.DOTALL))


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_ticks_are_round_few_and_inside(low, span):
    ticks = chart.nice_ticks(low, low + span)
    assert len(ticks) <= 12
    if span > 1e-6 * max(1.0, abs(low)):
        assert len(ticks) >= 2
        assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_numbers_on_axes_are_short():
    numbers = [0, 0.123456, 12_345, 1e-6, math.inf, 2.5e9]
    assert [chart.short_number(number) for number in numbers] == ["0", "0.1235", "12.35k", "1e-06", "inf", "2.5e+09"]


def test_the_running_mean_of_a_step_rises_over_its_window():
    """30 points: the window is max(3, 30 // 15) = 3."""
    points = [(step, float(step >= 20)) for step in range(30)]
    means = [value for _, value in chart.running_mean(points) or []]
    assert means[18:24] == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])
    assert chart.running_mean(points[:19]) is None
