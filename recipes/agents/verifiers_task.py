"""One task of a verifiers v1 taskset as a command of `environment.program`: its own `vf-eval` asks the policy.

    program: [PYTHON, ./verifiers_task.py, TASKSET, MORE OPTIONS OF vf-eval]

PYTHON is that of an environment that has verifiers, uv and the taskset's package; the policy's needs none of them. The
number of the task is the row's column `number`, else its place in the stage's data. The reward is the sum that
verifiers computes; a rollout that it counts as failed ends with its error, and is a fault of the episode.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HARNESS = ["--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess"]
"""A chat without a container; other options of `--env.agent` come after these and so hold."""


def main() -> None:
    task, taskset = json.load(sys.stdin), sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        asked = subprocess.run(command(taskset, number(task), folder, sys.argv[2:]), capture_output=True, text=True)
        found = list(Path(folder).rglob("traces.jsonl"))
        lines = found[0].read_text().splitlines() if found else []
    if not lines:
        told_last = (asked.stderr.strip() or asked.stdout.strip() or "nothing").splitlines()[-1]
        where = f"task {number(task)} of {taskset}"
        raise SystemExit(f"vf-eval wrote no trace of {where}; are there so many? Its last line: {told_last}")
    print(json.dumps(told(json.loads(lines[0])["traces"])))


def command(taskset: str, place: int, folder: str, more: list[str]) -> list[str]:
    """vf-eval for one task, by the policy that the environment's variables name."""
    client = ["--client.base-url", os.environ["OPENAI_BASE_URL"], "--client.api-key-var", "OPENAI_API_KEY"]
    select = ["--select.skip", str(place), "-n", "1", "-r", "1", "--no-push", "-o", folder]
    run = [str(Path(sys.executable).parent / "vf-eval"), taskset, "-m", os.environ["OPENAI_MODEL"]]
    return [*run, *client, *select, *HARNESS, *more]


def number(task: dict[str, Any]) -> int:
    """Which of the taskset's tasks a row means."""
    given = task["columns"].get("number")
    return int(given) if given is not None else int((re.findall(r"\d+", task["id"]) or ["0"])[-1])


def told(traces: list[dict[str, Any]]) -> dict[str, float]:
    """The weighted sum of the rewards of all traces, and each by its name."""
    errors = [error for trace in traces for error in trace.get("errors") or []]
    if errors:
        raise SystemExit(f"{errors[0]['type']}: {errors[0]['message']}"[:300])
    parts = {name: one for trace in traces for name, one in trace["rewards"].items()}
    total = sum(one["weight"] * one["score"] for one in parts.values())
    return {"reward": total, **{f"verifiers_{name}": one["score"] for name, one in parts.items()}}


if __name__ == "__main__":
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    main()
