"""`model.dtype: auto` is what the hardware multiplies, settled once; a run that goes on keeps what it began in."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from alignkit.errors import CheckpointError
from alignkit.models.arithmetic import settled
from alignkit.recipe.read import dump_recipe, read_recipe
from alignkit.run.train import start
from alignkit.train import checkpoint
from alignkit.train.state import State


def recipe(dtype: str):
    return read_recipe("smoke/char-addition", [f"model.dtype={dtype}"])


@pytest.mark.parametrize(
    ("told", "computes"),
    [
        ("processor : 0\nflags : fpu avx2 avx512f\n", False),
        ("processor : 0\nflags : fpu avx512f avx512_bf16\n", True),
        ("processor : 0\nflags : fpu amx_tile amx_bf16\n", True),
        ("processor : 0\nFeatures : fp asimd bf16\n", True),
        ("processor : 0\nFeatures : fp asimd\n", False),
        ("processor : 0\n", None),
    ],
)
def test_auto_is_bfloat16_only_on_a_cpu_that_says_it_multiplies_it(tmp_path, told, computes):
    (tmp_path / "cpuinfo").write_text(told)
    auto, said = settled(recipe("auto"), device="cpu", cpuinfo=tmp_path / "cpuinfo")
    assert auto.model.dtype == ("bfloat16" if computes else "float32")
    assert f"auto is {auto.model.dtype}, for" in said
    by_name, warned = settled(recipe("bfloat16"), device="cpu", cpuinfo=tmp_path / "cpuinfo")
    assert by_name.model.dtype == "bfloat16"
    assert (warned is not None) == (computes is False)  # one that tells nothing is not accused
    assert warned is None or "set model.dtype=float32" in warned


@pytest.mark.parametrize(("computes", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_is_asked_whether_it_computes_bfloat16_without_emulation(monkeypatch, computes, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or computes)
    assert settled(recipe("auto"), device="cuda:0")[0].model.dtype == dtype


def test_float32_by_name_needs_no_word(tmp_path):
    written = recipe("float32")
    assert settled(written, device="cpu", cpuinfo=tmp_path / "none") == (written, None)


def begun(monkeypatch, tmp_path, *, kept: str, now: str) -> start.Start:
    """A run of which a checkpoint in `kept` is there goes on with a recipe that says `now`."""
    place = tmp_path / "run" / "checkpoints" / "step-3"
    place.mkdir(parents=True)
    (place / checkpoint.RECIPE).write_text(dump_recipe(recipe(kept)))
    monkeypatch.setattr(checkpoint, "newest", lambda folder, report: place)
    monkeypatch.setattr(checkpoint, "read_state", lambda place: State())
    with ExitStack() as resources:
        return start.begin(recipe(now), tmp_path / "run", resume=True, resources=resources)


def test_a_run_that_goes_on_elsewhere_keeps_its_numbers_and_says_so(monkeypatch, tmp_path):
    here = settled(recipe("auto"))[0].model.dtype
    other = {"float32": "bfloat16", "bfloat16": "float32"}[here]
    found = begun(monkeypatch, tmp_path, kept=other, now="auto")
    assert found.recipe.model.dtype == other
    assert f"auto stays {other}, in which this run began; a new one would take {here}" in found.notes[-1]


def test_numbers_that_were_named_are_not_resumed_by_others(monkeypatch, tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.dtype: 'float32' -> 'bfloat16'"):
        begun(monkeypatch, tmp_path, kept="float32", now="bfloat16")
