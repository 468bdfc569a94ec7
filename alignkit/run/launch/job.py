"""Jobs of cluster managers: a profile's template written out for one command, and handed to the manager's program."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignkit import __version__
from alignkit.errors import AlignkitError
from alignkit.recipe.document import read_document
from alignkit.recipe.lookup.find import Found, find
from alignkit.recipe.lookup.secrets import is_secret, with_secrets
from alignkit.types.scratch import scratch

CPUS_PER_GPU = 4  # that a job asks for at least; a machine that is its alone gives it all it has
IMAGE = "ALIGNKIT_IMAGE"
"""Environment variable: the container image of jobs that run in one."""
SUFFIX = ".j2"
TOKEN = re.compile(r"(HF|HUGGING_?FACE)_")
"""Names of what a job needs for the hub; the values are in no file."""


@dataclass(frozen=True)
class Manager:
    """program: what must be here. command: takes the job on its standard input, or else its file as the last argument.

    hands_on: the option that names a variable of this environment to be handed on, where there is one.
    """

    name: str
    program: str
    command: tuple[str, ...]
    reads_stdin: bool = True
    hands_on: str | None = None


MANAGERS = {
    ".sh.j2": Manager("Slurm", "sbatch", ("sbatch",)),
    ".kubectl.j2": Manager("Kubernetes", "kubectl", ("kubectl", "create", "-f", "-")),
    ".sky.j2": Manager(
        "SkyPilot", "sky", ("sky", "jobs", "launch", "--yes", "--detach-run"), reads_stdin=False, hands_on="--secret"
    ),
    ".ray.j2": Manager("Ray", "ray", ("bash",)),
}
"""By the ending of a template's name."""


def is_job(profile: Found) -> bool:
    """Whether a launch profile is a job of a cluster manager, and no accelerate config."""
    return profile.path.suffix == SUFFIX


def job_text(
    profile: Found, arguments: Sequence[str], *, job_name: str, beside: Path | None, environ: Mapping[str, str]
) -> str:
    """What is handed to the manager: on each machine `alignkit ARGUMENTS --launch multi-node`.

    beside: the recipe's folder, where a `multi-node` of the user's own may lie, which says how many machines and
    processes. No variable of the environment gets into it but the name of an image.
    """
    from jinja2 import Environment, StrictUndefined

    machines = read_document(find("launch", "multi-node", beside=beside).path, "multi-node").tree
    gpus = machines["num_processes"] // machines["num_machines"]
    command = ["-m", "alignkit", *arguments, "--launch", "multi-node"]
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(profile.path.read_text())
    return template.render(
        job_name=job_name,
        dns_name=_dns_name(job_name),
        nodes=machines["num_machines"],
        port=machines["main_process_port"],
        gpus_per_node=gpus,
        cpus_per_node=CPUS_PER_GPU * gpus,
        python=shlex.quote(sys.executable),
        folder=shlex.quote(str(Path.cwd())),
        command=shlex.join([sys.executable, *command]),
        installed_command=shlex.join(["python", *command]),
        image=environ.get(IMAGE, f"alignkit:{__version__}"),
    )


def submit(profile: Found, text: str) -> str:
    """Hands a job to its manager and returns the answer. Raises AlignkitError when that is not here or refuses it."""
    manager = next(manager for suffix, manager in MANAGERS.items() if profile.path.name.endswith(suffix))
    environment = with_secrets()
    if shutil.which(manager.program) is None:
        raise AlignkitError(
            f"there is no `{manager.program}` here; add --print and submit what it prints where {manager.name} is"
        )
    command = [*manager.command]
    if manager.hands_on is not None:
        tokens = [name for name, value in sorted(environment.items()) if TOKEN.match(name) and is_secret(name, value)]
        command += [word for name in tokens for word in (manager.hands_on, name)]
    with scratch() as folder:
        if not manager.reads_stdin:
            file = folder / "job.yaml"
            file.write_text(text)
            command.append(str(file))
        result = subprocess.run(command, input=text, text=True, capture_output=True, check=False, env=environment)
    if result.returncode:
        raise AlignkitError(f"{manager.program} refused the job: {result.stderr.strip() or result.returncode}")
    return result.stdout.strip()


def _dns_name(name: str) -> str:
    """Lower-case letters, digits and hyphens, short enough for the names that Kubernetes makes of it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "alignkit"
