"""Bytes by role and phase, shared out over devices: all by hand."""

from __future__ import annotations

import pytest

from alignkit.errors import AlignkitError
from alignkit.parallel.memory.device import Device
from alignkit.parallel.memory.rollout_engine import ASLEEP, ENGINE_WORKSPACE, VllmShare
from alignkit.parallel.memory.sharding import Sharding
from alignkit.parallel.memory.trace import Trace, deeper, most


def test_a_phase_holds_at_most_what_it_found_and_took_before_it_gave_back():
    trace = Trace()
    trace.enter("start")
    trace.allocate("start", 100, "weights")
    trace.enter("update")
    first = trace.allocate("update", 30, "activations")
    trace.free("update", first, 30)
    trace.allocate("update", 7, "gradients")
    trace.enter("save")
    assert most(trace.peaks()) == {
        "start": {"weights": 100},
        "update": {"weights": 100, "activations": 30},
        "save": {"weights": 100, "gradients": 7},
    }


def test_a_deep_model_peaks_where_its_layers_do_though_a_flat_one_peaks_at_its_head():
    def peaks(layers: int) -> dict:
        return {"update": {"head": {"head": 50, "kept": layers}, "layer": {"layer": 10 * layers}}}

    assert most(peaks(3)) == {"update": {"head": 50, "kept": 3}}
    assert most(deeper(peaks(2), peaks(3), layers=(2, 3, 28))) == {"update": {"layer": 280}}


@pytest.mark.parametrize(
    ("text", "size", "count"),
    [
        ("80GB", 80 * 10**9, None),
        ("24GiBx2", 24 * 2**30, 2),
        ("h100x8", round(79.2 * 2**30), 8),
        ("rtx4090", 25232932864, None),
    ],
)
def test_a_device_is_a_size_or_a_name_and_a_number_of_them(text, size, count):
    device = Device.parse(text)
    assert (device.size, device.count) == (size, count)


@pytest.mark.parametrize("text", ["", "x8", "0GB", "h1000", "80"])
def test_a_device_that_nobody_knows_is_one_sentence(text):
    with pytest.raises(AlignkitError, match="wanted a size"):
        Device.parse(text)


ZERO = {"reduce_bucket_size": 10, "overlap_comm": True, "stage3_max_live_parameters": 250}


@pytest.mark.parametrize(
    ("stage", "more", "expected"),
    [
        (1, {}, {"weights": 4000, "gradients": 3200 + 400, "optimizer": 1200, "activations": 7, "communication": 80}),
        (2, {}, {"weights": 4000, "gradients": 400, "optimizer": 1200, "activations": 7, "communication": 80}),
        (3, {}, {"weights": 1000 + 500, "gradients": 400, "optimizer": 800, "activations": 7, "communication": 80}),
        (3, {"offload_optimizer": {}, "offload_param": {}}, {"weights": 1000, "activations": 7, "communication": 80}),
    ],
)
def test_eight_devices_hold_an_eighth_of_what_their_stage_of_zero_cuts(stage, more, expected):
    sharding = Sharding.of({"zero_optimization": {"stage": stage, **ZERO, **more}}, 8)
    held = {"weights": 4000, "gradients": 3200, "optimizer": 6400, "activations": 7}
    assert sharding.share(held, trained=800, weights=1000, phase="update") == expected


@pytest.mark.parametrize(("stage", "weights"), [(1, 4000), (2, 4000), (3, 500)])
def test_a_model_is_read_whole_by_each_device_and_in_eighths_under_stage_3(stage: int, weights: int):
    sharding = Sharding.of({"zero_optimization": {"stage": stage}}, 8)
    held = {"weights": 4000, "activations": 9}
    assert sharding.share(held, trained=1, weights=1000, phase="start") == {"weights": weights}


@pytest.mark.parametrize(
    ("stage", "more", "reference"), [(2, {}, 2000), (3, {}, 250), (3, {"offload_param": {}}, None)]
)
def test_stage_3_keeps_an_eighth_of_a_reference_and_of_a_slow_critic(stage, more, reference):
    sharding = Sharding.of({"zero_optimization": {"stage": stage, **ZERO, **more}}, 8)
    held = {"weights": 4000, "reference": 2000, "target critic": 2000}
    shared = sharding.share(held, trained=800, weights=1000, phase="annotate")
    assert (shared.get("reference"), shared.get("target critic")) == (reference, reference)


def test_an_engine_fills_its_share_with_a_cache_for_so_many_sequences():
    engine = VllmShare(share=0.5, weights=10**9, token=1000, context=1000)
    device = 2 * (10**9 + ENGINE_WORKSPACE + 3 * 10**6)
    assert engine.held(device, "update") == {"engine weights": 10**9, "engine cache": ENGINE_WORKSPACE + 3 * 10**6}
    assert engine.sequences(device) == 3
    assert engine.sequences(device - 3 * 2 * 10**6) == 0
    assert engine.smallest(device, 3) == pytest.approx(0.5)


def test_an_engine_that_sleeps_holds_its_weights_in_the_sync_and_its_cache_when_it_samples():
    engine = VllmShare(share=0.5, weights=10**9, token=1000, context=1000, sleeps=True)
    assert {phase: engine.held(8 * 10**9, phase) for phase in ("start", "sync", "sample", "update")} == {
        "start": {"engine process": ASLEEP},
        "sync": {"engine process": ASLEEP, "engine weights": 10**9},
        "sample": {"engine weights": 10**9, "engine cache": 3 * 10**9},
        "update": {"engine process": ASLEEP},
    }


def test_critics_and_a_reference_are_cut_as_the_policy_is():
    sharding = Sharding.of({"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 0}}, 4)
    held = {"weights": 4000, "critic": 400, "reference": 2000, "target critic": 400}
    shared = sharding.share(held, trained=1100, weights=1100, phase="annotate")
    cut = {"weights": 1000, "critic": 100, "reference": 500, "target critic": 100}
    assert {role: shared[role] for role in held} == cut
