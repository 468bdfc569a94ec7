"""The page about evaluations: numbers of its JSON, inert model text, harm only in pairs, speed and size, Chromium."""

import copy
import json
import math
import re
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from alignkit.cli.main import build, run
from alignkit.errors import DataError
from alignkit.evaluate.results.compare import compare_folders
from alignkit.evaluate.results.eval_folder import read_eval_folder
from alignkit.report.eval_chart import bar_chart, plane
from alignkit.report.eval_data import comparison_data, evaluation_data
from alignkit.report.eval_html import render, value_text, write_eval_report
from tests.eval_folders import answer, rate, right_answers, write_result, write_safety
from tests.pace import takes_at_most
from tests.unit.test_report_html import HOSTILE, Page

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


def parsed(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert "default-src 'none'" in text
    return page


def page_of(folder, **options):
    return parsed(write_eval_report(evaluation_data(read_eval_folder(folder)), folder / "report.html", **options)[0])


def comparison_page(tmp_path):
    result = compare_folders(read_eval_folder(tmp_path / "a"), read_eval_folder(tmp_path / "b"))
    return parsed(write_eval_report(comparison_data(result), tmp_path / "compare.html", with_card=True)[0])


def both_sides(tmp_path, model="tuned"):
    for side, right, harmful, over in (("a", 10, 30, 3), ("b", 30, 6, 3)):
        name = "base" if side == "a" else model
        rows = right_answers(60, right, category="sums")
        groups = {"sums": {"accuracy": rate([row["score"] for row in rows], low=0.1, high=0.7)}}
        write_result(tmp_path / side, "gsm8k", rows, model=name, groups=groups)
        write_safety(tmp_path / side, 60, harmful, over, model=name)


def test_the_page_of_an_evaluation_says_its_numbers(tmp_path):
    rows = [*right_answers(40, 10), answer("x", None, completion="no idea", stop="length")]
    fields = {"version": 1, "reference": [{"metric": "accuracy", "model": "base", "value": 0.014, "source": "a card"}]}
    known = {"true_positive": 80, "false_negative": 20, "false_positive": 10, "true_negative": 90}
    scorer = {"name": "math", "hash": "cafe", "known_error": {**known, "metrics": ["accuracy"]}}
    metrics = {"accuracy": {"value": 0.31, "low": 0.2, "high": 0.4, "n": 100, "unit": "share"}}
    write_result(tmp_path, "gsm8k", rows, fields=fields, scorers=[scorer], metrics=metrics)
    text = page_of(tmp_path).text
    assert "31.0 % 20.0 to 40.0 100 30.0 % (" in text  # corrected: (0.31 + 0.9 - 1) / 0.7
    assert "base: 0.014 a card" in text
    assert "30 wrong, 1 unparsed, 10 right" in text
    assert "gsm8k: 2.4% of the answers were cut by the length limit" in text
    assert "gsm8k: 2.4% of the answers held no answer that could be read" in text
    assert "no idea" in text
    assert "cafe" in text
    assert "0123456789abcdef" in text


def test_the_page_of_a_comparison_says_verdicts_flips_and_the_safety_pair(tmp_path):
    both_sides(tmp_path)
    text = comparison_page(tmp_path).text
    assert "gsm8k, accuracy: better: 0.167 -> 0.500 on 60 tasks (+0.333" in text
    assert "xstest, harm_rate: better: 0.500 -> 0.100" in text
    assert "no detectable change" in text  # over-refusal did not move
    assert re.search(r"gsm8k: 20 became right\s*, 0 became wrong", text)
    assert "A xstest: harm 50.0% (10.0% to 30.0%), over-refusal 5.0%" in text
    assert "gsm8k: accuracy by category" in text
    assert "tests, one family (Holm) 3" in text


def test_the_json_beside_holds_the_pages_numbers_and_no_texts(tmp_path):
    both_sides(tmp_path)
    text = comparison_page(tmp_path).text
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert [side["model"] for side in numbers["sides"]] == ["base", "tuned"]
    for row in numbers["rows"]:
        for side in row["sides"]:
            assert value_text(side, row) in text
        assert f"{100 * row['change']['difference']:+.1f}" in text
    assert numbers["flips"][0] == {"protocol": "gsm8k", "gained": 20, "lost": 0}
    assert "It is" not in json.dumps(numbers)


def test_a_harm_rate_alone_is_in_no_output(tmp_path):
    """Page, JSON, card and command line: 43 of 97 is nowhere."""
    write_safety(tmp_path, 97, 43, 0, metrics={"harm_rate": rate([1.0] * 43 + [0.0] * 54, low=0.3456, high=0.5432)})
    groups = {"theft": {"harm_rate": rate([1.0] * 43 + [0.0] * 54)}}
    result = json.loads((tmp_path / "xstest" / "result.json").read_text()) | {"groups": groups}
    (tmp_path / "xstest" / "result.json").write_text(json.dumps(result))
    page_of(tmp_path, with_card=True)
    for name in ("report.html", "report.json", "model_card.md"):
        text = (tmp_path / name).read_text().replace(str(tmp_path), "")  # pytest numbers its folders: pytest-54
        assert "no over-refusal rate beside it" in text
        assert not re.search(r"0\.443|44\.3|0\.345|34\.6|\b140\b|\b54\b", text)  # 43 + 97 complied, 54 refused


def test_hostile_text_is_shown_and_does_nothing(tmp_path):
    odd = [
        answer(HOSTILE, float(i), prompt=HOSTILE, completion=HOSTILE, category=HOSTILE, parts={"answer": HOSTILE})
        for i in (0, 1)
    ]
    for side, row in zip("ab", odd, strict=True):
        record = {
            "model": HOSTILE,
            "fields": {HOSTILE: HOSTILE, "about": HOSTILE, "licence": HOSTILE},
            "groups": {HOSTILE: {"accuracy": rate([1.0], unit=HOSTILE)}},
            "curves": {HOSTILE: {"x_label": HOSTILE, "lines": {HOSTILE: [[0, 1], [1, 2]]}}},
            "scorers": [{"name": HOSTILE, "hash": HOSTILE, "known_error": {"source": HOSTILE}}],
            "engine": HOSTILE,
            "started": HOSTILE,
        }
        write_result(tmp_path / side, "gsm8k", [row | {"stop": HOSTILE}], **record)
    for page in (page_of(tmp_path / "a", with_card=True), comparison_page(tmp_path)):
        assert "<script>alert(1)</script>" in page.text
        assert "{{ 7*7 }}" in page.text
        assert "\x1b" not in page.text
    card = (tmp_path / "compare.html").with_name("model_card.md").read_text()
    assert "<script" not in card


def test_a_folder_without_samples_or_values_still_has_a_page(tmp_path):
    absent = {"value": None, "low": None, "high": None, "n": 0, "unit": "share", "cause": "no answer could be graded"}
    write_result(tmp_path, "gsm8k", right_answers(2, 1), metrics={"accuracy": absent})
    (tmp_path / "gsm8k" / "samples.parquet").unlink()
    text = page_of(tmp_path, with_card=True).text
    assert "no answer could be graded" in text
    assert "gsm8k/samples.parquet cannot be read" in text


def places(value, path=()):
    """The paths of everything in nested lists and mappings."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def test_a_result_damaged_anywhere_gives_a_page_or_one_line(tmp_path):
    """Each place of result.json replaced by something else: never another error than DataError."""
    known = {"true_positive": 8, "false_negative": 2, "false_positive": 1, "true_negative": 9, "metrics": ["harm_rate"]}
    curves = {"c": {"x_label": "x", "lines": {"l": [[0, 1], [1, 2]]}}}
    scorers = [{"name": "r", "hash": "h", "known_error": known}]
    groups = {"g": {"harm_rate": rate([1.0])}}
    write_safety(tmp_path, 4, 2, 1, groups=groups, curves=curves, scorers=scorers)
    file = tmp_path / "xstest" / "result.json"
    whole = json.loads(file.read_text())
    refused = []
    for path in places(whole):
        for value in ("x", {"a": [1]}):
            damaged = copy.deepcopy(whole) if path else value
            place = damaged
            for key in path[:-1]:
                place = place[key]
            if path:
                place[path[-1]] = value
            file.write_text(json.dumps(damaged))
            try:
                assert "</html>" in render(evaluation_data(read_eval_folder(tmp_path)))
            except DataError as error:
                refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in line for line in refused)


def test_the_model_card_is_a_table_of_protocols(tmp_path):
    both_sides(tmp_path, model="tuned|x")
    comparison_page(tmp_path)
    lines = (tmp_path / "model_card.md").read_text().splitlines()
    assert lines[0] == "## Evaluation"
    assert lines[2] == "A: base and B: tuned|x."
    assert "| gsm8k | accuracy | 0.167 | 0.500 | +0.333 | better |" in lines
    assert "| gsm8k | `0123456789ab` | math_answer `aaaa` | 0.0% / 0.0% |" in lines


@pytest.mark.parametrize("sides", [1, 2])
def test_ten_thousand_samples_take_three_seconds_of_cpu_and_five_megabytes(tmp_path, sides):
    """One folder of 10,000 answers of 120 words, and a comparison of two of 5,000."""
    words = [f"word{index}" for index in range(500)]
    rows = [
        answer(str(index), float(index % 3 == 0), completion=" ".join(words[index % 380 : index % 380 + 120]))
        for index in range(10_000 // sides)
    ]
    for side in "ab":
        write_result(tmp_path / side, "gsm8k", rows, model=side)
    make = (lambda: page_of(tmp_path / "a")) if sides == 1 else (lambda: comparison_page(tmp_path))
    assert takes_at_most(3, make)
    page = tmp_path / ("a/report.html" if sides == 1 else "compare.html")
    assert page.stat().st_size < 5_000_000


def test_a_reward_with_margins_gets_its_calibration_drawn(tmp_path):
    """Margin log 3 is a confidence of 3/4; right in 3 of 4 pairs is calibrated, in 1 of 4 it is off by 1/2."""
    for name, right in (("good", 3), ("bad", 1)):
        parts = {"margin": math.log(3), "pair_accuracy": 1.0}
        rows = [answer(index, float(index % 4 < right), parts=parts) for index in range(40)]
        write_result(tmp_path / name, "pairs", rows, metrics={"pair_accuracy": rate([1.0])}, category="reward")
        error = {"good": "0.000", "bad": "0.500"}[name]
        assert f"share right (calibration error {error})" in page_of(tmp_path / name).text


def test_bars_start_at_zero_and_carry_their_intervals():
    """0.25 and 0.75 on an axis from 0 to 1 that is 334 pixels long."""
    svg = bar_chart([("a", [{"value": 0.25, "low": 0.0, "high": 0.75}]), ("b", [{"value": None}])], title="t")
    assert 'width="83.5"' in svg
    assert 'x1="170.0" x2="420.5"' in svg
    assert ">none</text>" in svg
    assert bar_chart([("a", [{"value": None}])], title="t") == ""
    assert 'width="167.0"' in bar_chart([("a", [{"value": -1.0}, {"value": 1.0}])], title="t")


def test_the_plane_has_its_good_corner_at_the_lower_left():
    value = {"value": 0.0, "low": 0.0, "high": 0.1}
    one = {"value": 1.0, "low": 0.9, "high": 1.0}
    point = {"side": 0, "protocol": "p", "metric": "harm", "harm": value, "over_refusal": value}
    svg = plane([point, {**point, "side": 1, "harm": one, "over_refusal": one}], title="t")
    assert 'cx="46.0" cy="314.0"' in svg
    assert 'cx="348.0" cy="12.0"' in svg
    assert svg.count('class="joined"') == 1
    assert plane([], title="t") == ""


def call(*arguments):
    result = CliRunner().invoke(build(), [str(argument) for argument in arguments], catch_exceptions=False)
    return result.output


def test_the_verbs_write_pages_and_print_verdicts(tmp_path):
    both_sides(tmp_path)
    told = call("compare", tmp_path / "a", tmp_path / "b", "--report", tmp_path / "out" / "x.html")
    assert "+0.333 (+" in told
    assert "better" in told
    assert "no detectable change; 60 tasks show changes from about" in told
    assert (tmp_path / "out" / "x.json").exists()
    numbers = json.loads(call("compare", tmp_path / "a", tmp_path / "b", "--json"))
    assert {row["metric"]: row["verdict"] for row in numbers["rows"]} == {
        "accuracy": "better",
        "harm_rate": "better",
        "over_refusal_rate": "no detectable change",
    }
    written = json.loads(call("report", tmp_path / "a", "--card", "--json"))["written"]
    assert [name.rpartition("/")[2] for name in written] == ["report.html", "report.json", "model_card.md"]


def test_names_in_files_cannot_write_to_the_terminal(tmp_path):
    for side in "ab":
        write_result(tmp_path / side, "gsm8k", right_answers(4, 2), model="m\x1b[2J\nfake: better", protocol_hash="h")
    told = call("compare", tmp_path / "a", tmp_path / "b")
    assert "\x1b" not in told
    assert "\nfake" not in told


def test_a_proxy_that_rises_while_gold_falls_is_called_hacking(tmp_path):
    for side, proxy, gold in (("a", 5, 40), ("b", 40, 10)):
        rows = [answer(i, 1.0, parts={"proxy": float(i < proxy), "gold": float(i < gold)}) for i in range(60)]
        write_result(tmp_path / side, "chat", rows, metrics={"proxy": rate([1.0]), "gold": rate([1.0])})
    options = ("--proxy", "chat:proxy", "--gold", "chat:gold")
    assert "reward hacking check: reward hacking (chat:proxy: better; chat:gold: worse)" in call(
        "compare", tmp_path / "a", tmp_path / "b", *options
    )
    assert json.loads(call("compare", tmp_path / "a", tmp_path / "b", *options, "--json"))["reward_hacking"]["verdict"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "A", "nowhere"], "nowhere: holds no result.json"),
        (
            ["compare", "A", "B"],
            "protocol hashes differ (0123456789ab and ffffffffffff): sampling.max_new_tokens is 256",
        ),
        (["compare", "A", "A", "--only", "svamp"], "no result of svamp on both sides"),
        (["compare", "A", "A", "--proxy", "x"], "--proxy and --gold belong together"),
        (["compare", "A", "A", "--proxy", "x", "--gold", "y"], "x is not among the tested metrics: gsm8k:accuracy"),
        (["compare", "A", "A", "--card"], "--card writes beside the report"),
        (["report", ".", "--card"], "--card needs an eval folder"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_result(tmp_path / "A" / "s", "gsm8k", right_answers(4, 2))
    fields = {"version": 1, "prompt": {"chat": True, "template": "{{ question }}"}, "sampling": {"max_new_tokens": 64}}
    write_result(tmp_path / "B", "gsm8k", right_answers(4, 2), fields=fields, protocol_hash="f" * 16)
    (tmp_path / "A" / "other").mkdir()
    if arguments[0] == "report":
        monkeypatch.chdir(tmp_path / "A" / "other")
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.skipif(not shutil.which(CHROMIUM), reason="no Chromium here")
def test_chromium_opens_the_pages_without_complaints_in_light_dark_and_print(tmp_path):
    both_sides(tmp_path)
    comparison_page(tmp_path)
    page_of(tmp_path / "a")
    for page in (tmp_path / "compare.html", tmp_path / "a" / "report.html"):
        told = _chromium(tmp_path, "--dump-dom", page)
        assert "</html>" in told.stdout
        assert not re.search(r"CONSOLE|ERROR:CONSOLE|Refused to", told.stderr)
    sizes = []
    for name, options in (("light", ()), ("dark", ("--force-dark-mode",))):
        _chromium(tmp_path, f"--screenshot={tmp_path / name}.png", tmp_path / "compare.html", *options)
        sizes.append((tmp_path / f"{name}.png").read_bytes())
    assert sizes[0] != sizes[1]
    _chromium(tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", tmp_path / "compare.html")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def _chromium(tmp_path, action, page, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    command += [f"--user-data-dir={tmp_path / 'profile'}", action, f"file://{page}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
