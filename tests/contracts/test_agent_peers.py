"""OpenEnv and verifiers themselves, each in an environment of its own (`make peers`): training on them, unchanged."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from alignkit.cli.main import main
from alignkit.data.traces.training_trace import to_training_trace
from alignkit.types.rollout import Rollout
from alignkit.types.task import Task
from alignkit.types.turn import StopReason, Turn
from tests.unit.export_models import write

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

SERVER = """
import sys
from typing import Any, Optional
import uvicorn
from openenv.core.env_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

class Guess(Action):
    message: str

class Seen(Observation):
    prompt: str
    tries: int = 0

class Game(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: Optional[int] = None, episode_id: Optional[str] = None, **more: Any):
        self._state = State(episode_id="x", step_count=0)
        return Seen(prompt="Say yes.")

    def step(self, action, **more):
        self._state.step_count += 1
        right = "yes" in action.message.lower()
        return Seen(prompt="Again.", tries=self._state.step_count, done=right, reward=float(right))

    @property
    def state(self):
        return self._state

uvicorn.run(create_app(Game, Guess, Seen, env_name="yes", max_concurrent_envs=64),
            host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""

TASKSET = """
import verifiers.v1 as vf

class YesTask(vf.Task[vf.TaskData]):
    @vf.reward(weight=2.0)
    async def said(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply or "") > 0)

class YesConfig(vf.TasksetConfig):
    count: int = 8

class YesTaskset(vf.Taskset[YesTask, YesConfig]):
    def load(self):
        return [YesTask(vf.TaskData(idx=i, prompt=f"Say yes {i} times."), self.config.task) for i in range(8)]

__all__ = ["YesTaskset"]
"""


def python_of(name: str) -> Path:
    found = ROOT / f".venv-{name}" / "bin" / "python"
    if not found.exists():
        pytest.skip(f"{name} is not installed beside the project; run `make peers`")
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def openenv_url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    (tmp_path / "server.py").write_text(SERVER)
    server = subprocess.Popen([python_of("openenv"), str(tmp_path / "server.py"), str(port)])
    try:
        for _ in range(600):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "the server ended"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def trained(recipe: str, folder: Path, *settings: str) -> list[dict[str, Any]]:
    """The rollouts of two steps of a recipe of the shelf, on two random layers with SmolLM2's tokens and template."""
    model, run = folder / "model", folder / "run"
    write(model, "SmolLM2")
    small = [
        f"model.path={model}",
        "model.dtype=float32",
        "rollouts.engine=hf",
        "rollouts.prompts=2",
        "rollouts.group=2",
        "rollouts.max_new_tokens=8",
    ]
    more = ["train.steps=2", "checkpoints.every=null", "rollouts.canary_tolerance=0.5", *settings]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(ROOT / "recipes" / "agents" / recipe), f"run={run}", *small, *more])
    assert ended.value.code in (0, None)
    return [row for file in sorted((run / "rollouts").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_grpo_trains_in_an_environment_that_a_real_openenv_server_plays(openenv_url: str, tmp_path: Path):
    rows = trained("openenv.yaml", tmp_path, f"environment.options.url={openenv_url}", "environment.max_turns=2")
    assert len(rows) == 8
    for row in rows:
        said_yes = "yes" in row["completion"].split(" [")[0].lower() or "yes" in row["completion"].lower()
        assert row["reward"] in (0.0, 1.0)
        assert row["reward"] <= said_yes
        assert "Say yes." in row["prompt"]


def test_what_is_written_passes_openenvs_own_check(tmp_path: Path):
    done = StopReason.END_OF_TEXT
    first = Turn(prompt_ids=(1, 2), completion_ids=(3, 4), sampler_logprobs=(-0.5, -1.0), stop=done, text="a")
    second = Turn(prompt_ids=(1, 2, 3, 4, 5), completion_ids=(6,), sampler_logprobs=(-0.1,), stop=done, text="b")
    rollout = Rollout(task=Task(id="t", text="q"), group=0, member=0, turns=(first, second), policy_version=0)
    (tmp_path / "trace.json").write_text(json.dumps(to_training_trace(rollout)))
    check = "import json, sys; from openenv.core.harness.training import TrainingTrace as T; "
    check += "t = T.model_validate(json.load(open(sys.argv[1]))); print(len(t.turns), sum(t.turns[1].loss_mask))"
    told = subprocess.run(
        [python_of("openenv"), "-c", check, str(tmp_path / "trace.json")], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["2", "1"]


def test_grpo_trains_on_a_verifiers_taskset_that_its_own_command_plays(tmp_path: Path, monkeypatch):
    python = python_of("verifiers")
    package = tmp_path / "packages" / "yes_v1"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TASKSET)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent)]))
    command = f"environment.program=[{python}, ./verifiers_task.py, yes_v1]"
    rows = trained("verifiers.yaml", tmp_path, command, "train.steps=1", "data.options={count: 8}")
    assert [row["reward"] for row in rows] == [2.0] * 4, "a weight of 2, paid for saying anything"
    assert sys.executable != str(python)
