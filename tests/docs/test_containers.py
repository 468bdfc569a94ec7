"""The Dockerfile, read: what it copies is there and enough, and what it installs are the pins."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from tests.docs.pages import ROOT

TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COPIED = [name for line in re.findall(r"(?m)^COPY (.*)$", TEXT) for name in line.split()[:-1]]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_everything_that_is_copied_is_there_and_let_through(device):
    names = [name.replace("${DEVICE}", device) for name in COPIED]
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert [name for name in names if not (ROOT / name).exists() or name not in let_through] == []
    assert f"requirements-{device}.txt" in names


def test_it_installs_the_pins_alone_in_the_order_of_the_makefile():
    installs = re.findall(r"pip install ([^&\n]*)", TEXT)
    assert [("--no-deps" in line, "--no-cache-dir" in line) for line in installs] == [(True, True)] * 3
    assert ["without-deepspeed.txt" in installs[0], "'^deepspeed=='" in installs[1], installs[2].split()[-1]] == [
        True,
        True,
        ".",
    ]
    for device in ("cpu", "gpu"):
        pins = (ROOT / f"requirements-{device}.txt").read_text().splitlines()
        assert sum(line.startswith("deepspeed==") for line in pins) == 1
        assert any(line.startswith("hatchling==") for line in pins)  # the wheel is built without asking an index


def test_its_python_is_one_that_alignkit_and_the_pins_are_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [version] = re.findall(r"(?m)^ARG PYTHON=(\S+)$", TEXT)
    assert version in SpecifierSet(project["requires-python"])
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_it_does_not_run_as_root_and_a_stop_reaches_the_run():
    assert TEXT.index("USER alignkit") < TEXT.index("ENTRYPOINT")
    assert 'ENTRYPOINT ["tini", "--", "alignkit"]' in TEXT
    assert "tini" in TEXT.partition("apt-get install")[2].partition("&&")[0]
