"""Whole runs on two processes, started as a user starts them: numbers of one process, exact resume, killed ranks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from alignkit.models.load import load_policy
from alignkit.models.save import save_pretrained
from alignkit.recipe.schema import Model, Scratch
from alignkit.run.launch.deepspeed_file import DEEPSPEED_FILE
from tests.distributed.ranks import ROOT, environment, fine
from tests.resume.forked import Forked
from tests.resume.runs import fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

COMMON = """
seed: 3
model:
  scratch: {characters: "0123456789+=", layers: 2, hidden: 32, heads: 4, context: 16}
  dtype: float32
data:
  source: generator:arithmetic
  options: {digits: 2, operations: "+", style: characters, reversed: true}
  chat: false
  max_prompt_tokens: 8
"""
SFT = f"""{COMMON}
algorithm: {{type: sft}}
optimizer: {{lr: 3e-3, weight_decay: 0.1, max_grad_norm: 0.5}}
train: {{steps: 20, batch: 16, micro_batch_tokens: 40}}
"""
GRPO = f"""{COMMON}
rewards: [{{name: length_penalty, options: {{max_tokens: 5, buffer: 4}}}}]
rollouts: {{engine: hf, prompts: 4, group: 4, max_new_tokens: 5, canary_tolerance: 0.0001, reward_workers: 1}}
algorithm: {{type: grpo, loss: {{kl: loss, kl_weight: 0.05}}}}
optimizer: {{lr: 1e-3, schedule: cosine, warmup_steps: 3}}
train: {{steps: 40, micro_batch_tokens: 40, minibatches: 2}}
checkpoints: {{every: 3}}
"""
PPO = f"""{COMMON}
rewards: [{{name: length_penalty, options: {{max_tokens: 5, buffer: 4}}}}]
rollouts: {{engine: hf, prompts: 8, group: 1, max_new_tokens: 5, canary_tolerance: 0.0001, reward_workers: 1}}
algorithm: {{type: ppo, kl_weight: 0.05, kl_target: 0.5}}
optimizer: {{lr: 1e-3}}
train: {{steps: 6, micro_batch_tokens: 40, minibatches: 2}}
checkpoints: {{every: 3}}
"""
REWARD = f"""{COMMON.replace("reversed: true", "reversed: true, answers: paired_preference")}
algorithm: {{type: bradley_terry}}
optimizer: {{lr: 3e-3, weight_decay: 0.1, max_grad_norm: 0.5}}
train: {{steps: 10, batch: 8, micro_batch_tokens: 40}}
"""
CRITICS = {"ppo": PPO, "ppo_shared": PPO.replace("train:", "critic: {shared: true}\ntrain:")}
ADAPTED = COMMON.replace("  dtype: float32", "  dtype: float32\n  lora: {rank: 4}")
TWO_STAGES = f"""{ADAPTED}
rollouts: {{engine: hf, prompts: 4, group: 4, max_new_tokens: 5, canary_tolerance: 0.0001, reward_workers: 1}}
stages:
  - name: sft
    algorithm: {{type: sft}}
    optimizer: {{lr: 3e-3}}
    train: {{steps: 5, batch: 16}}
  - name: grpo
    rewards: [{{name: length_penalty, options: {{max_tokens: 5, buffer: 4}}}}]
    algorithm: {{type: grpo, loss: {{kl: loss, kl_weight: 0.05}}}}
    optimizer: {{lr: 1e-3}}
    train: {{steps: 5}}
"""
FROM_DISK = f"""
seed: 3
model: {{path: ./model, dtype: float32, lora: {{rank: 4}}}}
{COMMON[COMMON.index("data:") :]}
stages:
  - name: sft
    algorithm: {{type: sft}}
    optimizer: {{lr: 3e-3}}
    train: {{steps: 5, batch: 16, micro_batch_tokens: 40}}
  - name: dpo
    data: {{options: {{digits: 2, operations: "+", style: characters, reversed: true, answers: paired_preference}}}}
    algorithm: {{type: dpo}}
    optimizer: {{lr: 1e-3}}
    train: {{steps: 5, batch: 8, micro_batch_tokens: 40}}
