"""The battery for a first card, in small on the CPU: every part's code runs, and each notices what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignkit.ops import logprobs
from alignkit.run.check.row import Row
from alignkit.run.memory import measure
from benchmarks.gpu import __main__ as battery_module
from benchmarks.gpu import engines, numbers, part, runs, speed
from benchmarks.gpu.part import Outcome, Part, run_part, table
from benchmarks.gpu.parts import PARTS, TRAINER
from benchmarks.gpu.sizes import SIZES
from tests.memory import real_step
from tests.tiny import causal_lm

ROOT = Path(__file__).resolve().parents[2]
TINY, CARD = SIZES["tiny"], SIZES["card"]


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def test_a_card_is_given_a_qwen3_of_0_6_billion_weights_and_16384_packed_tokens():
    with torch.device("meta"):
        model = speed._model(CARD, "meta")
    assert sum(p.numel() for p in model.parameters()) == 596_049_920
    batch = speed._batch(CARD)
    assert (CARD.tokens, batch.num_tokens, batch.num_actions) == (16_384, 16_384, 14_336)


def test_attention_is_compared_in_both_dtypes():
    rows = numbers.attention(TINY, "cpu")
    assert [row.level for row in rows] == ["ok", "ok"]
    assert rows[1].numbers["logprobs"] < 1e-5 < rows[0].numbers["logprobs"]


def test_the_head_equals_full_logits_and_a_head_of_another_temperature_does_not(monkeypatch):
    [row] = numbers.head(TINY, "cpu")
    assert row.level == "ok"
    right = logprobs.chunked_logprobs
    monkeypatch.setattr(
        logprobs, "chunked_logprobs", lambda *given, temperature, rows: right(*given, temperature=1.001, rows=rows)
    )
    [row] = numbers.head(TINY, "cpu")
    assert row.level == "wrong"
    assert row.numbers["gradient"] > numbers.HEAD


def test_losses_of_the_device_are_compared_with_the_cpus(monkeypatch):
    [row] = numbers.losses(TINY, "cpu")
    assert (row.level, row.numbers) == ("ok", {"most": 0.0, "settings": 4, "beyond": 0})
    from tests.contracts import test_algorithms as shelf

    measure, calls = shelf.measure, []

    def drifting(case, model, batch):  # every second call is the device's
        loss, gradient = measure(case, model, batch)
        calls.append(case)
        return loss, gradient * (1.0 + 2e-4 * (1 - len(calls) % 2))

    monkeypatch.setattr(shelf, "measure", drifting)
    [row] = numbers.losses(TINY, "cpu")
    assert (row.level, row.numbers["beyond"]) == ("wrong", 4)
    assert row.value.startswith("at most 2.0e-04 from the CPU")


def test_an_update_says_its_time_its_share_of_the_head_and_what_it_cannot_measure():
    rows = by_name(speed.update(TINY, "cpu"))
    whole = rows["update, 28 packed tokens"].numbers
    assert whole["tokens_per_second"] == pytest.approx(28 / whole["seconds"])
    assert sum(whole[phase] for phase in speed.PHASES) == pytest.approx(whole["seconds"], rel=0.5)  # of medians
    head = rows["head and loss, 14 rows"].numbers
    assert head["share"] == pytest.approx(head["seconds"] / whole["seconds"])
    # by hand: body 2 x (32 x (32 + 16 + 16 + 32) + 3 x 32 x 48), 28 tokens; head 211 x 32, 14 actions; pairs of 4 heads
    body = 2 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 48)
    pairs = 15 + (3 * 5 + 6) + (7 * 5 + 28) + 45 + (4 * 9 + 10)
    flops = 3 * (2 * body * 28 + 2 * 211 * 32 * 14 + 4 * pairs * 4 * 8 * 2)
    assert rows["use of the card"].numbers["flops"] * whole["seconds"] == pytest.approx(flops)
    memory = rows["peak memory by phase"]
    assert (memory.numbers, memory.level) == (None, "note")


def test_an_update_changes_every_weight():
    model, batch = speed._model(TINY, "cpu"), speed._batch(TINY)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    from alignkit.models.forward import Forward
    from alignkit.parallel.single import SingleTrainer

    trainer = SingleTrainer(model, speed.ADAM)
    seconds, peaks = speed._update(trainer, Forward(model=model, dtype=torch.bfloat16), batch, "cpu")
    assert set(seconds) == set(peaks) == set(speed.PHASES)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("card", "rate", "level", "mfu"),
    [
        ("NVIDIA H100 80GB HBM3", 0.41 * 989e12, "ok", 0.41),
        ("NVIDIA H200", 0.39 * 989e12, "note", 0.39),
        ("NVIDIA H100 PCIe", 0.5 * 756e12, "ok", 0.5),
        ("NVIDIA A100-SXM4-80GB", 0.4 * 312e12, "ok", 0.4),
        ("NVIDIA Something", 1e12, "ok", None),
    ],
)
def test_mfu_is_a_share_of_the_cards_own_data_sheet(card, rate, level, mfu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: types.SimpleNamespace(name=card))
    row = speed._share(rate, products=rate * 2, device="cuda")
    assert row.level == level
    assert row.numbers.get("mfu") == (pytest.approx(mfu) if mfu else None)
    assert "50.0% of measured products" in row.value


def test_a_head_that_takes_more_than_a_fifth_is_noted():
    assert speed._head(0.021, 0.1, 5).level == "note"
    assert speed._head(0.019, 0.1, 5).level == "ok"


def test_a_layer_of_experts_is_timed_in_half_precision_and_near_float32(monkeypatch):
    [row] = speed.experts(TINY, "cpu")
    assert row.level == "ok"
    assert 1e-4 < row.numbers["gap"] < speed.EXPERTS
    monkeypatch.setattr(speed, "EXPERTS", row.numbers["gap"])
    assert speed.experts(TINY, "cpu")[0].level == "wrong"


def test_memory_is_told_by_phase():
    row = speed._memory({"weights": 2.4e9, "forward": 40e9})
    assert (row.value, row.level) == ("weights 2.40, forward 40.00 GB", "ok")


def test_runs_are_deterministic_so_that_a_difference_after_a_resume_is_wrong():
    assert runs.DETERMINISTIC == ("deterministic=true",)
    run = {"weights": "a", "metrics": [1], "prompts": [2]}
    assert runs.compared(run, dict(run)).level == "ok"
    row = runs.compared(run, {**run, "metrics": [3]})
    assert (row.level, row.value, row.numbers) == ("wrong", "differ: metrics", {"differ": 1})


@pytest.mark.parametrize(("measured", "gap", "level"), [(98, 2 / 98, "ok"), (125, -0.2, "wrong"), (80, 0.25, "wrong")])
def test_a_count_that_misses_the_updates_memory_by_more_than_a_tenth_is_wrong(measured, gap, level, monkeypatch):
    counted = types.SimpleNamespace(phases={"update": {"weights": 60, "activations": 40}})
    monkeypatch.setattr(measure, "count_stage", lambda recipe, number, device: counted)
    monkeypatch.setattr(real_step, "allocated_in_update", lambda recipe: measured)
    [row] = numbers.memory(TINY, "cpu")
    assert (row.name, row.level) == ("update of char-addition", level)
    assert row.numbers == {"counted": 100, "measured": measured, "gap": pytest.approx(gap)}


@pytest.mark.slow
def test_a_tiny_updates_memory_on_a_cpu_is_what_was_counted():
    [row] = numbers.memory(TINY, "cpu")
    assert row.level == "ok"
    assert abs(row.numbers["gap"]) < 0.02


GB = 10**9


class Sleeper:
    """An engine by its card's bytes: 30 GB of weights, 60 of cache, `keeps` of its own. `loses`: it samples by the
    weights' version, not by them."""

    def __init__(self, keeps: int, *, loses: bool = False):
        self.keeps, self.loses, self.parts, self.told = keeps, loses, {"weights", "cache"}, []
        self.unverified: tuple[str, ...] = ()

    @property
    def held(self) -> int:
        return self.keeps + 30 * GB * ("weights" in self.parts) + 60 * GB * ("cache" in self.parts)

    def update(self, weights, *, version):
        assert "weights" in self.parts
        self.told.append((version, float(next(iter(weights))[1].sum())))

    async def generate(self, requests):
        assert self.parts == {"weights", "cache"}
        word = self.told[-1][0] if self.loses else 7
        return [types.SimpleNamespace(token_ids=(word, request.seed)) for request in requests]

    def sleep(self):
        self.parts = set()

    def wake(self, part):
        self.parts.add(part)


