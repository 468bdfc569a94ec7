"""benchmarks/agents.py: returns after the same number of episodes, from the metrics of runs."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from benchmarks.agents import (
    METHODS,
    SMOKE,
    Run,
    after,
    after_seconds,
    averaged,
    band,
    curve,
    drawing,
    finished,
    kept,
    recipe,
    spent_at,
    table,
    time_table,
)


def step(size: int | None, mean: float | None) -> dict[str, float | None]:
    return {"rollout/completions": size, "reward/mean": mean}


def test_a_curve_counts_episodes_and_averages_the_newest_512():
    """256 a step: from the third step on the first one leaves; a step that played nothing is no point."""
    steps = [{"loss/policy": 1.0}, step(256, -8.0), step(256, -4.0), {"replay/turns": 3}, step(256, -2.0)]
    assert curve(steps) == [(256, -8.0), (512, -6.0), (768, -3.0)]
    assert curve([step(128, -8.0), step(384, -4.0)])[-1] == (512, -5.0)


def test_a_budget_is_read_within_it_and_not_where_the_run_ended_before():
    run = Run([(256, -8.0), (512, -6.0), (768, 0.0)], (-1.0, 0.5))
    assert [after(run, budget) for budget in (256, 600, 768, 769, 100)] == [-8.0, -6.0, 0.0, None, None]


def test_the_table_compares_at_the_budget_of_every_method_and_leaves_out_what_was_not_reached():
    long = [Run([(100, -5.0), (200, 0.0)], (-3.0 + i, 0.9)) for i in range(2)]
    short = [Run([(100, -2.0)], (-1.5, 1.0))] * 2
    offline = [Run([], (-4.0, 0.5))] * 2
    assert averaged(long) == [(100, -5.0), (200, 0.0)]
    lines = table({"grpo": long, "archer": short, "archer-iql": offline}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:4] == ["method", "episodes", "after 100", "after 200"]
    assert cells[2] == ["grpo", "200", "-5.00", "0.00", "**-2.50** (-3.00, -2.00)", "0.90"]
    assert cells[3][:4] == ["archer", "100", "-2.00", ""]
    assert cells[4][:4] == ["archer-iql", "0", "", ""]


def test_processor_time_is_shared_out_by_what_each_step_took():
    """100 s over steps of 1 2 1 6: those that played end after 10 and 40."""
    took = [{"time/step_s": each} for each in (1.0, 2.0, 1.0, 6.0)]
    steps = [step(8, -1.0) | took[0], {"loss/policy": 1.0} | took[1], step(8, -1.0) | took[2], took[3]]
    assert spent_at(steps, 100.0) == (10.0, 40.0)
    run = Run([(8, -5.0), (16, -3.0)], (-3.0, 1.0), (60.0, 120.0))
    assert [after_seconds(run, seconds) for seconds in (59, 60, 119, 120, 121)] == [None, -5.0, -5.0, -3.0, None]
    assert after_seconds(Run([(8, -5.0)], (-3.0, 1.0)), 60.0) is None


def test_the_table_of_time_compares_those_that_were_measured_and_says_how_far_seeds_lie_apart():
    quick = [Run([(8, -5.0), (16, -3.0 + i)], (-3.0, 1.0), (60.0, 120.0)) for i in range(2)]
    slow = [Run([(8, -4.0), (16, -1.0)], (-3.0, 1.0), (90.0, 400.0))]
    lines = time_table({"ppo": quick, "archer": slow, "grpo": [Run([(8, -4.0)], (0.0, 0.0))]}).splitlines()
    assert lines[0] == "| method | minutes | after 2 min | after 4 min |"  # the quickest took 2, and nobody 8
    assert lines[2:] == [
        "| ppo | 2.0 | -2.50 (-3.00 to -2.00) |  |",
        "| archer | 6.7 | -4.00 (-4.00 to -4.00) | -4.00 (-4.00 to -4.00) |",
    ]


def test_only_seeds_that_came_to_their_end_are_shown(tmp_path):
    """archer is not taken for archer-iql, nor a run without a final model for a finished one."""
    for name, done in (("maze-archer-0", True), ("maze-archer-1", False), ("maze-archer-iql-1", True)):
        folder = tmp_path / name
        (folder / "evaluations").mkdir(parents=True)
        (folder / "final").mkdir() if done else None
        (folder / "evaluations" / "step-9.json").write_text(json.dumps({"reward_mean": -4.0, "accuracy": 0.5}))
        lines = [{"rollout/completions": 512, "reward/mean": -5.0}]
        (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    one = Run([(512, -5.0)], (-4.0, 0.5))
    assert finished(tmp_path) == {"maze": {"archer": {"0": one}, "archer-iql": {"1": one}}}
    file = tmp_path / "kept.json"
    old = {"curve": [[256, -7.0]], "final": [-6.0, 0.1], "seconds": [3.0]}
    file.write_text(json.dumps({"maze": {"archer": {"0": old, "2": old}, "grpo": {"0": old}}}))
    before = Run([(256, -7.0)], (-6.0, 0.1), (3.0,))
    wanted = {"maze": {"grpo": [before], "archer": [one, before], "archer-iql": [one]}}
    assert kept(tmp_path, file) == wanted == kept(tmp_path / "empty", file)


def test_the_drawing_is_a_file_of_its_own_with_a_legend_and_a_band_from_the_least_to_the_greatest_seed():
    seeds = [Run([(100, -5.0), (200, -3.0)], (-3.0, 0.9)), Run([(100, -4.0), (200, -2.0), (300, 0.0)], (-3.0, 0.9))]
    assert band(seeds) == [(100, -5.0, -4.0), (200, -3.0, -2.0)]
    image = ElementTree.fromstring(drawing({"grpo": seeds, "ppo": seeds, "archer-iql": [Run([], (0, 0))]}, "curves"))
    assert image.attrib["viewBox"].split()[3] == "228"
    words = [element.text for element in image.iter() if element.tag.endswith("text")]
    assert words[-4:] == ["A", "grpo", "B", "ppo"]
    assert any(element.text == "episode 100: A -4.5, B -4.5" for element in image.iter())
    assert sum("band" in element.attrib.get("class", "") for element in image.iter()) == 2


@pytest.mark.parametrize("name", [f"{game}-{method}" for game in ("guess-number", "maze") for method in METHODS])
def test_every_method_has_a_recipe_for_a_quick_game_and_every_one_that_plays_for_both(name):
    one_game = ("ppo-lambda-1", *("hl-gauss", "-ilql", "mc-returns") * name.startswith("maze"))
    wanted = not name.endswith(one_game)  # what PPO forgets is asked in the garden, where a game is long
    assert (SMOKE / f"{name}.yaml").is_file() == wanted


@pytest.mark.parametrize(
    "method", ["archer", "ppo", "ppo-epochs", "ppo-lambda-1", "turn-ppo", "grpo-epochs", "filtered-bc-epochs"]
)
def test_the_game_of_long_sentences_has_the_methods_that_it_was_made_to_compare(method):
    assert recipe(f"garden-{method}").is_file()
