"""Jobs of cluster managers: what is printed, by each manager's own rules, and how it is handed over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignkit.cli import main
from alignkit.errors import AlignkitError
from alignkit.recipe.lookup.find import find
from alignkit.run.launch.job import MANAGERS, job_text, submit
from tests.unit.test_launch import RECIPE

JOBS = {"slurm": "sbatch", "k8s": "kubectl", "skypilot": "sky", "ray": "ray"}
SECRET = "hf_abcdefghijklmnop"


def printed(name: str, *arguments: str, job_name: str = "My_Run.2", environ: dict[str, str] | None = None) -> str:
    given = ["train", *(arguments or ("it's.yaml",))]
    return job_text(find("launch", name), given, job_name=job_name, beside=None, environ=environ or {})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for mark in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(mark, raising=False)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def test_the_slurm_script_is_valid_bash_with_the_machines_of_the_profile():
    script = printed("slurm")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --nodes=2\n" in script
    assert "#SBATCH --gpus-per-node=8\n" in script
    for line in ("#SBATCH --exclusive\n", "#SBATCH --mem=0\n", "#SBATCH --cpus-per-task=32\n"):
        assert line in script
    assert 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_ON_NODE:-32}"\n' in script
    assert script.index("SRUN_CPUS_PER_TASK") < script.index("\nsrun ")
    assert "-m alignkit train 'it'\"'\"'s.yaml' --launch multi-node $resume &" in script


def standing_in(folder: Path, program: str, script: str) -> None:
    """A program of that name, before all others."""
    tool = folder / program
    tool.write_text(f"#!/bin/bash\n{script}\n")
    tool.chmod(0o755)


def said_by(script: str, folder: Path, **variables: str) -> list[str]:
    """What the python of a job's script is told: machine, address of the first, and each argument."""
    standing_in(folder, "python", 'printf "%s|" "$MACHINE_RANK" "$MASTER_ADDR" "$@"')
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=True)
    return done.stdout.split("|")[:-1]


COMMAND = ["-m", "alignkit", "train", "it's.yaml", "data.source=a\nb", "--launch", "multi-node", "--resume"]


def types(value: Any) -> Any:
    """The structure of a document: names and the types of what they hold."""
    if isinstance(value, dict):
        return {name: types(held) for name, held in value.items()}
    return [types(held) for held in value] if isinstance(value, list) else type(value).__name__


POD = {
    "restartPolicy": "str",
    "terminationGracePeriodSeconds": "int",
    "containers": [
        {
            "name": "str",
            "image": "str",
            "workingDir": "str",
            "command": ["str", "str"],
            "args": ["str"],
            "env": [{"name": "str", "value": "str"}],
            "envFrom": [{"secretRef": {"name": "str", "optional": "bool"}}],
            "ports": [{"containerPort": "int"}],
            "resources": {"requests": {"cpu": "int"}, "limits": {"nvidia.com/gpu": "int"}},
            "volumeMounts": [{"name": "str", "mountPath": "str"}] * 3,
        }
    ],
    "volumes": [
        {"name": "str", "persistentVolumeClaim": {"claimName": "str"}},
        {"name": "str", "secret": {"secretName": "str", "optional": "bool"}},
        {"name": "str", "emptyDir": {"medium": "str"}},
    ],
}
JOB = {
    "completionMode": "str",
    "parallelism": "int",
    "completions": "int",
    "backoffLimit": "int",
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": "str",
    "kind": "str",
    "metadata": {"name": "str"},
    "spec": {
        "network": {"enableDNSHostnames": "bool", "publishNotReadyAddresses": "bool"},
        "failurePolicy": {"maxRestarts": "int"},
        "replicatedJobs": [{"name": "str", "replicas": "int", "template": {"spec": JOB}}],
    },
}
"""What of JobSet v1alpha2, batch/v1 and core/v1 the profile uses, with the types that their schemas give."""


