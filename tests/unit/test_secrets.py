"""Code that a recipe names runs without the secrets of the environment; the few places that need one ask by name."""

import os
import subprocess
import sys

import pytest

from alignkit.recipe.lookup import secrets
from alignkit.recipe.lookup.secrets import (
    in_environment,
    is_secret,
    lent,
    secret,
    with_secrets,
    withhold,
    without_secrets,
)

SECRET = [
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN", "AWS_PROFILE",
    "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_ID", "ALIGNKIT_JUDGE_KEY", "ALIGNKIT_TOKEN",
    "DB_PASSWORD", "PGPASSWORD", "MYSQL_PWD", "SSH_AUTH_SOCK", "GITHUB_TOKEN", "SECRET", "SECRET_KEY", "my_token",
    "SENTRY_DSN", "NPM_CONFIG__AUTH", "SLACK_WEBHOOK", "SECRETKEY",
]  # fmt: skip
PLAIN = [
    "PATH", "HOME", "PWD", "OLDPWD", "LANG", "PYTHONPATH", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "HF_HOME",
    "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "NCCL_SOCKET_IFNAME", "WANDB_MODE", "MONKEY", "AUTHOR", "COMPASS", "RANK",
    "ALIGNKIT_DATA", "ALIGNKIT_PATH", "TMPDIR", "SLURM_JOB_ID", "MASTER_ADDR", "VLLM_CPU_KVCACHE_SPACE",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET)
def test_these_names_are_secrets(name):
    assert is_secret(name, "x")


@pytest.mark.parametrize("name", PLAIN)
def test_these_names_are_not(name):
    assert not is_secret(name, "x")


def test_a_value_can_give_a_secret_away_whatever_its_name():
    for value in ("http://me:word@proxy:80", "hf_abcdefgh", "sk-proj-1", "AKIA0000", "-----BEGIN PRIVATE KEY-----"):
        assert is_secret("PLAIN", value)
    for value in ("http://proxy:80", "a:b@c", "half", "1"):
        assert not is_secret("PLAIN", value)


def test_what_was_withheld_is_lent_by_name_for_a_moment(monkeypatch):
    monkeypatch.setattr(secrets, "_held", {})
    monkeypatch.setattr(os, "environ", {"HF_TOKEN": "a", "WANDB_API_KEY": "b", "HOME": "c"})
    monkeypatch.setattr(secrets, "_blot_out", lambda name: None)
    assert without_secrets(os.environ) == {"HOME": "c"}
    withhold()
    assert os.environ == {"HOME": "c"}
    assert (secret("HF_TOKEN"), secret("HOME"), secret("NONE")) == ("a", "c", None)
    assert with_secrets() == {"HF_TOKEN": "a", "WANDB_API_KEY": "b", "HOME": "c"}
    with lent("HF_.*"):
        assert os.environ == {"HF_TOKEN": "a", "HOME": "c"}
    with in_environment({"HOME": "d", "NEW": "e"}):
        assert os.environ == {"HOME": "d", "NEW": "e"}
    assert os.environ == {"HOME": "c"}


PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from alignkit.recipe.lookup.find import find, load
kind, name = sys.argv[1:]
found = find(kind, name, beside=Path())
thing = load(found)
print(thing.seen if hasattr(thing, "seen") else "shelf", "HF_TOKEN" in os.environ)
print(b"canary" in Path("/proc/self/environ").read_bytes())
print("canary" in subprocess.run(["env"], capture_output=True, text=True).stdout)
from alignkit.recipe.lookup.secrets import secret
print(secret("HF_TOKEN"))
"""
FILE = """
import os
class ALGORITHM:
    seen = [name for name in ("HF_TOKEN", "URL", "PLAIN") if name in os.environ]
world = reward = ALGORITHM
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(
    ("kind", "name"),
    [("algorithms", "./mine.py"), ("environments", "./mine.py:world"), ("rewards", "./mine.py:reward")],
)
def test_a_file_of_the_recipe_finds_no_secret_in_the_environment_nor_in_proc(tmp_path, kind, name):
    (tmp_path / "mine.py").write_text(FILE)
    assert run(tmp_path, kind, name) == ["['PLAIN'] False", "False", "False", "canary"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_alignkits_own_files_leave_the_environment_as_it_is(tmp_path):
    assert run(tmp_path, "algorithms", "grpo") == ["shelf True", "True", "True", "canary"]


def run(folder, kind, name):
    environment = {**os.environ, "HF_TOKEN": "canary", "URL": "https://me:canary@example.org", "PLAIN": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, name],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
