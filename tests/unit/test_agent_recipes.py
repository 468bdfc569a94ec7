"""Agents in recipes: a game with a tool from outside of the package, tools alone, TRL's classes, paces, and resume."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import string
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from alignkit.environments.adapters.trl import TrlEnvironment
from alignkit.environments.lift import World
from alignkit.errors import RecipeError
from alignkit.processes.family import descendants
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Recipe
from alignkit.run.check.preflight import preflight
from alignkit.run.train.train import run as train
from alignkit.types.task import Task
from tests.resume.forked import Forked
from tests.resume.runs import fingerprint
from tests.resume.test_resume import wait_for_steps
from tests.unit.test_tools import TEMPLATE, call

CALL = '<tool_call>{"name": "roll", "arguments": {}}</tool_call>'
LETTERS = "".join(sorted({*string.ascii_letters, *string.digits, *" _<>/{}[]()\\\"':,.+-?!\n"}))
RECIPE = f"""
seed: 3
model:
  scratch: {{characters: {json.dumps(LETTERS)}, layers: 1, hidden: 64, heads: 2, context: 320}}
  dtype: float32
  chat_template: {json.dumps(TEMPLATE)}
data: {{source: "./rows.jsonl", holdout: 2}}
rollouts: {{engine: hf, prompts: 2, group: 4, max_new_tokens: 60, canary_tolerance: 0.01}}
stages:
  - name: sft
    algorithm: {{type: sft}}
    optimizer: {{lr: 1e-2}}
    train: {{steps: 60, batch: 4}}
  - name: grpo
    environment: {{name: "./dice.py:dice", tools: ["./dice.py:roll"], max_turns: 4}}
    algorithm: {{type: grpo}}
    optimizer: {{lr: 1e-4}}
    train: {{steps: 2}}
checkpoints: {{every: 1}}
health: {{dead_steps: 100}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).parents[1] / "agents" / "dice.py", tmp_path)
    row = {"prompt": "roll, then say what it shows", "completion": CALL, "reference": "3"}
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**row, "id": number}) for number in range(12)))
    path = tmp_path / "dice.yaml"
    path.write_text(RECIPE)
    return path


def read(recipe: Path, *overrides: str) -> Recipe:
    return read_recipe(recipe, [f"run={recipe.parent / 'run'}", *overrides])


@pytest.mark.slow
def test_a_file_of_forty_lines_outside_the_package_is_a_game_with_a_tool_that_trains(recipe, tmp_path):
    assert len((tmp_path / "dice.py").read_text().splitlines()) <= 40
    found = read(recipe)
    assert preflight(found, found.stages[1], rows=4).problems == []
    train(found, resume=False)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = metrics[-1]
    assert last["tools/calls_mean"] > 0.5, "SFT taught it to roll"
    assert last["reward/unscorable_frac"] == 0
    rows = [
        row
        for file in sorted((tmp_path / "run" / "rollouts").glob("*.parquet"))
        for row in parquet.read_table(file).to_pylist()
    ]
    turns = [turn for row in rows for turn in json.loads(row["turns"])]
    assert any(turn["text"].startswith(CALL) and turn["observation"] in "123456" for turn in turns)


def test_tools_alone_leave_the_pay_to_the_rewards_which_judge_the_last_answer(recipe, tmp_path):
    overrides = [
        f"stages.1.environment={{tools: ['{tmp_path}/dice.py:roll'], isolate: false, max_turns: 2, max_tool_calls: 4}}",
        "stages.1.rewards=[{name: ends_with_stop}]",
        "stages.0.train.steps=2",
        "evaluation={temperature: 1.0, max_new_tokens: 4}",
    ]
    train(read(recipe, *overrides), resume=False)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["reward/mean"] == last["reward/part/ends_with_stop"]
    assert "reward/part/return" not in last


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["stages.1.environment={}"], r"environment: has no `name`, `program` or `tools`"),
        (["stages.1.environment={tools: [calculator]}"], r"grpo learns from rewards; name at least one"),
        (
            ["stages.1.data={source: ./rows.jsonl, chat: false}"],
            r"tools: are shown by the chat template, and data.chat is",
        ),
        (
            ["stages.1.environment.tools=[calculater]"],
            r"no tool is called 'calculater' \(did you mean 'calculator'\?\)",
        ),
        (["stages.1.environment.tools=[{name: search, options: {corpse: x}}]"], r"corpse: is not an option of search"),
        (["stages.1.environment.pace=fast"], r"pace: .*lockstep"),
    ],
)
def test_what_cannot_work_is_refused_with_its_cure(recipe, overrides, problem):
    with pytest.raises(RecipeError, match=problem):
        read(recipe, *overrides)


GAMES = """
seed: 3
model:
  scratch: {characters: "0123456789?<>=!", layers: 1, hidden: 32, heads: 2, context: 32}
  dtype: float32
data: {source: "generator:seeds", options: {count: 40}, chat: false}
rollouts: {engine: hf, prompts: 2, group: 4, max_new_tokens: 2, canary_tolerance: 0.001}
environment: {name: "./slow.py:slow", max_turns: 3}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 8}
checkpoints: {every: 2}
health: {dead_steps: 100}
"""
SLOW = """
import time
from alignkit.environments.guess_number import GuessNumber

class slow(GuessNumber):
    def __init__(self):
        super().__init__(numbers=5, guesses=4)

    def _act(self, text):
        time.sleep(0.03)
        return super()._act(text)
"""


