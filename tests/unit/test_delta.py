"""Lossless deltas of weights: the same bits, few bytes, and a chain that refuses what does not belong to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import LayoutError, SyncError
from alignkit.weights.delta import Chain, apply, delta, fingerprint

BITS = st.integers(-(2**15), 2**15 - 1)


def of_bits(bits: list[int]) -> torch.Tensor:
    return torch.tensor(bits, dtype=torch.int16).view(torch.bfloat16)


def bits(weights: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: tensor.view(torch.int16).flatten().tolist() for name, tensor in weights.items()}


@settings(max_examples=40)
@given(st.lists(BITS, max_size=40), st.data())
def test_any_bits_become_any_others(old, data):
    new = [data.draw(st.one_of(st.just(bit), BITS)) for bit in old]
    first, second = {"w": of_bits(old), "v": of_bits([1, 2])}, {"w": of_bits(new), "v": of_bits([1, 2])}
    made = delta(first, second)
    assert apply(made.data, first, have=made.base) == made.result == fingerprint(second)
    assert bits(first) == bits(second)


@pytest.mark.parametrize("gap", [0, 1, 253, 254, 255, 256, 509, 510, 65534, 65535, 65536, 131070])
def test_changes_as_far_apart_as_words_end(gap):
    old, new = torch.zeros(3 * gap + 3, dtype=torch.bfloat16), torch.zeros(3 * gap + 3, dtype=torch.bfloat16)
    new[gap], new[2 * gap + 1] = 1.0, -1.0
    made = delta({"w": old}, {"w": new})
    apply(made.data, weights := {"w": old}, have=made.base)
    assert torch.equal(weights["w"], new)


def test_changes_of_one_in_a_hundred_by_one_place_take_less_than_two_bytes_each():
    generator = torch.Generator().manual_seed(0)
    old = torch.ones(100_000, dtype=torch.bfloat16)
    new = old.clone()
    new.view(torch.int16)[torch.randperm(100_000, generator=generator)[:1000]] += 1
    made = delta({"w": old}, {"w": new})
    assert 1000 < len(made.data) < 2 * 1000


def test_a_delta_leads_from_its_own_weights_only_and_changes_no_others():
    one, two = {"w": torch.zeros(9, dtype=torch.bfloat16)}, {"w": torch.ones(9, dtype=torch.bfloat16)}
    made = delta(one, two)
    with pytest.raises(
        SyncError, match=f"leads from {made.base[:12]}, the weights are {made.result[:12]}; pull the base"
    ):
        apply(made.data, two, have=made.result)
    assert torch.equal(two["w"], torch.ones(9, dtype=torch.bfloat16))


def test_a_damaged_delta_is_refused_before_and_other_weights_after():
    one, two = {"w": torch.zeros(9, dtype=torch.bfloat16)}, {"w": torch.ones(9, dtype=torch.bfloat16)}
    made = delta(one, two)
    for place in range(len(made.data)):
        damaged = bytearray(made.data)
        damaged[place] ^= 1
        with pytest.raises(SyncError, match="pull it again"):
            apply(bytes(damaged), one, have=made.base)
    assert not one["w"].any()
    with pytest.raises(SyncError, match=r"the weights became .*; pull the base again"):
        apply(made.data, {"w": torch.full((9,), 2.0, dtype=torch.bfloat16)}, have=made.base)


def test_who_is_behind_gets_the_deltas_since_and_who_is_too_far_the_base():
    generator = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(50, 3, generator=generator).bfloat16()}
    chain = Chain(weights, 10, keep=2)
    replica, have = {"w": weights["w"].clone()}, fingerprint(weights)
    for version in (11, 12, 14):
        weights["w"] = (weights["w"].float() + 0.1 * torch.randn(50, 3, generator=generator)).bfloat16()
        chain.add(weights, version)
        if version == 11:
            [made] = chain.since(10) or []
            have = apply(made.data, replica, have=have)
    assert chain.since(10) is None
    assert chain.since(13) is None
    assert chain.since(14) == []
    for made in chain.since(11) or []:
        have = apply(made.data, replica, have=have)
    assert torch.equal(replica["w"], weights["w"])
    assert torch.equal(chain.base()["w"], weights["w"])
    with pytest.raises(SyncError, match="version 14 after version 14"):
        chain.add(weights, 14)


def test_what_is_no_16_bit_weight_or_has_no_counterpart_is_refused():
    half = {"w": torch.zeros(4, dtype=torch.float16)}
    for other, message in [
        ({"w": torch.zeros(4)}, "w is torch.float32 on cpu; deltas are of 16-bit weights"),
        ({"w": torch.zeros(2, 2, dtype=torch.float16)}, "w has another shape or dtype"),
        ({"v": half["w"]}, "v is in one version only"),
    ]:
        with pytest.raises(LayoutError, match=message):
            delta(half, other)
    assert np.array_equal(half["w"].numpy(), np.zeros(4))