def test_a_sleeping_engine_says_what_it_keeps_and_whether_it_samples_the_same_afterwards():
    model, engine = causal_lm(), Sleeper(keeps=GB // 2)
    memory, seconds, samples = engines.slept(engine, model, lambda: engine.held)
    assert memory.value == "0.50 GB of 90.50, 1 assumed; 90.50 awake"
    assert (memory.level, samples.level, len(seconds.numbers)) == ("ok", "ok", 2)
    greedy = Sleeper(keeps=3 * GB, loses=True)
    memory, _, samples = engines.slept(greedy, model, lambda: greedy.held)
    assert (memory.level, samples.level) == ("note", "wrong")


def test_a_push_is_timed_after_the_first_and_brings_other_weights_each_time():
    model, engine = causal_lm(), Sleeper(keeps=0)
    engine.unverified = ("bias",)
    row = engines.pushed(engine, model, TINY, "through the host")
    assert [version for version, _ in engine.told] == [1, 2, 3]
    assert len({value for _, value in engine.told}) == 3
    assert (row.level, row.numbers["bytes"]) == ("note", 2 * sum(p.numel() for p in model.parameters()))
    assert "1 parameters not read back" in row.value


def test_a_part_for_cards_and_one_that_lacks_a_package_are_skipped_with_the_reason():
    [sleep] = [one for one in PARTS if one.name == "sleep and wake"]
    outcome = run_part(sleep, "tiny", "cpu", time_left=60)
    assert (outcome.status, outcome.reason) == ("skipped", "on a CPU vLLM does not sleep")
    lacking = Part(name="head", about="", needs=("torch", "no_such_module"), work=numbers.head)
    outcome = run_part(lacking, "tiny", "cpu", time_left=60)
    assert (outcome.status, outcome.reason) == ("skipped", "needs no_such_module, not installed here")
    late = run_part(PARTS[0], "tiny", "cpu", time_left=-1)
    assert (late.status, late.reason) == ("skipped", "the battery's time is over")


def test_a_part_that_hangs_is_killed_and_one_that_fails_says_its_last_line():
    [head] = [one for one in PARTS if one.name == "head"]
    outcome = run_part(replace(head, limit_s=0.05), "tiny", "cpu", time_left=60)
    assert (outcome.status, outcome.reason) == ("died", "killed after 0 s")
    outcome = run_part(replace(head, name="no such part"), "tiny", "cpu", time_left=60)
    assert outcome.status == "died"
    assert outcome.reason.startswith("exit code 2: ")
    assert "no such part" in outcome.reason


def test_the_battery_writes_one_json_and_one_table(tmp_path, capsys):
    out = tmp_path / "deep" / "gpu"
    assert battery_module.battery(out, device="cpu", sizes="tiny", names=["head", "sleep and wake"]) == 0
    written = json.loads(out.with_suffix(".json").read_text())
    head, memory = written["parts"]
    assert (head["name"], head["status"], head["rows"][0]["level"]) == ("head", "ok", "ok")
    assert (memory["status"], memory["rows"]) == ("skipped", [])
    page = out.with_suffix(".md").read_text()
    assert page.splitlines()[2] == "| part | | what | result |"
    assert "| head | ok | chunked head, 7 rows of 211 | log-probs" in page
    assert "| sleep and wake | skipped | | on a CPU vLLM does not sleep |" in page
    assert page in capsys.readouterr().out


def test_a_wrong_or_dead_part_makes_the_exit_code_1(tmp_path, monkeypatch):
    for status, code in (("ok", 0), ("skipped", 0), ("wrong", 1), ("died", 1)):
        outcome = Outcome(name="head", status=status, reason="because")
        monkeypatch.setattr(battery_module, "run_part", lambda *given, outcome=outcome, **named: outcome)
        assert battery_module.battery(tmp_path / "gpu", device="cpu", sizes="tiny", names=["head"]) == code
    assert "| head | died | | because |" in table([outcome], [], "2026-11-29")


def test_without_a_gpu_it_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert battery_module.main() == 2
    assert capsys.readouterr().err == "no GPU that torch can use: run alignkit doctor to see why\n"


BARE = """
import importlib.util, importlib.abc, sys
ABSENT = {"pydantic", "pydantic_core", "ruamel", "typer", "datasets", "vllm", "deepspeed", "trl", "jsonschema",
          "pytest", "cryptography", "math_verify", "pyarrow", "hypothesis", "beartype", "pandas", "gguf"}
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in ABSENT else there(name, *rest)

from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.sizes import SIZES
for one in PARTS:
    rows = [] if one.why_not("cpu") else one.work(SIZES["tiny"], "cpu")
    print(one.name, "|", one.why_not("cpu") or " ".join(row.level for row in rows))
"""


def test_with_torch_and_transformers_alone_the_trainers_half_still_runs():
    done = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" | ") for line in done.stdout.splitlines())
    ran = {one.name for one in PARTS if tuple(one.needs) == TRAINER}
    assert ran == {"attention", "head", "update", "experts"}
    assert {name for name, what in said.items() if what.startswith("ok")} == ran
    assert said["losses"] == "needs pydantic, ruamel, typer, datasets, pytest, not installed here"
    assert "vllm" in said["engine"]


@pytest.mark.slow
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_a_run_on_the_cpu_that_is_killed_and_resumed_has_the_same_bits(moments, monkeypatch):
    own = tuple(f"stages.{number}.optimizer.moments={moments}" for number in (0, 1))
    monkeypatch.setattr(runs, "DETERMINISTIC", (*runs.DETERMINISTIC, *own))
    [row] = runs.resume(TINY, "cpu")
    assert (row.level, row.numbers) == ("ok", {"differ": 0})


@pytest.mark.slow
def test_every_part_runs_to_its_end_in_a_process_of_its_own(tmp_path):
    names = [one.name for one in PARTS]
    assert battery_module.battery(tmp_path / "gpu", device="cpu", sizes="tiny", names=names) == 0
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {one["status"] for one in parts} <= {"ok", "skipped"}
    assert part.ROOT == ROOT