"""
PROFILES = {"zero2": "zero2-cpu", "zero3": "fine-zero3"}
DEEPSPEED: dict[str, Callable[[Path], Path]] = {
    "zero2": lambda folder: ROOT / "launch" / "deepspeed" / "zero2.json",
    "zero3": lambda folder: folder / "launch" / "fine.json",
    "zero3 by four": lambda folder: folder / "launch" / "fine.json",
    "offload": lambda folder: folder / "launch" / "offload.json",
}
"""The DeepSpeed file of each profile."""
WORLD = {"zero3 by four": 4}  # processes, where they are not two
ENDS_WITHIN_S = 180


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with recipes and a launch profile of their own."""
    folder = tmp_path_factory.mktemp("runs")
    recipes = {"sft": SFT, "grpo": GRPO, "stages": TWO_STAGES, "reward": REWARD, "disk": FROM_DISK, **CRITICS}
    recipes["half"] = FROM_DISK.replace("dtype: float32", "dtype: bfloat16")
    recipes["short"] = GRPO.replace("steps: 40", "steps: 8")
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
    scratch = Scratch(characters="0123456789+=", layers=2, hidden=32, heads=4, context=16)
    save_pretrained(*load_policy(Model(scratch=scratch), seed=5), folder / "model", shard_bytes=20000)
    (folder / "launch").mkdir()
    (folder / "launch" / "fine.json").write_text(json.dumps(fine(3)))
    shipped = json.loads((ROOT / "launch" / "deepspeed" / "zero3-offload.json").read_text())["zero_optimization"]
    offloading = {"zero_optimization": shipped | fine(3)["zero_optimization"]}
    (folder / "launch" / "offload.json").write_text(json.dumps(offloading))
    profile = (ROOT / "launch" / "accelerate" / "zero3-cpu.yaml").read_text()
    for name, file in (("fine-zero3", "fine.json"), ("fine-offload", "offload.json")):
        (folder / "launch" / f"{name}.yaml").write_text(profile.replace("launch/deepspeed/zero3.json", file))
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alignkit", "train", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], expected: int | None = 0, *, within_s: float = 600.0) -> str:
    """Waits; the output. expected: the exit code wanted, None for any but 0."""
    output, _ = process.communicate(timeout=within_s)
    assert process.returncode == expected if expected is not None else process.returncode != 0, output
    return output


