"""`alignkit reward quantiles` and `reward steps` on rewards whose quality is known."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist

import pytest
from numpy.random import Generator, Philox

from alignkit.cli.main import run

REWARDS = '''
from statistics import NormalDist
from alignkit.rewards.base import reward
from alignkit.types.score import Score, StepScore

@reward
def wise(completion, task, *, factor=1.0, levels=39, crossed=False):
    """The true distribution of the row's label, times a factor."""
    mean, spread = task.columns["mean"], task.columns["spread"] * factor
    at = [NormalDist(mean, spread).inv_cdf(j / (levels + 1)) for j in range(1, levels + 1)]
    return Score(value=mean, spread=tuple(at[::-1] if crossed else at))

@reward
def point(completion, task):
    return task.columns["mean"] + 5

@reward
def careful(completion, task, *, whole=False):
    """What the steps are worth is written in them, `a0.7;`; each comma ends one of the reward's own."""
    ends = [n + 1 for n, c in enumerate(completion) if c in ",;"]
    starts = [0, *ends]
    values = [float(completion[a:b - 1].lstrip("a")) for a, b in zip(starts, ends)]
    steps = tuple(StepScore(end, value) for end, value in zip(ends, values))
    return Score(value=min(values), steps=None if whole else steps)
'''


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(REWARDS)
    random = Generator(Philox(key=0))
    rows = []
    for _ in range(1000):
        mean, spread = float(random.normal()), float(random.choice([0.2, 2.0]))
        label = mean + spread * float(random.normal())
        rows.append({"prompt": "?", "completion": "x", "label": label, "mean": mean, "spread": spread})
    write("spread.jsonl", rows)
    return tmp_path


def write(path: str, rows: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def told(capsys, *arguments: str) -> dict:
    assert run(["reward", *arguments, "--workers", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_true_distribution_covers_its_shares_and_beats_a_point_with_noise(here, capsys):
    result = told(capsys, "quantiles", "spread.jsonl", "./mine.py:wise")
    for share, number in result["coverage"].items():
        assert number["low"] < float(share.rstrip("%")) / 100 < number["high"]
    assert result["crossing_rate"]["value"] == 0
    assert result["calibration_error"] < 0.03
    assert result["crps_difference"]["high"] < 0
    assert result["crps_point"]["noise"]["std"] == pytest.approx(((0.2**2 + 2**2) / 2) ** 0.5, rel=0.1)
    assert result["crps"]["n"] == 500
    assert (result["levels"], result["scored"]) == (39, 1000)


def test_a_distribution_that_is_too_narrow_is_found_out(here, capsys):
    result = told(capsys, "quantiles", "spread.jsonl", "./mine.py:wise", "-o", "factor=0.3")
    wanted = 2 * NormalDist().cdf(0.3 * NormalDist().inv_cdf(0.9)) - 1
    assert result["coverage"]["80%"]["value"] == pytest.approx(wanted, abs=0.04)
    assert result["calibration_error"] > 0.1


def test_another_reward_may_be_the_point_and_its_constant_costs_it_nothing(here, capsys):
    own = told(capsys, "quantiles", "spread.jsonl", "./mine.py:wise")
    other = told(capsys, "quantiles", "spread.jsonl", "./mine.py:wise", "--point", "./mine.py:point")
    assert other["crps_point"]["noise"]["mean"] == pytest.approx(own["crps_point"]["noise"]["mean"] - 5)
    assert other["crps_point"]["value"] == pytest.approx(own["crps_point"]["value"])
    crossed = told(capsys, "quantiles", "spread.jsonl", "./mine.py:wise", "-o", "crossed=true")
    assert crossed["crossing_rate"]["value"] == 1
    assert crossed["crps"] == own["crps"]


def test_levels_that_do_not_reach_95_percent_have_a_cause_in_the_table(here, capsys):
    assert run(["reward", "quantiles", "spread.jsonl", "./mine.py:wise", "-o", "levels=19", "--workers", "1"]) == 0
    assert "none: level 0.025 is beyond the outermost of 19 levels, 0.05" in capsys.readouterr().out


def solutions(count: int) -> list[dict]:
    """Three steps each, the middle one in two parts; wrong steps are worth 0.3 or less, right ones 0.6 or more."""
    random = Generator(Philox(key=1))
    rows = []
    for _ in range(count):
        wrong = int(random.integers(6))
        worth = [
            round(float(random.uniform(0.6, 1) if step < wrong else random.uniform(0, 0.3)), 3) for step in range(3)
        ]
        steps = [f"a{worth[0]};", f"a1.0,a{worth[1]};", f"a{worth[2]};"]
        rows.append({"prompt": "?", "steps": steps, "labels": [float(step < wrong) for step in range(3)]})
    return rows


def test_a_process_reward_that_is_right_finds_every_first_error(here, capsys):
    write("steps.jsonl", solutions(60))
    result = told(capsys, "steps", "steps.jsonl", "./mine.py:careful")
    assert result["auc"]["value"] == 1
    assert result["first_error"]["f1"]["value"] == 1
    assert 0.3 < result["threshold"]["value"] < 0.6
    assert (result["steps"], result["threshold"]["solutions"]) == (180, 30)
    blind = told(capsys, "steps", "steps.jsonl", "./mine.py:careful", "--threshold", "0")
    assert blind["first_error"]["f1"]["value"] == 0
    assert blind["first_error"]["correct"]["value"] == 1
    assert blind["step_f1"]["wrong"] == 0
    assert run(["reward", "steps", "steps.jsonl", "./mine.py:careful", "--workers", "1"]) == 0
    assert "first-error F1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantiles", "spread.jsonl", "./mine.py:point"], "0 of 1000 rows got quantiles from ./mine.py:point"),
        (["quantiles", "steps.jsonl", "./mine.py:wise"], "no column 'completion' with text"),
        (
            ["quantiles", "spread.jsonl", "./mine.py:wise", "--column", "label=prompt"],
            "row 1: no number in column 'label'",
        ),
        (["steps", "spread.jsonl", "./mine.py:careful"], "row 1: wanted a list `steps` of texts and a list `labels`"),
        (
            ["steps", "steps.jsonl", "./mine.py:careful", "-o", "whole=true"],
            "0 of 9 solutions got a score for every step",
        ),
        (["steps", "odd.jsonl", "./mine.py:careful"], "odd.jsonl row 1: a label is no number"),
    ],
)
def test_what_cannot_be_measured_is_one_line(here, capsys, arguments, message):
    write("steps.jsonl", solutions(9))
    write("odd.jsonl", [{"prompt": "?", "steps": ["a1;"], "labels": ["perhaps"]}])
    assert run(["reward", *arguments, "--workers", "1"]) == 2
    complaint = capsys.readouterr().err.strip()
    assert message in complaint
    assert "\n" not in complaint