@pytest.fixture
def games(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SLOW)
    path = tmp_path / "games.yaml"
    path.write_text(GAMES)
    return path


@pytest.mark.slow
def test_a_run_killed_with_episodes_in_flight_goes_on_to_the_same_bits_and_leaves_no_process(games, tmp_path):
    train(read_recipe(games, [f"run={tmp_path / 'whole'}"]), resume=False)
    process = Forked(games, tmp_path / "killed")
    wait_for_steps(tmp_path / "killed", more=4, process=process)
    below = descendants(process.pid)
    assert below, "its episodes have processes of their own"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{one}/cmdline").exists() for one in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{one}/cmdline").exists() for one in below)
    train(read_recipe(games, [f"run={tmp_path / 'killed'}"]), resume=True)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


@pytest.mark.slow
def test_free_pace_samples_the_same_episodes_on_an_engine_that_repeats_itself(games, tmp_path):
    """The hf engine asked for one request at a time differs by rounding alone, so the games of a step are the same."""
    said = []
    for pace in ("lockstep", "free"):
        overrides = [f"run={tmp_path / pace}", "train.steps=1", f"environment.pace={pace}", "environment.isolate=false"]
        train(read_recipe(games, overrides), resume=False)
        [file] = (tmp_path / pace / "rollouts").glob("*.parquet")
        said.append([row["turns"] for row in parquet.read_table(file).to_pylist()])
    assert said[0] == said[1]


TRL = '''
class Counter:
    """As TRL's documentation has it: reset, public methods as tools, get_reward."""

    def reset(self, start=0, **row):
        self.value, self.row = start, row
        return f" It begins at {start}."

    def increment(self, step: int) -> int:
        """Adds to the counter.

        Args:
            step: How much.

        Returns:
            The new value.
        """
        self.value += step
        return self.value

    async def peek(self) -> int:
        """Shows the counter."""
        return self.value

    def _hidden(self): ...

    def get_reward(self):
        return float(self.value == 7)


class Unpaid(Counter):
    get_reward = property()


def lookup(word: str) -> dict:
    """Looks a word up.

    Args:
        word: The word.
    """
    return {"word": word}
'''


def test_a_class_of_trls_runs_unchanged_with_its_methods_as_tools(tmp_path):
    (tmp_path / "counter.py").write_text(TRL)
    made: Any = World(name="./counter.py:Counter", tools=(("./counter.py:lookup", {}),), beside=tmp_path).factory()()
    assert isinstance(made, TrlEnvironment)

    async def run() -> list[Any]:
        task = Task(id="t", messages=({"role": "user", "content": "Reach 7."},), columns={"start": 4, "other": 1})
        begun = await made.start(task, 0)
        asked = [call("increment", step=3), call("peek"), call("lookup", word="x"), call("increment", step="3")]
        seen = await made.answer({"role": "assistant", "content": "", "tool_calls": asked})
        return [begun, seen, await made.answer({"role": "assistant", "content": "done"})]

    begun, seen, end = asyncio.run(run())
    assert [message["content"] for message in begun.messages] == ["Reach 7. It begins at 4."]
    assert [tool["function"]["name"] for tool in begun.tools] == ["lookup", "increment", "peek"]
    assert made._one.row.keys() == {"prompt", "reference", "other"}
    assert [message["content"] for message in seen.messages][:3] == ["7", "7", '{"word": "x"}']
    assert seen.tool_faults == ("arguments",)
    assert (end.done, end.reward) == (True, 1.0)


def test_tools_of_an_override_are_looked_for_from_where_it_was_typed(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    found = read(recipe, f"stages.1.environment.tools=['./{tmp_path.name}/dice.py:roll']")
    assert [tool.name for tool in found.stages[1].environment.tools] == ["./dice.py:roll"]


def test_our_tools_of_a_trl_class_are_those_that_trl_finds(tmp_path):
    """The schemas, beside those that GRPOTrainer makes of the same class with its own rule."""
    import inspect

    from transformers.utils import get_json_schema

    (tmp_path / "counter.py").write_text(TRL)
    made: Any = World(name="./counter.py:Counter", beside=tmp_path).factory()()
    one = made._one
    found = inspect.getmembers(type(one), predicate=inspect.isfunction)  # as in grpo_trainer.py
    names = [name for name, _ in found if name not in ("reset", "get_reward") and not name.startswith("_")]
    assert list(made._toolbox.schemas) == [get_json_schema(getattr(one, name)) for name in names]


def test_a_trl_class_trains_and_is_paid_once_also_when_it_is_cut(recipe, tmp_path):
    (tmp_path / "counter.py").write_text(TRL.replace("self.value == 7", "self.value == 0"))
    overrides = [
        f"stages.1.environment={{name: '{tmp_path}/counter.py:Counter', max_turns: 2}}",
        "stages.0.train.steps=2",
        "stages.1.train.steps=1",
    ]
    train(read(recipe, *overrides), resume=False)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["reward/mean"], last["reward/part/return"]) == (1.0, 1.0)