def as_launched(deepspeed: Path, world: int) -> list[dict[str, str]]:
    """What `accelerate launch` with a DeepSpeed file tells each of its processes, as far as a run reads it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    group |= {"ACCELERATE_USE_DEEPSPEED": "true", DEEPSPEED_FILE: str(deepspeed)}
    return [group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


@pytest.fixture(scope="module")
def trained(folder: Path) -> Callable[[str, str], Path]:
    """trained(recipe, "one" | a key of DEEPSPEED): the folder of that whole run, which is run once.

    Its ranks are forked with what a launcher tells them; the last tests of this file launch theirs as a user does.
    """

    def train(recipe: str, how: str) -> Path:
        run = folder / "runs" / f"{recipe}-{how}"
        if not run.exists():
            told = as_launched(DEEPSPEED[how](folder), WORLD.get(how, 2)) if how in DEEPSPEED else [{}]
            logs = [folder / f"{run.name}-{rank}.log" for rank in range(len(told))]
            ranks = [
                Forked(folder / f"{recipe}.yaml", run, log=log, environment=environment)
                for log, environment in zip(logs, told, strict=True)
            ]
            codes = [rank.wait(300) for rank in ranks]
            assert codes == [0] * len(told), "\n".join(log.read_text()[-2000:] for log in logs)
        return run

    return train


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


WATCHED = ("loss/policy", "optim/grad_norm", "optim/lr")


def assert_same_numbers(one: Path, several: Path, *, steps: int, names: tuple[str, ...] = WATCHED) -> None:
    assert len(rows(one)) == len(rows(several)) == steps
    for expected, got in zip(rows(one), rows(several), strict=True):
        for name in names:  # two halves of a float32 sum: 1.2e-6 between one processor's kernels and another's
            assert got[name] == pytest.approx(expected[name], rel=3e-6, abs=1e-6), f"step {got['step']}: {name}"
    assert (one / "ledger.jsonl").read_bytes() == (several / "ledger.jsonl").read_bytes()


@pytest.mark.parametrize("how", PROFILES)
def test_a_critic_of_its_own_and_one_on_the_policy_have_the_numbers_of_one_process(trained, how: str):
    own = (*WATCHED, "loss/critic", "critic/value", "control/kl_weight", "optim/critic_grad_norm")
    assert_same_numbers(trained("ppo", "one"), trained("ppo", how), steps=6, names=own)
    assert_same_numbers(trained("ppo_shared", "one"), trained("ppo_shared", how), steps=6, names=own[:-1])


@pytest.mark.parametrize("how", PROFILES)
def test_20_steps_of_sft_have_the_losses_and_gradient_norms_of_one_process(trained, how: str):
    assert_same_numbers(trained("sft", "one"), trained("sft", how), steps=20)


def test_four_ranks_have_the_losses_and_gradient_norms_of_one_process(trained):
    assert_same_numbers(trained("sft", "one"), trained("sft", "zero3 by four"), steps=20)


@pytest.mark.parametrize("how", PROFILES)
def test_40_steps_of_grpo_have_the_prompts_samples_and_losses_of_one_process(trained, how: str):
    one, several = trained("grpo", "one"), trained("grpo", how)
    assert_same_numbers(one, several, steps=40)
    for expected, got in zip(rows(one), rows(several), strict=True):
        for name in ("rollout/tokens", "reward/mean", "rollout/policy_version"):
            assert got[name] == expected[name], f"step {got['step']}: {name}"
        assert 0 <= got["sync/canary_gap"] < 1e-4, "every sync is proven"


@pytest.mark.parametrize("how", PROFILES)
def test_a_second_stage_goes_on_from_the_first_and_the_saved_model_and_adapter_are_whole(trained, how: str):
    one, several = trained("stages", "one"), trained("stages", how)
    assert_same_numbers(one, several, steps=10)
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        expected, got = load_file(one / "final" / file), load_file(several / "final" / file)
        assert expected.keys() == got.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(got[name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", PROFILES)
def test_a_model_from_the_disk_a_reference_of_its_own_and_what_is_saved_are_those_of_one_process(trained, how: str):
    """Under ZeRO-3 the policy is read in shards, so is the second stage's reference, and the saved folder."""
    one, several = trained("disk", "one"), trained("disk", how)
    assert_same_numbers(one, several, steps=10)
    expected, got = load_file(one / "final" / "model.safetensors"), load_file(several / "final" / "model.safetensors")
    assert expected.keys() == got.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(got[name], weight, rtol=0, atol=1e-5)
    events = [json.loads(line) for line in (several / "events.jsonl").read_text().splitlines()]
    gaps = next(event for event in events if event["kind"] == "saved")
    assert max(gaps["merged"], gaps["adapter"]) < 1e-6, "read again in shards it says what the trainer says"


@pytest.mark.parametrize("how", PROFILES)
def test_a_run_on_a_base_in_bfloat16_has_the_losses_of_one_process_and_its_saved_folder_says_what_it_says(
    trained, how: str
):
    one, several = trained("half", "one"), trained("half", how)
    for expected, got in zip(rows(one), rows(several), strict=True):
        assert got["loss/policy"] == pytest.approx(expected["loss/policy"], rel=0.02, abs=0.005)
    events = [json.loads(line) for line in (several / "events.jsonl").read_text().splitlines()]
    gaps = next(event for event in events if event["kind"] == "saved")
    assert max(gaps["merged"], gaps["adapter"]) < 1e-5


