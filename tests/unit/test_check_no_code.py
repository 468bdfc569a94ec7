"""`alignkit check --no-code`: a stranger's recipe is read as data, and what was not looked into is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.cli import main

CANARY = 'from pathlib import Path\nPath({canary!r}).joinpath("imported-" + __name__.replace(".", "-")).touch()\n'
RECIPE = """\
model:
  scratch: {hidden: 32, heads: 4}
data:
  source: ./rows.py:rows
  chat: false
rewards:
  - name: ./mine.py:reward
  - name: exact_match
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 8}
algorithm: {type: ./update.py}
optimizer: {lr: 1e-3}
train: {steps: 3}
"""
DEFINED = """
def rows(*, count=3): return []
def reward(completion, task, *, word="x"): return 1.0
def talk(*, size=3): return None
ALGORITHM = None
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder in which every importable file leaves a canary when it is imported."""
    canaries = tmp_path / "canaries"
    canaries.mkdir()
    work = tmp_path / "work"
    source = CANARY.format(canary=str(canaries)) + DEFINED
    for name in ("rows.py", "mine.py", "update.py", "world.py", "strangers_pack/__init__.py", "strangers_pack/part.py"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(source)
    (work / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    return work


def canaries(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder.parent / "canaries").iterdir())


@pytest.fixture
def check(capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["check", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_canaries_sing_when_the_recipe_is_checked_in_the_ordinary_way(folder, check):
    check("r.yaml", "--quick")
    assert len(canaries(folder)) == 1  # the algorithm's file


def test_nothing_is_imported_and_what_was_not_is_listed_by_name(folder, check):
    code, out, err = check("r.yaml", "--no-code")
    assert (code, err, canaries(folder)) == (0, "", [])
    assert out.splitlines() == [
        "not imported: ./rows.py:rows (data.source)",
        "not imported: ./mine.py:reward (rewards.0.name)",
        "not imported: ./update.py (algorithm.type)",
        "r.yaml has no mistake that can be seen without its code",
    ]


KINDS = {
    "a reward of a file": ("rewards=[{name: './mine.py:reward'}]", "rewards.0.name"),
    "a reward of a module": ("rewards=[{name: 'strangers_pack.part:reward'}]", "rewards.0.name"),
    "an environment of a file": ("environment={name: './world.py:talk'}", "environment.name"),
    "an environment of a module": ("environment={name: 'strangers_pack:talk'}", "environment.name"),
    "an algorithm of a file": ("algorithm={type: './update.py', depth: 3}", "algorithm.type"),
    "an algorithm of a module": ("algorithm={type: 'strangers_pack.part:ALGORITHM'}", "algorithm.type"),
    "rows of a file": ("data={source: './rows.py:rows', chat: false}", "data.source"),
    "rows of a module": ("data={source: 'strangers_pack.part:rows', chat: false}", "data.source"),
    "rows in a mixture": ("data={mixture: {a: {source: './rows.py:rows'}}, chat: false}", "data.mixture.a.source"),
    "rows to evaluate": ("evaluation={data: {source: './rows.py:rows'}}", "evaluation.data.source"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_kind_the_file_is_named_and_stays_unread(folder, check, kind):
    override, key = KINDS[kind]
    code, out, err = check("r.yaml", "--no-code", "--json", override)
    assert (code, err, canaries(folder)) == (0, "", [])
    named = {one["key"]: one for one in json.loads(out)["not_imported"]}
    assert named[key]["name"] in override
    assert Path(named[key]["path"]).is_relative_to(folder)


def test_a_file_beside_the_recipe_that_takes_a_shipped_name_is_a_strangers(folder, check):
    source = (folder / "mine.py").read_text()
    for place, defined in (("algorithms/grpo.py", "ALGORITHM"), ("reward_models/exact_match.py", "exact_match")):
        (folder / place).parent.mkdir()
        (folder / place).write_text(f"{source}\n{defined} = None\n")
    code, out, _ = check("r.yaml", "--no-code", "algorithm.type=grpo")
    assert (code, canaries(folder)) == (0, [])
    assert "not imported: grpo (algorithm.type)" in out
    assert "not imported: exact_match (rewards.1.name)" in out


def test_what_alignkit_ships_is_read_and_not_listed(folder, check):
    given = ("data.source=generator:arithmetic", "rewards=[{name: exact_match}]", "algorithm={type: grpo}")
    assert check("r.yaml", "--no-code", *given)[1].splitlines() == [
        "r.yaml has no mistake that can be seen without its code"
    ]


MISTAKES = {
    "train.stepz=3": "train.stepz: is not a setting (did you mean 'steps'?)",
    "optimizer.lr=fast": "optimizer.lr: wants a number; got 'fast'",
    "rewards=[{name: './mine.py:rewart'}]": "does not define 'rewart' (did you mean 'reward'?)",
    "rewards.0.options={wort: a}": "rewards.0.options.wort: is not an option of reward (did you mean 'word'?)",
    "data.options={cound: 2}": "data.options.cound: is not an option of './rows.py:rows' (did you mean 'count'?)",
    "environment={name: './world.py:talk', options: {siez: 2}}": "environment.options.siez: is not an option of talk",
    "algorithm.type=./updates.py": "there is no file",
    "data.source=nowhere.jsonl": "data.source: there is no file 'nowhere.jsonl'",
    "model.path=./gone": "model: exactly one of `path` and `scratch` must be given; got both",
    "optimizer.warmup_steps=9": "optimizer.warmup_steps: the warm-up (9) must end before the 3 optimizer steps do",
    "launch=nothing_like_this": "launch: no launch profile is called 'nothing_like_this'",
    "constraints=[{of: nobody, limit: 1.0}]": "constraints.0.of: no reward of this stage is called 'nobody'",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_that_needs_no_code_is_still_shown_where_it_stands(folder, check, override):
    code, out, err = check("r.yaml", "--no-code", override)
    assert (code, canaries(folder)) == (2, [])
    assert any(MISTAKES[override] in line for line in err.splitlines()), err
    assert "not imported: " in out


def test_the_settings_of_a_shipped_algorithm_are_checked_though_the_rewards_are_a_strangers(folder, check):
    code, out, err = check("r.yaml", "--no-code", "--json", "algorithm={type: grpo, clip_hihg: 0.3}")
    assert (code, canaries(folder)) == (2, [])
    assert "algorithm.clip_hihg: is not a setting here (did you mean 'loss.clip_high'?)" in err
    answer = json.loads(out)
    assert answer["problems"] == err.splitlines()
    assert [one["key"] for one in answer["not_imported"]] == ["data.source", "rewards.0.name"]


def test_a_suite_and_a_launch_profile_of_the_strangers_own_are_named(folder, check):
    (folder / "suite.yaml").write_text("# A suite\ntasks: []\n")
    (folder / "cluster.sh.j2").write_text("# A profile\n")
    code, out, _ = check("r.yaml", "--no-code", "launch=./cluster.sh.j2", "evaluation={suite: ./suite.yaml}")
    assert "not looked into: ./cluster.sh.j2 (launch)" in out
    assert code in (0, 2)


def test_the_whole_command_in_a_process_of_its_own_imports_no_stranger_either(folder):
    command = [sys.executable, "-m", "alignkit", "check", "r.yaml", "--no-code"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, canaries(folder)) == (0, []), done.stderr
