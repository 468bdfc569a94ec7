"""The three displays, rendered to recorded consoles; model text must not be able to break any of them."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from alignkit.report.clean_text import one_line
from alignkit.report.terminal import (
    JsonDisplay,
    PanelDisplay,
    PlainDisplay,
    duration,
    open_display,
    pick_samples,
    spark_line,
    step_line,
)
from alignkit.run_folder.light import Light
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task

HOSTILE = [
    "[red]not markup[/red] [/] [link=file:///etc/passwd]x[/link]",
    "\x1b[2J\x1b[H\x1b]0;title\x07 cleared",
    "\x9b31m c1 escape",
    "\u202e reversed \u2066 isolate",
    "شكرا جزيلا 12",
    "e" + "\u0301" * 500,
    "漢字" * 300,
    "a\r\nb\rc\u2028d\ttab\x00\x08\x7f",
    "\ud83d half a pair",
    "👩‍👩‍👧‍👦" * 50,
    "",
]


def rollout(text, value=1.0, prompt="What is 2 + 2?"):
    turn = Turn(prompt_ids=(1,), completion_ids=(2,), sampler_logprobs=(-0.1,), stop=StopReason.LENGTH, text=text)
    fault = Fault(kind=FaultKind.PARSE, where="exact") if value is None else None
    score = Score(value=value, parts={"[bold]exact": value}, fault=fault)
    return Rollout(task=Task(id="t", text=prompt), group=0, member=0, turns=(turn,), policy_version=0, score=score)


def panel(width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    seconds = iter(range(0, 1000, 10))  # ten seconds pass between any two looks at the clock
    return PanelDisplay(console, clock=lambda: float(next(seconds)))


def shown(display, width=100):
    """The panel as plain text, without the codes that colour it."""
    console = Console(file=io.StringIO(), width=width, color_system=None, record=True)
    console.print(display.render())
    return console.export_text()


def test_the_panel_shows_step_rewards_phases_lights_and_samples():
    display = panel()
    display.start(40, "quickstart")
    for step in range(3):
        record = {"step": step, "reward/mean": 0.1 + 0.2 * step, "time/sample_s": 4.1, "time/update_s": 70.0}
        warning = Light(name="signal", level="warn", sentence="all rewards equal", advice="take easier tasks")
        lights = [warning, Light(name="canary", level="ok", sentence="close")]
        display.step(record, [rollout("4"), rollout("5", 0.0)], lights)
    display.message("evaluated 30 tasks")
    text = shown(display)
    display.close()
    assert "step 3/40" in text
    assert "10.0 s a step, about 6 min 10 s left" in text  # 37 steps of 10 s
    assert "reward 0.100 -> 0.500  ▁" in text
    assert "sample 4.1 s  update 1 min 10 s" in text
    assert "▲ signal" in text
    assert "all rewards equal; take easier tasks" in text
    assert "1.000" in text
    assert "evaluated 30 tasks" in text


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("width", [40, 100])
def test_hostile_text_stays_inside_its_cell(hostile, width):
    display = panel(width)
    display.start(2, hostile)
    display.step({"step": 0, "reward/mean": 0.5}, [rollout(hostile, prompt=hostile), rollout(hostile, 0.0)])
    display.message(hostile)
    text = shown(display, width)
    display.close()
    lines = text.rstrip("\n").split("\n")
    assert {cell_len(line) for line in lines} == {width}
    assert lines[0][0] == "╭"
    assert all(line[0] == "│" and line[-1] == "│" for line in lines[1:-1])
    assert not set(text) & set("\x00\x07\x08\x1b\x7f\x9b\r\u202e\u2066")


def test_markup_in_a_completion_is_shown_as_it_was_written():
    display = panel()
    display.start(1, "run")
    display.step({"step": 0}, [rollout("[red]4[/red]")])
    assert "[red]4[/red]" in shown(display)
    display.close()


@given(st.text(max_size=300))
def test_one_line_never_leaves_a_control_character(text):
    cleaned = one_line(text, limit=100)
    assert len(cleaned) <= 101
    assert cleaned.isprintable() or all(c.isprintable() or c.isspace() for c in cleaned)
    assert not set(cleaned) & set("\n\r\x1b\u202e\u2028")


def test_one_line_names_what_it_replaced():
    assert one_line("a\r\nb\tc\x1b[1m") == "a⏎b c�[1m"
    assert one_line("e\u0301\u0301\u0301\u0301") == "e\u0301\u0301"
    assert one_line("abcdef", limit=3) == "abc…"


def test_plain_lines_carry_the_numbers_and_the_warnings():
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.start(10, "quickstart", done=4)
    record = {"step": 4, "reward/mean": 0.25, "rollout/truncated_frac": 0.125, "loss/policy": None, "time/step_s": 33.1}
    display.step(record, lights=[Light(name="signal", level="stop", sentence="dead", advice="harder tasks")])
    display.message("two\nlines")
    display.close()
    display.message("after the end")
    assert stream.getvalue().splitlines() == [
        "quickstart: 10 steps, 4 already done",
        "step 5/10  reward 0.250  truncated 12%  time 33.1 s",
        "  stop: signal: dead; harder tasks",
        "two⏎lines",
    ]


def test_json_lines_are_strict_and_complete():
    stream = io.StringIO()
    display = JsonDisplay(stream)
    display.start(2, 'a "title"')
    display.step({"step": 0, "reward/mean": float("nan")}, lights=[Light(name="x", level="warn", sentence="s")])
    display.message("line\nbreak")
    display.close()
    display.close()
    events = [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["start", "step", "message", "end"]
    assert events[1]["reward/mean"] == "NaN"
    assert events[1]["lights"] == [{"name": "x", "level": "warn", "sentence": "s", "advice": ""}]


def test_a_closed_pipe_does_not_end_the_run():
    class Closed(io.StringIO):
        tries = 0

        def flush(self):
            self.tries += 1
            raise BrokenPipeError

    for make in (PlainDisplay, JsonDisplay):
        stream = Closed()
        display = make(stream)
        display.start(1, "run")
        display.step({"step": 0})
        display.close()
        assert stream.tries > 0, "nothing was said, so nothing was survived"


def test_text_that_the_terminal_cannot_encode_is_replaced():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    PlainDisplay(stream).message("Grüße 漢字")
    assert stream.buffer.getvalue() == b"Gr??e ??\n"


def test_the_display_is_chosen_by_the_stream():
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    class OldTerminal(Terminal):
        encoding = "latin-1"

    assert isinstance(open_display(stream=io.StringIO()), PlainDisplay)
    assert isinstance(open_display(stream=OldTerminal()), PlainDisplay)
    assert isinstance(open_display(stream=Terminal()), PanelDisplay)
    assert isinstance(open_display(json=True, stream=Terminal()), JsonDisplay)


def test_samples_are_the_best_the_middle_and_the_worst():
    rollouts = [rollout(f"{value}", value) for value in (0.3, None, 0.9, 0.1, 0.5, 0.7)]
    assert [sample.text for sample in pick_samples(rollouts)] == ["0.9", "0.5", "0.1"]
    assert pick_samples(rollouts[1:2]) == rollouts[1:2]


def test_the_spark_line_scales_from_lowest_to_highest():
    """Eight levels over 0..7: the value is the level."""
    assert spark_line([0, 7, 3, 4]) == "▁█▄▅"
    assert spark_line([2, 2]) == "▁▁"
    assert spark_line([]) == ""
    assert len(spark_line(range(1000), width=40)) == 40


def test_durations_and_step_lines_read_well():
    assert [duration(seconds) for seconds in (9.54, 250, 7500)] == ["9.5 s", "4 min 10 s", "2 h 05 min"]
    assert step_line({"step": 0}, 3) == "step 1/3"