@pytest.mark.parametrize("how", PROFILES)
def test_a_reward_model_has_the_numbers_and_the_folder_of_one_process(trained, how: str):
    one, several = trained("reward", "one"), trained("reward", how)
    assert_same_numbers(one, several, steps=10, names=("loss/reward", "pairs/accuracy", "optim/grad_norm", "optim/lr"))
    for file in ("model.safetensors", "value_head.safetensors"):
        expected, got = load_file(one / "final" / file), load_file(several / "final" / file)
        assert expected.keys() == got.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(got[name], weight, rtol=0, atol=1e-5)
    assert (one / "final" / "reward.json").read_bytes() == (several / "final" / "reward.json").read_bytes()


def test_plain_accelerate_launch_runs_a_shipped_profile(folder: Path, trained):
    run = folder / "runs" / "by-accelerate"
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    profile = ["--config_file", "launch/accelerate/zero3-cpu.yaml"]
    command = [accelerate, "launch", *profile, "-m", "alignkit", "train", str(folder / "sft.yaml"), f"run={run}"]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=300)
    assert_same_numbers(trained("sft", "one"), run, steps=20)


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The training process of each rank below the launching one."""
    found: dict[int, psutil.Process] = {}
    for child in sorted(psutil.Process(process.pid).children(recursive=True), key=lambda child: child.pid):
        rank = child.environ().get("RANK")
        if rank is not None and "alignkit" in child.cmdline():
            found.setdefault(int(rank), child)
    return found


def wait_for_steps(run: Path, process: subprocess.Popen[str], count: int, *, within_s: float = 600.0) -> None:
    deadline = time.monotonic() + within_s
    while not (run / "metrics.jsonl").exists() or len(rows(run)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", PROFILES)
def test_stopped_and_killed_runs_end_soon_and_resume_bit_for_bit(folder: Path, trained, how: str):
    run = folder / "runs" / f"interrupted-{how}"
    arguments = ["grpo.yaml", f"run={run}", "--launch", PROFILES[how]]
    process = start(folder, *arguments)
    wait_for_steps(run, process, 5)
    process.send_signal(signal.SIGTERM)
    finish(process, 85)
    for rank, done in ((0, 13), (1, 22)):
        process = start(folder, *arguments, "--resume")
        wait_for_steps(run, process, done)
        everyone = psutil.Process(process.pid).children(recursive=True)
        os.kill(ranks_of(process)[rank].pid, signal.SIGKILL)
        killed = time.monotonic()
        finish(process, None)
        assert time.monotonic() - killed < ENDS_WITHIN_S
        _, alive = psutil.wait_procs(everyone, timeout=60)
        assert not alive, "a dead rank must take all processes of the run with it"
    finish(start(folder, *arguments, "--resume"))
    assert fingerprint(run) == fingerprint(trained("grpo", how))


def test_weights_and_optimizer_on_the_host_give_the_same_numbers_and_resume_to_the_bit(folder: Path, trained):
    """The offload sections of the shipped profile; host and device are the same memory here."""
    whole = trained("short", "offload")
    for other in ("one", "zero3"):
        assert_same_numbers(trained("short", other), whole, steps=8)
    run = folder / "runs" / "interrupted-offload"
    arguments = ["short.yaml", f"run={run}", "--launch", "fine-offload"]
    process = start(folder, *arguments)
    wait_for_steps(run, process, 1)
    process.send_signal(signal.SIGTERM)
    finish(process, 85)
    assert 1 <= len(rows(run)) < 8
    finish(start(folder, *arguments, "--resume"))
    assert fingerprint(run) == fingerprint(whole)