def test_the_jobset_has_the_structure_of_its_api_and_one_pod_for_each_machine():
    job = yaml.safe_load(printed("k8s", environ={"ALIGNKIT_IMAGE": "registry/alignkit:1"}))
    assert types(job) == JOBSET
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (machines,) = job["spec"]["replicatedJobs"]
    spec = machines["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["completionMode"]) == (2, 2, "Indexed")
    assert spec["backoffLimit"] == 0, "a pod that is lost takes the others with it: they start again together"
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == "registry/alignkit:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_a_pod_of_the_jobset_runs_the_command_with_the_number_of_its_machine_and_the_name_of_the_first(tmp_path):
    job = yaml.safe_load(printed("k8s", "it's.yaml", "data.source=a\nb"))
    assert job["metadata"]["name"] == "my-run-2", "a name of the DNS"
    (script,) = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    words = said_by(script, tmp_path, JOB_COMPLETION_INDEX="1")
    assert words == ["1", "my-run-2-machine-0-0.my-run-2", *COMMAND]


LEADER_WORKER_SET = {
    "apiVersion": "str",
    "kind": "str",
    "metadata": {"name": "str"},
    "spec": {
        "replicas": "int",
        "leaderWorkerTemplate": {
            "size": "int",
            "restartPolicy": "str",
            "workerTemplate": {
                "spec": {
                    "containers": [
                        {
                            "name": "str",
                            "image": "str",
                            "command": ["str", "str"],
                            "args": ["str"],
                            "env": [{"name": "str", "valueFrom": {"fieldRef": {"fieldPath": "str"}}}],
                            "envFrom": [{"secretRef": {"name": "str"}}],
                            "ports": [{"containerPort": "int"}],
                            "resources": {"limits": {"nvidia.com/gpu": "int"}},
                            "volumeMounts": [{"name": "str", "mountPath": "str"}] * 2,
                        }
                    ],
                    "volumes": [
                        {"name": "str", "secret": {"secretName": "str"}},
                        {"name": "str", "emptyDir": {"medium": "str"}},
                    ],
                }
            },
        },
    },
}


def test_the_engines_of_a_jobset_have_the_structure_of_their_api_and_find_the_run_by_its_name(tmp_path):
    engines, run = yaml.safe_load(printed("k8s-replicas")), yaml.safe_load(printed("k8s"))
    assert types(engines) == LEADER_WORKER_SET
    assert (engines["apiVersion"], engines["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    template = engines["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 1, "a replica is one machine"
    (script,) = template["workerTemplate"]["spec"]["containers"][0]["args"]
    _, _, *words = said_by(script, tmp_path, POD_NAME="my-run-2-replicas-1")
    first = f"{run['metadata']['name']}-machine-0-0.{run['metadata']['name']}"
    assert words[:4] == ["-m", "alignkit", "replica", f"https://{first}:8950"]
    assert words[4:8] == ["--host", "my-run-2-replicas-1.my-run-2-replicas", "--port", "8951"]
    assert words[8:] == ["--certificate", "/tls/tls.crt", "--key", "/tls/tls.key", "--ca-file", "/tls/ca.crt"]


def test_the_names_of_pods_are_short_enough_for_the_longest_names_of_recipes():
    """A pod's host name is NAME-machine-0-INDEX, of at most 63 letters."""
    name = yaml.safe_load(printed("k8s", job_name="--" + "Long" * 30))["metadata"]["name"]
    assert len(f"{name}-machine-0-9999") <= 63
    assert name.strip("-") == name
    assert yaml.safe_load(printed("k8s", job_name="é"))["metadata"]["name"] == "alignkit"


SKYPILOT = {
    "name": "str",
    "num_nodes": "int",
    "workdir": "str",
    "resources": {"accelerators": "str", "cpus": "str", "job_recovery": {"max_restarts_on_errors": "int"}},
    "volumes": {"/runs": "str"},
    "setup": "str",
    "run": "str",
}


def test_the_skypilot_task_has_the_structure_of_its_fields_and_runs_the_command_on_each_machine(tmp_path):
    task = yaml.safe_load(printed("skypilot", "it's.yaml", "data.source=a\nb"))
    assert types(task) == SKYPILOT
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (2, "H100:8")
    words = said_by(task["run"], tmp_path, SKYPILOT_NODE_RANK="1", SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2")
    assert words == ["1", "10.0.0.1", *COMMAND]


def test_the_ray_job_names_its_machines_and_what_each_runs(folder):
    """`ray` here is one that prints its arguments."""
    script = printed("ray", "it's.yaml", "data.source=a\nb")
    said = subprocess.run(
        ["bash", "-c", 'ray() { printf "%s|" "$@"; }\n' + script], capture_output=True, text=True, check=True
    ).stdout
    words = said.split("|")[:-1]
    driver = [sys.executable, "-m", "alignkit.run.launch.ray_machines"]
    sizes = ["--machines", "2", "--gpus", "8", "--cpus", "32", "--folder", str(folder)]
    assert words == ["job", "submit", "--no-wait", "--", *driver, *sizes, "--", sys.executable, *COMMAND]


@pytest.mark.parametrize("name", JOBS)
def test_what_is_printed_holds_no_secret_and_nothing_is_submitted(name, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("PATH", "")
    assert main.run(["train", "r.yaml", "--launch", name, "--print"]) == 0
    out = capsys.readouterr().out
    assert "--launch multi-node" in out
    assert SECRET not in out
    assert main.run(["train", "r.yaml", "--launch", name]) == 2
    assert f"there is no `{JOBS[name]}` here; add --print" in capsys.readouterr().err
    assert main.run(["train", "r.yaml", "--launch", name, "--processes", "4"]) == 2
    assert "--processes does not reach a job" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [("slurm", ""), ("k8s", "create -f -"), ("skypilot", "jobs launch --yes --detach-run --secret HF_TOKEN")],
)
def test_a_job_is_handed_to_its_manager_with_the_tokens_in_the_environment_alone(name, said, folder, monkeypatch):
    """The manager here prints its arguments, what it was given to read, and the token that it could hand on."""
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    file = "" if name != "skypilot" else ' "${@: -1}"'
    standing_in(folder, JOBS[name], f'echo "got $@"; echo "$HF_TOKEN"; cat{file}')
    text = printed(name)
    first, token, *rest = submit(find("launch", name), text).split("\n")
    assert first.startswith(f"got {said}")
    assert token == SECRET
    assert "\n".join(rest) == text.strip()
    standing_in(folder, JOBS[name], "echo 'no such queue' >&2; exit 3")
    with pytest.raises(AlignkitError, match=f"{JOBS[name]} refused the job: no such queue"):
        submit(find("launch", name), text)


def test_every_ending_of_a_job_is_one_that_profiles_are_found_by():
    assert {profile.path.name[len(profile.name) :] for profile in (find("launch", name) for name in JOBS)} == set(
        MANAGERS
    )
