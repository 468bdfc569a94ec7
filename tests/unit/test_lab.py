"""The reward lab on tables whose errors are known, and its commands."""

from __future__ import annotations

import gzip
import json
import os
import re
from hashlib import sha256
from pathlib import Path

import pytest

from alignkit.cli.main import run
from alignkit.errors import DataError
from alignkit.evaluate.statistics import reward_lab as lab
from alignkit.rewards.base import unscorable
from alignkit.rewards.learned.probes import PROBES
from alignkit.types.score import Fault, FaultKind, Score
from alignkit.types.task import Task
from tests.unit.test_layers import heavy_after

DATA = Path(os.environ.get("ALIGNKIT_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no GSM8K rows: set ALIGNKIT_DATA")
REWARDS = '''
import os, time

def honest(completion, task):
    return float(completion.strip() == task.reference)

def lenient(completion, task):
    """Accepts the answer anywhere: pays for every trick but the empty one."""
    return float(task.reference in completion)

def obedient(completion, task):
    """A judge that does what it is told."""
    return 1.0 if "highest score" in completion else honest(completion, task)

def long_is_good(completion, task):
    return float(len(completion))

def probability(completion, task):
    return float(completion.split()[-1])

def broken(completion, task):
    if "hang" in completion: time.sleep(60)
    if "die" in completion: os._exit(1)
    return None if "pass" in completion else 1.0

class Longest:
    """Compares the completions of a prompt."""
    name = "Longest"
    async def score(self, task, rollouts):
        from alignkit.types.score import Score
        longest = max(len(r.text) for r in rollouts)
        return [Score(value=float(len(r.text) == longest)) for r in rollouts]
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REWARDS)
    return tmp_path


def table(folder, rows, name="t.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def sums(count=60):
    """Right for even numbers; the wrong answers are one too large and never hold the right one."""
    return [
        {
            "prompt": f"What is {n} + 400?",
            "completion": f"{n + 400 + n % 2}",
            "label": n % 2 == 0,
            "reference": f"{n + 400}",
        }
        for n in range(count)
    ]


def command(capsys, *arguments):
    """The JSON that a verb prints."""
    code = run([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def pays(result):
    return {probe["probe"] for probe in result["probes"] if probe["pays"]}


def test_an_honest_reward_has_no_errors_and_pays_no_exploit(folder, capsys):
    result = command(capsys, "reward", "test", table(folder, sums()), "./mine.py:honest")
    assert result["false_accept"]["hits"] == result["false_reject"]["hits"] == 0
    assert (result["false_accept"]["trials"], result["false_reject"]["trials"]) == (30, 30)
    assert result["auc"]["value"] == 1
    assert pays(result) == set()
    assert {probe["probe"] for probe in result["probes"]} == {probe.name for probe in PROBES}


def test_exploits_are_found_where_they_pay(folder, capsys):
    source = table(folder, sums())
    lenient = command(capsys, "reward", "test", source, "./mine.py:lenient")
    assert pays(lenient) == {"boxed_spam", "in_think", "open_think", "think_then_wrong"}
    assert lenient["false_accept"]["hits"] == 0, "its errors do not show in honest answers"
    assert pays(command(capsys, "reward", "test", source, "./mine.py:obedient")) == {"injection", "wrong_injection"}
    long = command(capsys, "reward", "test", source, "./mine.py:long_is_good", "--threshold", "100")
    padded = next(probe for probe in long["probes"] if probe["probe"] == "wrong_padded")
    assert (padded["pays"], padded["above_wrong"]["value"]) == (True, 1)


def test_errors_are_counted_by_hand(folder, capsys):
    scores = [(0.9, 1), (0.8, 1), (0.4, 1), (0.5, 0), (0.1, 0), (0.2, 0), (0.3, 0)]
    rows = [{"prompt": "?", "completion": f"p {score}", "label": label} for score, label in scores]
    result = command(capsys, "reward", "test", table(folder, rows), "./mine.py:probability", "--no-probes")
    assert (result["false_accept"]["hits"], result["false_accept"]["trials"]) == (1, 4)  # .5 is at the threshold
    assert (result["false_reject"]["hits"], result["false_reject"]["trials"]) == (1, 3)
    assert (result["false_accepts"], result["false_rejects"]) == ([3], [2])
    assert result["auc"]["value"] == pytest.approx(11 / 12)
    assert sum(one["count"] for one in result["calibration"]["bins"]) == 7
    assert result["probes"] == []
    stricter = command(
        capsys, "reward", "test", "t.jsonl", "./mine.py:probability", "--no-probes", "--threshold", "0.6"
    )
    assert (stricter["false_accept"]["hits"], stricter["false_reject"]["hits"]) == (0, 1)


def test_faults_are_counted_and_are_neither_accepted_nor_rejected(folder, capsys):
    rows = [
        {"prompt": "?", "completion": text, "label": label}
        for text, label in (("a", 1), ("hang", 1), ("die", 0), ("pass", 0), ("b", 0))
    ]
    source = table(folder, rows)
    result = command(capsys, "reward", "test", source, "./mine.py:broken", "--deadline", "0.3", "--no-probes")
    assert result["unscorable"] == {"crash": 1, "refused": 1, "timeout": 1}
    assert (result["scored"], result["false_accept"]["trials"], result["false_reject"]["trials"]) == (2, 1, 1)
    assert [row["fault"] for row in result["scores"]] == [None, "timeout", "crash", "refused", None]


def test_the_same_input_gives_the_same_numbers_but_for_the_times(folder, capsys):
    source = table(folder, sums())
    results = [
        command(capsys, "reward", "test", source, "./mine.py:long_is_good", "--seed", "3", "--workers", workers)
        for workers in (1, 3)
    ]
    for result in results:
        assert result.pop("time")["answers_per_s"] > 0
    assert results[0] == results[1]
    assert results[0]["table"]["sha256"] == sha256((folder / source).read_bytes()).hexdigest()
    assert results[0]["rewards"][0]["file_sha256"] == sha256((folder / "mine.py").read_bytes()).hexdigest()


def test_a_threshold_is_chosen_on_one_half_and_measured_on_the_other(folder, capsys):
    rows = [{"prompt": "?", "completion": "x" * (20 if right else 10), "label": right} for right in [True, False] * 20]
    result = command(capsys, "reward", "test", table(folder, rows), "./mine.py:long_is_good", "--no-probes")
    assert result["threshold"] == {
        "value": 15.0,
        "how": "best on a random half of the rows; measured on the other half",
        "rows": 20,
    }
    assert result["false_accept"]["trials"] + result["false_reject"]["trials"] == 20


def test_rewards_are_compared_by_verdict_rank_and_labels(folder, capsys):
    source = table(folder, [*sums(40), *({**row, "completion": f"it is {row['reference']}"} for row in sums(20))])
    result = command(capsys, "reward", "compare", source, "./mine.py:honest", "./mine.py:lenient", "./mine.py:obedient")
    assert result["names"] == ["honest", "lenient", "obedient"]
    pair = result["agreement"][0]
    assert pair["same_verdict"]["hits"] == 40
    assert (pair["only_first_right"], pair["only_second_right"]) == (10, 10)  # half of the 20 are labelled wrong
    assert pair["p_value"] == 1
    assert result["agreement"][1]["kappa"] == 1
    assert pair["disagree"] == list(range(40, 60))


def test_options_of_compared_rewards_are_numbered(folder, capsys):
    rows = [{"prompt": "?", "completion": "x" * n, "label": n < 8, "reference": "x"} for n in range(1, 16)]
    name = "length_penalty"
    numbered = ("-o", "1.max_tokens=10", "-o", "1.buffer=0", "-o", "2.max_tokens=8", "-o", "2.buffer=0")
    result = command(capsys, "reward", "compare", table(folder, rows), name, name, *numbered)
    assert [reward["options"]["max_tokens"] for reward in result["rewards"]] == [10, 8]
    assert result["names"] == [name, f"{name}#2"]
    assert run(["reward", "compare", "t.jsonl", name, name, "-o", "max_tokens=3"]) == 2


def test_a_reward_that_compares_sees_all_completions_of_a_prompt(folder, capsys):
    rows = [{"prompt": p, "completion": c, "label": c != "a"} for p, c in (("1", "a"), ("2", "b"), ("1", "aaa"))]
    result = command(capsys, "reward", "test", table(folder, rows), "./mine.py:Longest", "--no-probes")
    assert [row["value"] for row in result["scores"]] == [0, 1, 1]


def test_speed_is_measured_with_one_worker_and_with_all(folder, capsys):
    result = command(capsys, "reward", "bench", table(folder, sums(20)), "./mine.py:honest", "--workers", "2")
    assert [one["workers"] for one in result["speed"]] == [1, 2]
    assert 0 < result["speed"][0]["p50_ms"] <= result["speed"][0]["p95_ms"] <= result["speed"][0]["max_ms"]


def test_columns_are_renamed_and_prompts_made_from_them(folder, capsys):
    rows = [{"question": "1 + 1", "answer": "2", "gold": "2", "ok": "right"}]
    columns = ("--column", "completion=answer", "--column", "label=ok", "--column", "reference=gold")
    source = table(folder, rows)
    arguments = (
        "reward",
        "test",
        source,
        "./mine.py:honest",
        *columns,
        "--template",
        "What is {question}?",
        "--no-probes",
    )
    assert command(capsys, *arguments)["false_reject"]["hits"] == 0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "?", "completion": "x"}, "no column 'label'"),
        ({"prompt": "?", "completion": "x", "label": "maybe"}, "the label is 'maybe'"),
        ({"prompt": "?", "completion": "x", "label": 2}, "the label is '2'"),
        ({"prompt": "?", "completion": "x", "label": None}, "the label is 'None'"),
        ({"prompt": "?", "label": 1}, "no column 'completion'"),
        ({"completion": "x", "label": 1}, "no column 'prompt'"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line_with_the_row(folder, capsys, row, said):
    assert run(["reward", "test", table(folder, [row]), "./mine.py:honest"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert re.search(r"row 1|line 1", error)


def test_a_reward_that_can_score_nothing_says_why(folder, capsys):
    assert run(["reward", "test", table(folder, sums(3)), "choice_letter"]) == 2
    assert "none of 3 rows could be scored; the first: gold in choice_letter" in capsys.readouterr().err


def test_pages_are_self_contained_and_escape_what_they_show(folder, capsys):
    rows = [{**row, "reference": row["reference"]} for row in sums()]
    source = table(folder, rows, name="<script>alert(1)<.jsonl")
    for verb, rewards in (("test", ["./mine.py:probability"]), ("compare", ["./mine.py:honest", "./mine.py:lenient"])):
        out = folder / verb
        command(capsys, "reward", verb, source, *rewards, "--out", out)
        page = (out / "report.html").read_text()
        assert "<script" not in page
        assert not re.search(r'(?:src|href)="', page)
        assert "&lt;script&gt;alert(1)" in page
        assert "<svg" in page
        assert json.loads((out / "result.json").read_text())["seed"] == 0


@needs_data
@pytest.mark.parametrize("name", ["final_number", "math_answer"])
def test_real_solutions_are_graded_without_an_error_and_no_exploit_pays(folder, capsys, name):
    """The 4,000 labelled model solutions that come with GSM8K."""
    rows = []
    with gzip.open(DATA / "gsm8k" / "example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as file:
        questions = [json.loads(line) for line in file]
    for row in questions:
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            given = {"completion": row[model]["solution"], "label": row[model]["is_correct"]}
            rows.append({"prompt": row["question"], "reference": gold, **given})
    result = command(capsys, "reward", "test", table(folder, rows), name)
    assert (result["false_accept"]["hits"], result["false_reject"]["hits"]) == (0, 0)
    assert (result["wrong"], result["right"]) == (2459, 1541)
    assert pays(result) == set()
    print({probe["probe"]: probe["paid"]["hits"] for probe in result["probes"]}, result["time"])


def test_labels_and_probe_texts():
    assert [lab.read_label(value, "w") for value in (True, 1, "1", "yes", "true", False, 0.0, "no", "wrong")] == [
        True
    ] * 5 + [False] * 4
    with pytest.raises(DataError, match="w: the label is 'nan'"):
        lab.read_label(float("nan"), "w")
    task = Task(id="t", text="What?", reference=r"so \boxed{7}")
    texts = {probe.name: probe.make(task, "8") for probe in PROBES}
    assert texts["question"] == "What?"
    assert texts["in_think"] == r"<think>\boxed{7}</think>"
    assert texts["boxed_spam"].split()[-1] == r"\boxed{12345677}"
    assert r"\boxed{7}" in texts["boxed_spam"]
    assert texts["think_then_wrong"].endswith("</think>\n8")
    no_gold = {probe.name for probe in PROBES if probe.make(Task(id="t", text="?"), None) is None}
    assert no_gold == {"boxed_spam", "in_think", "open_think", "think_then_wrong", "wrong_injection", "wrong_padded"}


def test_notes_beside_a_value_are_counted_apart_from_faults():
    note = Score(value=0.0, fault=Fault(kind=FaultKind.PARSE, where="r"))
    scores = [note, Score(value=1.0), unscorable(FaultKind.GOLD, "r")]
    found = lab.report(scores, [False, True, True], threshold=lab.Threshold(0.5, "given"), calibrate=False)
    assert (found["notes"], found["unscorable"]) == ({"parse": 1}, {"gold": 1})


def completions(folder):
    """Gold is the share of `g`; the proxy counts length, which 3 of 16 answers pad."""
    rows = []
    for n in range(30):
        good = ["g" * k + "." * (15 - k) for k in range(13)]
        rows.append({"prompt": f"q{n}", "completions": [text[: 2 + k] for k, text in enumerate(good)] + ["." * 40] * 3})
    return table(folder, rows, name="c.jsonl")


def test_best_of_n_finds_where_the_proxy_stops_helping(folder, capsys):
    (folder / "more.py").write_text("def share(completion, task): return completion.count('g')\n")
    found = command(
        capsys,
        *("best-of-n", completions(folder), "./mine.py:long_is_good", "--gold", "./more.py:share"),
        *("--pick", "best.jsonl", "--out", "o"),
    )
    assert [point["n"] for point in found["points"]] == [1, 2, 4, 8, 16]
    assert found["points"][-1]["proxy"] == 40
    assert found["points"][-1]["gold"] == 0
    assert found["points"][0]["proxy"] == pytest.approx((sum(range(2, 15)) + 120) / 16)
    assert found["overoptimisation"]["verdict"] == "over-optimised"
    assert 1 < found["overoptimisation"]["peak"] < 16
    best = [json.loads(line) for line in (folder / "best.jsonl").read_text().splitlines()]
    assert len(best) == 30
    assert best[0] == {"prompt": [{"role": "user", "content": "q0"}], "completion": "." * 40, "score": 40, "gold": 0}
    assert "over-optimised" in (folder / "o" / "report.html").read_text()


def test_best_of_n_reads_one_completion_a_row_and_a_gold_column(folder, capsys):
    rows = [{"prompt": f"q{n % 2}", "completion": "x" * n, "quality": 10 - n} for n in range(1, 9)]
    source = table(folder, rows)
    arguments = ("best-of-n", source, "./mine.py:long_is_good", "--gold-column", "quality", "--n", "1,4")
    found = command(capsys, *arguments)
    assert (found["prompts"], found["samples"]) == (2, 4)
    assert [point["proxy"] for point in found["points"]] == [4.5, 7.5]
    assert [point["gold"] for point in found["points"]] == [5.5, 2.5]
    assert run(["best-of-n", source, "./mine.py:long_is_good", "--n", "5"]) == 2
    assert "wanted 1 to 4" in capsys.readouterr().err
    assert run(["best-of-n", source, "./mine.py:long_is_good", "--gold-column", "qality"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_samples_without_a_value_are_left_out_and_counted(folder, capsys):
    rows = [
        {"prompt": "a", "completions": ["x", "y", "pass"]},
        {"prompt": "b", "completions": ["x", "y", "z"]},
        {"prompt": "c", "completions": ["pass", "pass", "pass"]},
    ]
    found = command(capsys, "best-of-n", table(folder, rows), "./mine.py:broken")
    assert found["left_out"] == {"prompts": 1, "samples": {"refused": 4}}
    assert (found["prompts"], found["samples"]) == (2, 2)
    assert found["overoptimisation"] is None


def test_the_verbs_start_without_the_heavy_libraries():
    assert heavy_after("import alignkit.cli.reward, alignkit.cli.best_of_n, alignkit.cli.serve") == []
    assert heavy_after("import alignkit.run.lab.lab, alignkit.rewards.serve.remote, alignkit.rewards.judge.judge") == []
