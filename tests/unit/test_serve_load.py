"""A served reward under load: speed against the same reward without HTTP, and 20,000 malformed requests. Slow."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from alignkit.cli.main import run
from alignkit.recipe.schema import RewardSpec
from alignkit.rewards.pool.pool import RewardPool
from alignkit.rewards.serve.remote import RemoteReward
from alignkit.rewards.serve.wire import WireGroup, WireTurn, group_from_wire
from alignkit.types.task import Task
from tests.pace import cpu_s, pace
from tests.unit.loopback import TOKEN, Scripted, served

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytestmark = pytest.mark.slow


@contextmanager
def command_served(name, *arguments):
    """`alignkit serve` in a process of its own; yields (its URL, its process id)."""
    environment = {**os.environ, "ALIGNKIT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "alignkit", "serve", name, "--port", "0", "--json", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        process.stdout.close()


def groups(count, size=8):
    """Prompts with `size` different worked answers each, of which the first is right."""
    filler = "First we add the parts, then we check the sum against the question once more. " * 6
    for number in range(count):
        task = Task(id=f"{number}", text=f"What is {number} + 1?", reference=str(number + 1))
        texts = [f"{filler}\n#### {number + 1 + k}" for k in range(size)]
        turns = [WireTurn(text=text, token_ids=tuple(range(30_000, 30_000 + len(text) // 4))) for text in texts]
        yield group_from_wire(
            WireGroup(prompt=task.text or "", completions=[[t] for t in turns], reference=task.reference)
        )


def server_s(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_http_costs_little_beside_the_reward(monkeypatch):
    monkeypatch.setenv("ALIGNKIT_TOKEN", TOKEN)
    asked = list(groups(500))
    with closing(RewardPool([RewardSpec(name="gsm8k_answer")], workers=2)) as pool:
        expected = asyncio.run(pool.score(asked))
    with command_served("gsm8k_answer") as (url, pid):
        reward = RemoteReward(url, deadline_s=30)

        async def remotely():
            return await asyncio.gather(*(reward.score(task, rollouts) for task, rollouts in asked))

        before = server_s(pid)
        found = []
        client = cpu_s(lambda: found.extend(asyncio.run(remotely())))
        server = server_s(pid) - before
    assert [[score.value for score in group] for group in found] == [[s.value for s in group] for group in expected]
    print(f"\n4,000 answers over HTTP: {client:.1f} s of the client's processor, {server:.1f} s of the server's")
    assert client + server < 10 * pace(), "2.5 ms an answer; the one that asks and the one that answers"


def test_20000_malformed_requests_leave_the_server_as_it_was(record_property):
    record_property("tries", 20_000)
    random_ = random.Random(1)
    good = json.dumps({"groups": [{"prompt": "?", "completions": ["#### 1"], "reference": "1", "columns": {"a": [1]}}]})
    headers = {"Authorization": f"Bearer {TOKEN}"}
    counts: dict[int, int] = {}
    with command_served("gsm8k_answer") as (url, pid), httpx.Client(headers=headers, timeout=30) as client:
        sizes = []
        for number in range(20_000):
            characters = list(good)
            for _ in range(random_.randint(1, 8)):
                characters[random_.randrange(len(characters))] = random_.choice('{}[]",:0x\\\0é\ud800')
            body = "".join(characters).encode("utf-8", "surrogatepass")
            path = random_.choice(("/score", "/score", "/get_reward", "/nothing"))
            answer = client.post(url + path, content=body)
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            if number % 5000 == 4999:
                sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20)
        assert client.post(url + "/score", content=good).json()["scores"][0][0]["value"] == 1
    print(f"\nanswers by status {counts}; resident MiB after each 5,000: {[round(size) for size in sizes]}")
    assert set(counts) <= {200, 404, 422}
    assert sizes[-1] - sizes[0] < 10


RECIPE = """
seed: 0
model: {scratch: {layers: 1, hidden: 32, heads: 2}, dtype: float32}
data:
  source: generator:arithmetic
  options: {digits: 1, operations: "+", style: characters}
  chat: false
  max_prompt_tokens: 8
rewards: [REWARD]
rollouts: {engine: hf, prompts: 4, group: 4, max_new_tokens: 4}
algorithm: {type: grpo}
optimizer: {lr: 1e-3}
train: {steps: 3}
checkpoints: {every: null}
"""
COMPARED = ("reward/mean", "reward/std", "loss/policy", "optim/grad_norm", "rollout/length_mean", "policy/entropy")


def trained(folder, name, reward):
    """The metrics of a small run with this reward."""
    (folder / f"{name}.yaml").write_text(RECIPE.replace("REWARD", json.dumps(reward)))
    assert run(["train", str(folder / f"{name}.yaml"), "--run", str(folder / name)]) == 0
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_a_served_reward_is_the_run_with_the_reward_itself(tmp_path, monkeypatch):
    """A reward that counts the policy's tokens, so that token ids must arrive."""
    monkeypatch.setenv("ALIGNKIT_TOKEN", TOKEN)
    options = {"max_tokens": 4, "buffer": 3}
    local = trained(tmp_path, "local", {"name": "length_penalty", "options": options})
    with command_served("length_penalty", "-o", "max_tokens=4", "-o", "buffer=3") as (url, _):
        remote = trained(tmp_path, "remote", {"name": "remote", "options": {"url": url}})
    assert len(local) == 3
    for one, other in zip(local, remote, strict=True):
        assert {name: one[name] for name in COMPARED} == {name: other[name] for name in COMPARED}
        assert other["reward/part/remote.length_penalty"] == one["reward/part/length_penalty"]


def test_a_run_whose_judge_never_parses_stops_and_says_so(tmp_path, capsys):
    talker = Scripted(lambda path, body, number: (200, {"choices": [{"message": {"content": "Nine out of ten!"}}]}))
    with served(talker) as url:
        reward = {"name": "judge", "options": {"url": url + "/v1", "model": "m"}}
        (tmp_path / "r.yaml").write_text(RECIPE.replace("REWARD", json.dumps(reward)))
        assert run(["train", str(tmp_path / "r.yaml"), "--run", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err
    assert "16 of 16 rollouts could not be scored" in error
    assert "parse in judge: no verdict in the asked form" in error
    assert len(talker.requests) <= 16
