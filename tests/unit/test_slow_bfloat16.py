"""A CPU that computes bfloat16 by hand is named, with what to do."""

from __future__ import annotations

import pytest

from alignkit.models.slow_bfloat16 import slow_bfloat16


@pytest.mark.parametrize(
    ("told", "slow"),
    [
        ("processor : 0\nflags : fpu avx2 avx512f\n", True),
        ("processor : 0\nflags : fpu avx512f avx512_bf16\n", False),
        ("processor : 0\nflags : fpu amx_tile amx_bf16\n", False),
        ("processor : 0\nFeatures : fp asimd bf16\n", False),
        ("processor : 0\nFeatures : fp asimd\n", True),
        ("processor : 0\n", False),
    ],
)
def test_only_a_cpu_that_says_what_it_can_and_cannot_do_this_is_slow(tmp_path, told, slow):
    (tmp_path / "cpuinfo").write_text(told)
    sentence = slow_bfloat16("bfloat16", "cpu", tmp_path / "cpuinfo")
    assert (sentence is not None) == slow
    assert sentence is None or "set model.dtype=float32" in sentence


def test_float32_a_gpu_and_a_machine_that_tells_nothing_are_not_named(tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : fpu\n")
    assert slow_bfloat16("float32", "cpu", tmp_path / "cpuinfo") is None
    assert slow_bfloat16("bfloat16", "cuda", tmp_path / "cpuinfo") is None
    assert slow_bfloat16("bfloat16", "cpu", tmp_path / "none") is None
