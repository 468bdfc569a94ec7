"""Watching a run in the terminal: a live panel, plain lines where there is no terminal, or JSON lines for programs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from alignkit.report.clean_text import one_line
from alignkit.run_folder import json_lines
from alignkit.run_folder.light import Light
from alignkit.types.rollout import Rollout
from alignkit.types.task import message_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

PHASES = ("sample", "score", "logprobs", "update", "sync")
SPARKS = "▁▂▃▄▅▆▇█"
SAMPLES_SHOWN, TURNS_SHOWN = 3, 6
TURN_NUMBERS = ("reward", "q", "v", "advantage")
FIELDS = (
    ("reward", "reward/mean", "{:.3f}"),
    ("loss", "loss/policy", "{:.4g}"),
    ("loss", "loss/reward", "{:.4g}"),
    ("right pairs", "pairs/accuracy", "{:.0%}"),
    ("length", "rollout/length_mean", "{:.1f}"),
    ("truncated", "rollout/truncated_frac", "{:.0%}"),
    ("time", "time/step_s", "{:.1f} s"),
)

Conversation = Sequence[Mapping[str, Any]]
"""An episode's turns as the column `turns` of the rollouts' table has them."""
Record = Mapping[str, Any]
"""One line of metrics.jsonl: `step` (from 0), `stage`, and metrics by name; a metric may be missing or None."""


class Display(Protocol):
    def start(self, total: int, title: str, *, done: int = 0) -> None:
        """Before the first step; total: steps of the run; done: steps already behind it (after a resume)."""
        ...

    def step(
        self,
        record: Record,
        samples: Sequence[Rollout] = (),
        lights: Sequence[Light] = (),
        turns: Sequence[Conversation] = (),
    ) -> None:
        """After a step. turns: of each sample that is an episode its turns, as the rollouts' table has them."""
        ...

    def message(self, text: str) -> None:
        """One line about something else: an evaluation, a checkpoint, a fallback."""
        ...

    def close(self) -> None:
        """Leaves the last state on the screen. May be called twice, and after an exception."""
        ...


def open_display(*, json: bool = False, stream: TextIO | None = None) -> Display:
    """JSON lines when asked for, the panel on a UTF-8 terminal, else plain lines."""
    stream = stream or sys.stdout
    if stream is None:  # the process was started with its standard output closed
        return PlainDisplay(None)
    if json:
        return JsonDisplay(stream)
    if stream.isatty() and "utf" in (stream.encoding or "").lower():
        from rich.console import Console

        return PanelDisplay(Console(file=stream))
    return PlainDisplay(stream)


def pick_samples(rollouts: Sequence[Rollout], count: int = SAMPLES_SHOWN) -> list[Rollout]:
    """The best, the worst and the middle scored rollout (with more: evenly spread over the ranks), best first."""
    scored = [
        (rollout.score.value, rollout)
        for rollout in rollouts
        if rollout.score is not None and rollout.score.value is not None
    ]
    ranked = [rollout for _, rollout in sorted(scored, key=lambda pair: -pair[0])]
    if len(ranked) <= count:
        return ranked or list(rollouts[:count])
    if count == 1:
        return ranked[:1]
    return [ranked[round(index * (len(ranked) - 1) / (count - 1))] for index in range(count)]


def spark_line(values: Sequence[float], *, width: int = 40) -> str:
    """The last `width` values as block characters, scaled from their smallest to their largest."""
    shown = list(values)[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((value - low) * scale)] for value in shown)


