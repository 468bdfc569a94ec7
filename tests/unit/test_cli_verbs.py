"""The command line: its verbs, JSON output, exit codes, start-up time, and errors of one line each."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.cli import main
from alignkit.errors import HealthError
from alignkit.recipe.lookup.find import list_content
from alignkit.recipe.settings import recipe_json_schema, settings_markdown

ROOT = Path(__file__).parents[2]
RECIPE = """\
# A recipe for these tests
model:
  scratch: {hidden: 32, heads: 4, characters: "0123456789+="}
data:
  source: generator:arithmetic
  options: {digits: 1, style: characters}
  chat: false
rewards:
  - name: exact_match
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 8, reward_workers: 1}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 3}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def alignkit(capsys):
    """Runs one command in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_checking_a_recipe_imports_few_modules_and_no_heavy_package_and_takes_little_of_the_processor(folder):
    """On an idle machine it is 0.5 s; what would make it slow is imports, and they are counted."""
    code = (
        "import sys; from alignkit.cli.main import run; code = run(['check', 'r.yaml', '--quick']);"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'vllm', 'trl', 'cryptography'};"
        "print(code, sorted(set(sys.modules) & heavy), len(sys.modules))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    begin = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    seconds = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - begin
    code, heavy, modules = done.stdout.splitlines()[-1].replace("[]", "none").split()
    assert (code, heavy) == ("0", "none")
    assert int(modules) < 500
    assert seconds < 4.0


def test_python_dash_m_alignkit_is_the_command(folder):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "alignkit", "check", "broken.yaml"]
    (folder / "broken.yaml").write_text(RECIPE.replace("steps", "stepz"))
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "broken.yaml:13: train.stepz: is not a setting (did you mean 'steps'?)",
    ]


def test_quick_check_prints_the_batch_equation(alignkit, folder):
    code, out, err = alignkit("check", "r.yaml", "--quick", "train.minibatches=2")
    assert (code, err) == (0, "")
    equation = (
        "4 prompts x 4 = 16 completions a step; 1 epoch x 2 minibatches of 8 x 3 steps = 6 optimizer steps; "
        "at most 384 sampled tokens"
    )
    assert out.splitlines() == ["stage main: grpo", f"  {equation}", "r.yaml is fine"]


def test_check_as_json_holds_the_batch_or_the_problems(alignkit, folder):
    code, out, _ = alignkit("check", "r.yaml", "--quick", "--json")
    answer = json.loads(out)
    assert (code, answer["ok"], answer["stages"][0]["batch"]["optimizer_steps"]) == (0, True, 3)
    code, out, err = alignkit("check", "r.yaml", "--quick", "--json", "seed=x", "tracker=wand")
    answer = json.loads(out)
    assert (code, answer["ok"]) == (2, False)
    assert answer["problems"] == err.splitlines()
    assert [line.partition(": ")[0] for line in answer["problems"]] == ["<command line>:1", "<command line>:2"]


def test_full_check_measures_prompts_and_grades_gold_answers(alignkit, folder):
    code, out, err = alignkit("check", "r.yaml", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["stages"][0]["preflight"]
    assert found["tasks"] == 70  # 100 one-digit sums, 30 of them held out
    assert found["prompts"]["longest"] == len("1+2=")
    assert found["prompts"]["over_limit"] == 0
    assert found["answers"]["longest"] == 2
    assert found["gold"]["means"] == {"total": 1.0, "exact_match": 1.0}
    assert (found["gold"]["rows"], found["gold"]["unscorable"]) == (70, 0)


def test_full_check_lists_rows_whose_gold_answer_cannot_be_scored(alignkit, folder):
    (folder / "judge.py").write_text("def judge(completion, task):\n    return None if completion == '3' else 0.5\n")
    code, out, _ = alignkit("check", "r.yaml", "rewards=[{name: './judge.py:judge'}]", "--json")
    answer = json.loads(out)
    gold = answer["stages"][0]["preflight"]["gold"]
    assert code == 1
    assert gold["means"] == {"total": 0.5, "judge": 0.5}
    assert 0 < gold["unscorable"] <= 4  # 0+3, 1+2, 2+1, 3+0, less those held out
    assert answer["problems"] == [f"gold answers: {gold['unscorable']} of 70 cannot be scored"]
    assert all("refused in judge" in row for row in gold["shown"])


def test_full_check_fails_on_prompts_that_would_stop_the_run_and_names_rows_graded_low(alignkit, folder):
    (folder / "judge.py").write_text("def judge(completion, task):\n    return float(completion != '3')\n")
    code, out, _ = alignkit("check", "r.yaml", "rewards.0.name=./judge.py:judge", "data.max_prompt_tokens=3")
    assert code == 1
    assert "prompts: 70 of 70 rows are longer than 3 tokens; see data.long_prompts" in out
    assert "below the best" in out
    assert ": 0\n" in out
    assert alignkit("check", "r.yaml", "data.max_prompt_tokens=3", "data.long_prompts=filter")[0] == 0


def test_checking_data_says_what_was_recognised(alignkit, folder):
    rows = [{"prompt": f"q{i}", "reference": i if i else None, "topic": "x"} for i in range(3)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = alignkit("check", "d.jsonl", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["tasks"], answer["balance"]["references"]) == (3, 2)
    assert {one["name"]: one["taken_for"] for one in answer["columns"]}["topic"] == ["kept for rewards"]
    code, out, err = alignkit("check", "nothing.jsonl")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_a_check_of_nothing_says_what_to_give(alignkit):
    assert alignkit("check")[0] == 2


def test_explain_prints_the_objective_of_each_stage(alignkit, folder):
    code, out, _ = alignkit("explain", "r.yaml", "algorithm.scale=none")
    assert code == 0
    assert "scale none" in out
    assert "reward     1 x exact_match" in out
    assert json.loads(alignkit("explain", "r.yaml", "--json")[1])["stages"][0]["models"] == ["policy"]


def test_ls_lists_every_kind_and_one_kind(alignkit, folder):
    listed = json.loads(alignkit("ls", "--json")[1])
    assert [entry["kind"] for entry in listed if entry["name"] == "grpo"] == ["recipes", "algorithms"]
    only = json.loads(alignkit("ls", "launch", "--json")[1])
    assert {entry["kind"] for entry in only} == {"launch"}
    assert "zero2-cpu" in alignkit("ls", "launch")[1]
    code, _, err = alignkit("ls", "lunch")
    assert (code, "did you mean 'launch'" in err) == (2, True)


def test_cp_copies_once_and_never_overwrites(alignkit, folder):
    code, out, _ = alignkit("cp", "zero2", ".", "--json")
    copied = Path(json.loads(out)["to"])
    assert code == 0
    assert copied.read_bytes() == (ROOT / "launch" / "accelerate" / "zero2.yaml").read_bytes()
    copied.write_text("mine")
    code, _, err = alignkit("cp", "zero2", ".")
    assert (code, copied.read_text()) == (2, "mine")
    assert "exists already" in err
    assert alignkit("cp", "algorithms/sft", "my_sft.py")[0] == 0
    assert alignkit("cp", "algorithms/sft", "nowhere/at/all.py")[2].startswith("there is no folder")
    assert "did you mean 'zero3'" in alignkit("cp", "zeroo3", ".")[2]


def test_a_copied_algorithm_wins_over_the_shipped_one(alignkit, folder):
    (folder / "algorithms").mkdir()
    assert alignkit("cp", "algorithms/sft", "algorithms")[0] == 0
    origin = {found.name: found.origin for found in list_content("algorithms", beside=folder)}
    assert (origin["sft"], origin["grpo"]) == ("beside the recipe", "shelf")


def test_wrong_usage_exits_2_and_help_exits_0(alignkit):
    code, _, err = alignkit("train", "--no-such-flag")
    assert code == 2
    assert "Traceback" not in err
    code, out, _ = alignkit("--help")
    assert code == 0
    assert all(verb in out for verb in ("train", "check", "explain", "ls", "cp", "doctor", "report"))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, ""),
        (HealthError("dead for 10 steps"), 3, "dead for 10 steps"),
        (ZeroDivisionError("by\nzero"), 1, "alignkit failed: ZeroDivisionError: by (--debug shows where)"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_no_traceback(alignkit, monkeypatch, error, code, line):
    def fail(as_json: bool = False) -> None:
        raise error

    monkeypatch.setattr(main, "doctor", fail)
    monkeypatch.setattr(main, "command", main.command.__wrapped__)  # built anew, with the changed verb
    result = alignkit("fail")
    assert (result[0], result[2].strip()) == (code, line)


def test_debug_shows_the_traceback(monkeypatch):
    def fail(as_json: bool = False) -> None:
        raise HealthError("dead")

    monkeypatch.setattr(main, "doctor", fail)
    monkeypatch.setattr(main, "command", main.command.__wrapped__)  # built anew, with the changed verb
    with pytest.raises(HealthError):
        main.run(["--debug", "fail"])


def test_report_writes_the_html_of_a_run_and_refuses_what_is_no_run(alignkit, folder):
    code, _, err = alignkit("report", "nowhere")
    assert (code, err) == (2, "there is no run folder nowhere\n")


def test_the_json_schema_knows_every_section_and_each_algorithm(alignkit):
    schema = json.loads(alignkit("check", "--schema")[1])
    assert schema == json.loads(json.dumps(recipe_json_schema()))
    assert {"model", "data", "rewards", "algorithm", "stages", "extends"} <= schema["properties"].keys()
    assert "file" not in schema["properties"]
    branches = schema["properties"]["algorithm"]["allOf"]
    grpo = next(branch["then"] for branch in branches if branch["if"]["properties"]["type"]["const"] == "grpo")
    assert schema["$defs"][grpo["properties"]["loss"]["$ref"].removeprefix("#/$defs/")]["properties"]["clip_high"]


def test_the_manual_holds_the_settings_as_they_are():
    manual = (ROOT / "docs" / "recipes.md").read_text()
    assert settings_markdown() in manual, "run: alignkit check --settings, and paste it into docs/recipes.md"
