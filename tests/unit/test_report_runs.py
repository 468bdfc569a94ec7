"""Several runs on one page: seeds of one recipe are one curve, verdicts are paired and say how sure they are."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from alignkit.cli import main
from alignkit.errors import ContentError
from alignkit.evaluate.statistics.repeats import compare_repeats
from alignkit.report import chart
from alignkit.report.chart import Trace, moved_apart, overlaid_chart
from alignkit.report.runs import verdicts as judged
from alignkit.report.runs.recipes import differences, same_recipe
from alignkit.report.runs.runs_data import runs_data
from alignkit.report.runs.runs_html import _trace, write_runs_report
from alignkit.report.runs.verdicts import Scored, item_scores
from alignkit.run_folder.light import Light
from alignkit.run_folder.run_folder import RunFolder
from tests.unit.test_report_html import HOSTILE, Page

STYLE = Path(chart.__file__).with_name("style.css.j2").read_text()
STEPS = 4


def recipe(seed: int, **changed) -> dict:
    stage = {"train": {"steps": STEPS}, "optimizer": {"lr": 1e-3, **changed}, "rewards": [{"name": "exact"}]}
    return {"seed": seed, "run": f"runs/{seed}", "tracker": "none", "stages": [stage], "evaluation": {"samples": 1}}


def run(path: Path, tree: dict, right: set[int], tasks: int = 40, gain: float = 0.0) -> Path:
    folder = RunFolder(path, clock=lambda: 1_700_000_000.0)
    folder.recipe(tree)
    folder.started()
    folder.evaluation(0, [{"task_id": f"t/{i}", "correct": False, "reward": 0.0, "text": ""} for i in range(tasks)])
    for step in range(STEPS):
        folder.metrics(step, {"reward/mean": gain + step / 10, "optim/grad_norm": 1.0, "time/step_s": 30.0})
    folder.evaluation(
        STEPS, [{"task_id": f"t/{i}", "correct": i in right, "reward": 0.0, "text": ""} for i in range(tasks)]
    )
    return path


# statistics over seeds


def test_two_pairs_of_seeds_have_the_t_test_of_one_degree_of_freedom():
    """d = 0.1, 0.3: t = 0.2 / 0.1 = 2 at 1 degree of freedom, p = 1 - (2 / pi) atan(2); t at 95 % is tan(0.95 pi/2)."""
    found = compare_repeats({1: 0.0, 2: 0.0}, {1: 0.1, 2: 0.3})
    assert found.paired
    assert found.p_value == pytest.approx(0.2951672353, abs=1e-9)
    assert found.interval.high == pytest.approx(0.2 + 12.7062047362 * 0.1, abs=1e-8)
    assert found.detectable == pytest.approx(0.1 * (12.7062047362 + 1.3763819205), abs=1e-8)  # tan(0.6 pi/2)


def test_other_seeds_are_compared_by_welch_with_satterthwaites_degrees_of_freedom():
    """Variances of the means 1/3 and 4/3: (5/3)^2 / ((1/9 + 16/9) / 2) = 2.94, so 2; p = 1 - t / sqrt(t^2 + 2)."""
    found = compare_repeats({1: 1.0, 2: 2.0, 3: 3.0}, {4: 3.0, 5: 5.0, 6: 7.0})
    assert (found.difference, found.paired, found.seeds) == (3.0, False, (3, 3))
    t = 3 / (5 / 3) ** 0.5
    assert found.p_value == pytest.approx(1 - t / (t * t + 2) ** 0.5, abs=1e-12)


def test_one_seed_shows_no_spread_and_equal_differences_are_certain():
    assert compare_repeats({1: 0.5}, {1: 0.6, 2: 0.7}) is None
    assert compare_repeats({1: 0.0, 2: 0.5}, {1: 0.25, 2: 0.75}).p_value == 0.0
    assert compare_repeats({1: 0.0, 2: 0.5}, {1: 0.0, 2: 0.5}).p_value == 1.0


# verdicts


def verdicts(recipes, causes):
    return judged.verdicts(list(itertools.combinations(recipes, 2)), causes)


def scored(name: str, *rights: int, tasks: int = 40) -> Scored:
    return Scored(
        name=name, seeds=[(seed, {i: float(i < right) for i in range(tasks)}) for seed, right in enumerate(rights)]
    )


def test_one_seed_each_is_decided_by_the_tasks_alone():
    [found] = verdicts([scored("A", 10), scored("B", 30)], {})
    assert found.comparison.p_value == pytest.approx(2 * 0.5**20)  # 20 tasks gained, none lost
    assert found.sentence.startswith("B is better than A by 0.500 (0.750 against 0.250 on 40 tasks, 95 % ")
    [turned] = verdicts([scored("B", 30), scored("A", 10)], {})
    assert turned.sentence == found.sentence


def test_seeds_that_disagree_take_away_what_the_tasks_alone_would_show():
    """Three pairs of seeds differ by +20, +20 and -10 tasks of 40: t = 0.25 / 0.25 = 1 at 2 degrees of freedom."""
    [found] = verdicts([scored("A", 10, 10, 20), scored("B", 30, 30, 10)], {})
    alone = [verdicts([scored("A", 10), scored("B", 30)], {})[0]]
    assert alone[0].comparison.verdict == "better"
    assert found.comparison.verdict == "no detectable change"
    assert found.comparison.p_value == pytest.approx(1 - 1 / 3**0.5)
    assert found.comparison.interval.low < 0 < found.comparison.interval.high


def test_three_recipes_are_one_family():
    """p of each pair is that of 20, 20 and 0 changed tasks; Holm multiplies the smallest by 3."""
    found = verdicts([scored("A", 10), scored("B", 30), scored("C", 30)], {})
    raw = 2 * 0.5**20
    assert [one.comparison.adjusted for one in found] == pytest.approx([3 * raw, 3 * raw, 1.0])
    assert "no detectable difference between B and C" in found[2].sentence


def test_the_same_number_of_another_problem_is_no_pair():
    """Generators draw other problems for another seed under the same task ids."""
    rows = [{"task_id": "g/0", "asked": "one", "correct": True}, {"task_id": "g/0", "asked": "one", "correct": False}]
    other = [{"task_id": "g/0", "asked": "two", "correct": True}]
    first = Scored(name="A", seeds=[(0, item_scores(rows, "correct"))])
    second = Scored(name="B", seeds=[(1, item_scores(other, "correct"))])
    assert first.seeds[0][1] == {("g/0", "one"): 0.5}
    [found] = verdicts([first, second], {})
    assert found.comparison is None
    assert "they share no scored task (A has 1, B 1)" in found.sentence


# recipes


def test_only_what_differs_is_listed_and_the_seed_alone_makes_no_recipe():
    trees = [recipe(0), recipe(1), recipe(0, lr=1e-2, warmup_steps=3)]
    trees[1] |= {"run": "elsewhere", "tracker": "wandb"}
    assert same_recipe(trees) == [[0, 1], [2]]
    assert {row.key: list(row.values) for row in differences([trees[0], trees[2]])} == {
        "stages.0.optimizer.lr": ["0.001", "0.01"],
        "stages.0.optimizer.warmup_steps": ["absent", "3"],
    }
    assert same_recipe([{}, {}]) == [[0], [1]]  # of what is not known nothing is claimed


def test_what_changes_only_how_fast_a_run_is_makes_no_other_recipe_and_no_difference():
    def tree(**more):
        return {"seed": 0, "stages": [{"train": {"steps": 5, **more}, "rollouts": {"prompts": 2}, "rewards": []}]}

    fast, slow, longer = tree(micro_batch_tokens=8), tree(micro_batch_tokens=99), tree(micro_batch_tokens=8)
    longer["stages"][0]["train"]["steps"] = 6
    assert same_recipe([fast, slow, longer]) == [[0, 1], [2]]
    assert differences([fast, slow]) == []
    assert [row.key for row in differences([fast, longer])] == ["stages.0.train.steps"]


# the whole


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    """Two recipes with two seeds: 10 and 12 tasks right, 30 and 32."""
    made = [run(tmp_path / f"base-{seed}", recipe(seed), set(range(10 + 2 * seed)), gain=0.2 * seed) for seed in (0, 1)]
    made += [run(tmp_path / f"fast-{seed}", recipe(seed, lr=1e-2), set(range(30 + 2 * seed))) for seed in (0, 1)]
    RunFolder(made[2]).lights(1, [Light(name="kl", level="warn", sentence="too far", advice="slower")])
    return made


def test_runs_are_grouped_compared_and_their_health_stands_side_by_side(four):
    data = runs_data(four)
    assert [recipe["name"] for recipe in data["recipes"]] == ["base (2 runs)", "fast (2 runs)"]
    assert [row["key"] for row in data["differences"]] == ["stages.0.optimizer.lr"]
    [verdict] = data["evaluation"]["verdicts"]
    assert verdict["sentence"].startswith("B is better than A by 0.500 (0.775 against 0.275 on 40 tasks")
    assert "paired t-test over 2 seeds" in verdict["sentence"]
    assert data["evaluation"]["best"] == {
        "letter": "B",
        "sentence": "B has the highest held-out accuracy, 0.775: better than A",
        "better_than": ["A"],
        "not_told_apart_from": [],
        "not_compared_with": [],
    }
    [rule] = data["health"]["rules"]
    assert [cell and cell["count"] for cell in rule["runs"]] == [None, None, 1, None]
    assert {row["name"]: row["values"] for row in data["metrics"]}["reward/mean"] == [pytest.approx(0.4), 0.3]


def test_seeds_are_drawn_as_their_mean_with_a_band_from_lowest_to_highest():
    trace = _trace("A", 0, [[(0, 0.0), (1, 1.0), (2, 5.0)], [(0, 1.0), (1, 2.0)]], False)
    assert trace.points == [(0, 0.5), (1, 1.5)]  # at the steps that both have
    assert trace.band == [(0, 0.0, 1.0), (1, 1.0, 2.0)]
    assert '<polygon class="band area s0"' in overlaid_chart([trace], title="t")


def test_the_page_holds_every_curve_of_every_recipe_and_no_model_text_does_anything(four):
    hostile = recipe(0, lr=HOSTILE)
    four[1] = run(four[0].parent / "<script>alert(2)<&script>", hostile, {1})
    page, numbers = write_runs_report(runs_data(four), four[0] / "compared.html")
    text = page.read_text()
    parsed = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(parsed.tags)
    assert "<script>alert(1)</script>" in parsed.text
    assert len(re.findall('<text class="letter', text)) == 3 * len(re.findall('role="img"', text))
    assert "Reward over minutes of training" in parsed.text
    assert json.loads(numbers.read_text())["kind"] == "runs"


def test_evaluations_by_other_protocols_are_not_compared_and_the_setting_is_named(tmp_path):
    other = recipe(0, lr=1e-2) | {"evaluation": {"samples": 4}}
    data = runs_data([run(tmp_path / "a", recipe(0), {1}), run(tmp_path / "b", other, {1})])
    [verdict] = data["evaluation"]["verdicts"]
    assert verdict["verdict"] == "not compared"
    assert "their evaluations differ in evaluation.samples (1 and 4)" in verdict["sentence"]
    assert data["evaluation"]["best"] is None


def test_returns_of_two_games_are_not_compared_though_their_tasks_have_the_same_names(tmp_path):
    trees = [recipe(0), recipe(0)]
    for tree, size in zip(trees, (3, 9), strict=True):
        tree["stages"][0]["environment"] = {"name": "maze", "options": {"size": size}, "pace": f"{size}"}
    [verdict] = runs_data([run(tmp_path / str(i), tree, {1}) for i, tree in enumerate(trees)])["evaluation"]["verdicts"]
    assert "their evaluations differ in environment.options.size (3 and 9)" in verdict["sentence"]


def test_while_a_run_goes_on_all_are_compared_after_the_steps_that_every_one_has(tmp_path):
    ended = run(tmp_path / "ended", recipe(0), set(range(40)))
    going = run(tmp_path / "going", recipe(0, lr=1e-2), {1})
    RunFolder(ended).evaluation(2, [{"task_id": f"t/{i}", "correct": i < 20, "text": ""} for i in range(40)])
    RunFolder(going).evaluation(2, [{"task_id": f"t/{i}", "correct": i < 20, "text": ""} for i in range(40)])
    lines = (going / "metrics.jsonl").read_text().splitlines()[:3]
    (going / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (going / "evaluations" / f"main-{STEPS:06d}.json").unlink()
    data = runs_data([ended, going])
    assert data["evaluation"]["verdicts"][0]["after_steps"] == [[2], [2]]
    assert "no detectable difference between A and B: 0.500 and 0.500" in data["evaluation"]["verdicts"][0]["sentence"]


def test_a_run_that_was_interrupted_takes_nothing_from_the_verdict_on_the_others(four, tmp_path):
    cut = run(tmp_path / "cut", recipe(0, lr=1.0), {1})
    (cut / "evaluations" / f"main-{STEPS:06d}.json").unlink()
    (cut / "metrics.jsonl").write_text("")
    found = runs_data([*four, cut])["evaluation"]
    assert [row["verdict"] for row in found["verdicts"]] == ["better", "not compared", "not compared"]
    assert found["best"]["sentence"].endswith("better than A; not compared with C")


def test_evaluations_that_did_not_record_what_was_asked_are_paired_by_id_with_those_that_did(four):
    file = four[3] / "evaluations" / f"main-{STEPS:06d}.json"
    told = json.loads(file.read_text())
    told["results"] = [row | {"asked": "0123456789abcdef"} for row in told["results"]]
    file.write_text(json.dumps(told))
    [verdict] = runs_data(four)["evaluation"]["verdicts"]
    assert verdict["comparison"]["after"] == 0.775
    assert verdict["left_out"] == 0


@pytest.mark.parametrize("broken", ["recipe.resolved.json", "metrics.jsonl", "evaluations", "events.jsonl"])
def test_a_damaged_run_gives_a_page_that_says_what_is_missing(four, broken):
    place = four[0] / broken
    if place.is_dir():
        for file in place.iterdir():
            file.write_text("{")
    else:
        place.write_text("{")
    data = runs_data(four)
    assert any(
        line.startswith("base-0: ") and broken.split(".")[0] in line.replace("main-", "evaluations")
        for line in data["missing"]
    )
    write_runs_report(data, four[0] / "compared.html")


def test_what_cannot_be_compared_is_refused_in_one_line(four, tmp_path, capsys):
    with pytest.raises(ContentError, match="is given twice"):
        runs_data([four[0], four[0]])
    many = [run(tmp_path / f"r{number}", recipe(0, lr=number), {1}, tasks=2) for number in range(9)]
    with pytest.raises(ContentError, match="9 recipes; a page compares at most 8"):
        runs_data(many)
    assert main.run(["report", str(four[0]), "--out", "x.html"]) == 2
    assert "--out names the page of several runs" in capsys.readouterr().err


def test_the_command_tells_the_verdict_and_writes_page_and_numbers(four, tmp_path, capsys):
    assert main.run(["report", *map(str, four), "--out", str(tmp_path / "c.html")]) == 0
    told = capsys.readouterr().out
    assert "B is better than A by 0.500" in told
    assert "health, kl: fast-0 warn in 1 steps" in told
    assert (tmp_path / "c.html").exists()
    assert main.run(["report", *map(str, four), "--out", str(tmp_path / "c.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["best"]["letter"] == "B"


# how it is drawn


def test_letters_that_would_cover_one_another_stand_apart_and_inside():
    bottom = chart.HEIGHT - chart.BOTTOM
    places = moved_apart([(500, bottom), (500, bottom - 1), (100, bottom), (500, 20)])
    same = sorted(y for x, y in places if x == 500)
    assert all(after - before >= chart.LETTER_HEIGHT - 1e-9 for before, after in itertools.pairwise(same))
    assert max(y for _, y in places) <= bottom


MACHADO = {  # Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def product(rows, values) -> list[float]:
    return [sum(a * b for a, b in zip(row, values, strict=True)) for row in rows]


def oklab(rgb: list[float]) -> list[float]:
    cones = product(
        (
            (0.41222147, 0.53633254, 0.05144599),
            (0.21190350, 0.68069955, 0.10739696),
            (0.08830246, 0.28171884, 0.62997870),
        ),
        [min(max(part, 0.0), 1.0) for part in rgb],
    )
    return product(
        (
            (0.21045426, 0.79361779, -0.00407205),
            (1.97799850, -2.42859221, 0.45059371),
            (0.02590404, 0.78277177, -0.80867577),
        ),
        [cone ** (1 / 3) for cone in cones],
    )


def contrast(first: str, second: str) -> float:
    low, high = sorted(
        sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear(c), strict=True)) for c in (first, second)
    )
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_any_two_curves_are_told_apart_by_people_who_see_no_red_green_or_blue(mode):
    """OKLab x 100: distances of 2 are just seen. Each colour has a contrast of 3 with the cards it is drawn on."""
    found = re.findall(r"--c(\d): (#[0-9a-f]{6})", STYLE)[8 * mode : 8 * mode + 8]
    assert [int(index) for index, _ in found] == list(range(8))
    colours = [colour for _, colour in found]
    card = re.findall(r"--card: (#[0-9a-f]{6})", STYLE)[mode]
    assert min(contrast(colour, card) for colour in colours) > 3
    for sight in MACHADO.values():
        seen = [oklab(product(sight, linear(colour))) for colour in colours]
        assert (
            min(
                100 * sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5
                for x, y in itertools.combinations(seen, 2)
            )
            > 9
        )
        assert (
            min(
                100 * sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5
                for x, y in itertools.combinations(seen[:4], 2)
            )
            > 15
        )


def test_a_trace_of_one_value_and_of_none_are_drawn():
    assert overlaid_chart([Trace(letter="A", colour=0, points=[])], title="t") == ""
    assert '<text class="letter s3"' in overlaid_chart(
        [Trace(letter="D", colour=3, points=[(5, 0.5)])], title="t", log=True
    )