def duration(seconds: float) -> str:
    """Seconds for people: 9.5 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def step_line(record: Record, total: int) -> str:
    """One step as one plain ASCII line; a metric that is missing is left out."""
    return "  ".join([f"step {record['step'] + 1}/{total}", *_told(record, FIELDS)])


def _told(record: Record, fields: Sequence[tuple[str, str, str]]) -> list[str]:
    return [f"{label} {form.format(record[name])}" for label, name, form in fields if record.get(name) is not None]


class _Lines:
    """Writes lines until they reach nobody any more: a closed pipe or a full disk must not end a run."""

    def __init__(self, stream: TextIO | None):
        self.stream = stream
        self.open = stream is not None

    def write(self, line: str) -> None:
        if self.stream is None or not self.open:
            return
        encoding = self.stream.encoding or "utf-8"
        try:
            self.stream.write(line.encode(encoding, errors="replace").decode(encoding) + "\n")
            self.stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self.open = False


REPEAT = 20  # steps


class PlainDisplay:
    """One line per step; a warning that stays on is repeated every REPEAT steps."""

    def __init__(self, stream: TextIO | None):
        self.lines = _Lines(stream)
        self.total = 0
        self.steps = 0
        self.warned: dict[str, int] = {}

    def start(self, total: int, title: str, *, done: int = 0) -> None:
        self.total = total
        self.lines.write(f"{one_line(title)}: {total} steps" + (f", {done} already done" if done else ""))

    def step(
        self,
        record: Record,
        samples: Sequence[Rollout] = (),
        lights: Sequence[Light] = (),
        turns: Sequence[Conversation] = (),
    ) -> None:
        self.lines.write(step_line(record, self.total))
        self.steps += 1
        for light in lights:
            due = self.steps - self.warned.get(light.name, -REPEAT) >= REPEAT
            if light.level == "stop" or (light.level == "warn" and due):
                self.warned[light.name] = self.steps
                self.lines.write(f"  {light.level}: {light.name}: {light.sentence}; {light.advice}")

    def message(self, text: str) -> None:
        self.lines.write(one_line(text))

    def close(self) -> None:
        self.lines.open = False


class JsonDisplay:
    """One JSON object per line: start, step, message, end."""

    def __init__(self, stream: TextIO):
        self.lines = _Lines(stream)

    def start(self, total: int, title: str, *, done: int = 0) -> None:
        self._write(event="start", title=title, total=total, done=done)

    def step(
        self,
        record: Record,
        samples: Sequence[Rollout] = (),
        lights: Sequence[Light] = (),
        turns: Sequence[Conversation] = (),
    ) -> None:
        shown = [
            {"name": light.name, "level": light.level, "sentence": light.sentence, "advice": light.advice}
            for light in lights
            if light.level != "ok"
        ]
        self._write(event="step", **record, lights=shown)

    def message(self, text: str) -> None:
        self._write(event="message", text=text)

    def close(self) -> None:
        if self.lines.open:
            self._write(event="end")
            self.lines.open = False

    def _write(self, **fields: Any) -> None:
        self.lines.write(json_lines.dumps(fields))


class PanelDisplay:
    """The live panel. It redraws when told something, without a thread, so a forked worker inherits no lock.

    clock: seconds, monotonic (tests pass their own).
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic):
        self.console = console
        self.clock = clock
        self.live: Live | None = None
        self.total, self.done_at_start, self.title = 0, 0, ""
        self.started_at = self.stepped_at = 0.0
        self.rewards: list[float] = []
        self.record: Record = {}
        self.samples: Sequence[Rollout] = ()
        self.conversation: Conversation = ()
        self.lights: Sequence[Light] = ()
        self.note = ""

    def start(self, total: int, title: str, *, done: int = 0) -> None:
        from rich.live import Live

        self.total, self.title, self.done_at_start, self.started_at = total, title, done, self.clock()
        self.live = Live(self.render(), console=self.console, auto_refresh=False)
        self._show(lambda live: live.start(refresh=True))

    def step(
        self,
        record: Record,
        samples: Sequence[Rollout] = (),
        lights: Sequence[Light] = (),
        turns: Sequence[Conversation] = (),
    ) -> None:
        self.record, self.samples, self.lights = record, pick_samples(samples), lights
        self.conversation = next((one for one in turns if one), ())
        self.stepped_at = self.clock()
        if record.get("reward/mean") is not None:
            self.rewards.append(record["reward/mean"])
        self._redraw()

    def message(self, text: str) -> None:
        self.note = text
        if self.live is None:
            with contextlib.suppress(OSError):
                self.console.print(_text(text))
        self._redraw()

    def close(self) -> None:
        self._show(lambda live: live.stop())
        self.live = None

    def render(self) -> RenderableType:
        """The whole panel as it stands now."""
        from rich.console import Group
        from rich.panel import Panel

        rows = [self._progress(), *self._numbers(), *_light_rows(self.lights)]
        if self.samples:
            rows.append(_sample_table(self.samples))
        if self.conversation:
            rows.append(_turn_table(self.conversation))
        if self.note:
            rows.append(_text(self.note, style="dim"))
        return Panel(Group(*rows), title=_text(self.title), border_style="blue", padding=(0, 1))

    def _redraw(self) -> None:
        self._show(lambda live: live.update(self.render(), refresh=True))

    def _show(self, change: Callable[[Live], None]) -> None:
        """Changes what is on the screen; a terminal that is gone (hung up, closed) does not end the run."""
        if self.live is not None:
            with contextlib.suppress(OSError):
                change(self.live)

    def _progress(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        done = self.record["step"] + 1 if self.record else self.done_at_start
        here = done - self.done_at_start
        left = ""
        if here > 0:
            each_s = (self.stepped_at - self.started_at) / here
            left = f"{duration(each_s)} a step, about {duration(each_s * (self.total - done))} left"
        grid = Table.grid(padding=(0, 2))
        grid.add_row(
            _text(f"step {done}/{self.total}", style="bold"),
            ProgressBar(total=max(self.total, 1), completed=done, width=30),
            _text(left),
        )
        return grid

    def _numbers(self) -> list[Text]:
        rows = []
        if self.rewards:
            change = f"{self.rewards[0]:.3f} -> {self.rewards[-1]:.3f}"
            rows.append(_text(f"reward {change}  {spark_line(self.rewards)}", style="bold"))
        told = _told(self.record, FIELDS[1:])
        if told:
            rows.append(_text("  ".join(told)))
        spans = [(phase, self.record.get(f"time/{phase}_s")) for phase in PHASES]
        shown = [f"{phase} {duration(seconds)}" for phase, seconds in spans if seconds]
        if shown:
            rows.append(_text("  ".join(shown), style="dim"))
        return rows


def _text(text: str, *, style: str = "") -> Text:
    """One clipped line; `Text` knows no markup, so `[red]` in a completion stays the five characters it is."""
    from rich.text import Text

    return Text(one_line(text), style=style, no_wrap=True, overflow="ellipsis")


def _light_rows(lights: Sequence[Light]) -> list[Text]:
    from rich.text import Text

    styles = {"ok": ("●", "green"), "warn": ("▲", "yellow"), "stop": ("■", "bold red")}
    if not lights:
        return []
    row = Text("health ", no_wrap=True, overflow="ellipsis")
    for light in lights:
        sign, style = styles[light.level]
        row.append(f"{sign} {light.name}  ", style=style)
    told = [light for light in lights if light.level != "ok"]
    return [
        row,
        *(Text(one_line(f"  {light.sentence}; {light.advice}"), style=styles[light.level][1]) for light in told[:3]),
    ]


def _sample_table(samples: Sequence[Rollout]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1))
    table.add_column("reward", justify="right", width=7)
    table.add_column("parts", ratio=2)
    table.add_column("prompt", ratio=3)
    table.add_column("completion", ratio=5)
    for rollout in samples:
        score = rollout.score
        value = "none" if score is None or score.value is None else f"{score.value:.3f}"
        parts = score.parts if score else {}
        shown = "  ".join(f"{name} {'none' if part is None else f'{part:.2f}'}" for name, part in parts.items())
        table.add_row(_text(value), _text(shown), _text(_question(rollout)), _text(rollout.conversation))
    return table


def _turn_table(turns: Conversation) -> Table:
    """The last turns of an episode with what was paid for each, and what critic and algorithm made of it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    numbers = [name for name in TURN_NUMBERS if any(turn.get(name) is not None for turn in turns)]
    table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1))
    table.add_column("turn", justify="right", width=4)
    for name in numbers:
        table.add_column(name, justify="right", width=9)
    table.add_column("said", ratio=3)
    table.add_column("answered", ratio=3)
    for number, turn in list(enumerate(turns, start=1))[-TURNS_SHOWN:]:
        values = ("" if turn.get(name) is None else f"{turn[name]:.3f}" for name in numbers)
        table.add_row(f"{number}", *values, _text(turn["text"]), _text(turn.get("observation") or ""))
    return table


def _question(rollout: Rollout) -> str:
    """What was asked last: the prompt's text, or the content of the last message."""
    if rollout.task.messages is None:
        return rollout.task.text or ""
    return message_text(rollout.task.messages[-1])
