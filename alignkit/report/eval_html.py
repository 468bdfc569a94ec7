"""One self-contained HTML page about an evaluation or about two of them: no script, no file from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alignkit.report.chart import line_chart, short_number
from alignkit.report.clean_text import one_line
from alignkit.report.eval_card import card
from alignkit.report.eval_chart import bar_chart, plane
from alignkit.report.eval_data import Data, without_texts
from alignkit.report.html import shown
from alignkit.types.files import write_atomically

WORDS = {"better": "better", "worse": "worse"}


def write_eval_report(data: Data, target: Path, *, with_card: bool = False) -> list[Path]:
    """Writes the page about `evaluation_data` or `comparison_data` to `target`, its numbers to the same name ending in
    .json, and on request the section of a model card to model_card.md beside them. Returns what was written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, render(data))
    numbers = target.with_suffix(".json")
    write_atomically(numbers, json.dumps(without_texts(data), indent=1, ensure_ascii=False, default=str))
    written = [target, numbers]
    if with_card:
        written.append(target.with_name("model_card.md"))
        write_atomically(written[-1], card(data))
    return written


def render(data: Data) -> str:
    """The page as text."""
    return _template().render(
        title=_title(data),
        two=len(data["sides"]) > 1,
        letters=["A", "B"] if len(data["sides"]) > 1 else [""],
        bars=[_bars(group) for group in data["groups"]],
        plane=plane(
            [{**pair, "protocol": one_line(pair["protocol"])} for pair in data["pairs"]],
            title="Harm against over-refusal",
        ),
        curves=[_curve(curve, two=len(data["sides"]) > 1) for curve in data["curves"]],
        corrected=any(side["corrected"] for row in data["rows"] for side in row["sides"]),
        published=any(row["reference"] for row in data["rows"]),
        settings=lambda fields: json.dumps(fields, indent=1, ensure_ascii=False, default=str),
        words=WORDS,
        **{key: value for key, value in data.items() if key != "curves"},
    )


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(
        shown=shown, number=short_number, share=_share, value=value_text, interval=interval_text, signed=_signed
    )
    return environment.get_template("eval_report.html.j2")


def is_rate(row: Mapping[str, Any]) -> bool:
    """Whether the row's values are shares of 1, shown in per cent."""
    known = [side["value"] for side in row["sides"] if side.get("value") is not None]
    return row.get("unit", "") in ("", "share", "rate", "fraction") and all(0 <= value <= 1 for value in known)


def value_text(side: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """A metric's value as people read it: 46.9 %, or 3.2 tokens, or none."""
    if side.get("value") is None:
        return "none"
    if is_rate(row):
        return f"{100 * side['value']:.1f} %"
    return f"{short_number(side['value'])} {row.get('unit', '')}".strip()


def interval_text(side: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Its interval, or nothing where it has none."""
    if side.get("low") is None or side.get("high") is None:
        return ""
    scale: Callable[[float], str] = (lambda end: f"{100 * end:.1f}") if is_rate(row) else short_number
    return f"{scale(side['low'])} to {scale(side['high'])}"


def _title(data: Data) -> str:
    models = [side["model"] for side in data["sides"]]
    return " and ".join(models) if len(models) > 1 else models[0]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _signed(value: float, row: Mapping[str, Any]) -> str:
    """A difference: in points for rates, else in the metric's unit."""
    return f"{100 * value:+.1f}" if is_rate(row) else f"{value:+.4g}"


def _bars(group: Mapping[str, Any]) -> dict[str, Any]:
    rows = [(one_line(bar["group"]), bar["sides"]) for bar in group["bars"]]
    title = one_line(f"{group['protocol']}: {group['metric']} by category")
    return {"title": title, "svg": bar_chart(rows, title=title), "sides": max(len(sides) for _, sides in rows)}


def _curve(curve: Mapping[str, Any], *, two: bool) -> dict[str, Any]:
    lines: Mapping[str, Sequence] = curve.get("lines") or {}
    points = {one_line(str(name)): [(float(x), float(y)) for x, y in line] for name, line in lines.items()}
    title = one_line(f"{'AB'[curve['side']] + ' ' if two else ''}{curve['protocol']}: {curve['title']}")
    svg: Markup = line_chart(points, title=title)
    return {"title": title, "svg": svg, "labels": list(points), "x_label": str(curve.get("x_label") or "")}
