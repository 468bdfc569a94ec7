"""The plan of weights: every wanted number once, from one who has it, at the fewest bytes, and without a lock."""

from __future__ import annotations

from math import prod
from random import Random
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import LayoutError
from alignkit.types.layout import Box, Holder, Layout, Part
from alignkit.weights.layouts.decoder import Decoder
from alignkit.weights.layouts.vllm_layout import vllm_layout
from alignkit.weights.layouts.zero_layout import zero_layout
from alignkit.weights.plan.fewest import fewest
from alignkit.weights.plan.plan import plan
from tests.unit.random_layouts import holders, masks, pairs
from tests.unit.walked_plan import walked


def counted(source: Layout, target: Layout) -> tuple[int, int, int]:
    """The bound of `fewest`, number by number instead of on a grid."""
    have, want = masks(source), masks(target)
    local = within = between = 0
    for name, shape in target.shapes.items():
        for place in np.ndindex(*shape):
            owners = {holder for holder, held in have.items() if held[name][place]}
            wanting = {holder for holder, held in want.items() if held[name][place]}
            local += len(owners & wanting)
            entered = {holder.host for holder in wanting} - {holder.host for holder in owners}
            between += len(entered)
            within += len(wanting - owners) - len(entered)
    return local, within, between


EXAMPLES = (pairs(), st.integers(1, 30), st.randoms(use_true_random=False))


@settings(max_examples=200)
@given(*EXAMPLES)
def test_every_wanted_number_comes_once_at_the_fewest_bytes_and_never_locks(pair, bucket, order):
    check(*pair, bucket, order)


@pytest.mark.slow
@settings(max_examples=2000)
@given(*EXAMPLES)
def test_it_does_so_on_thousands_of_random_layouts(pair, bucket, order):
    check(*pair, bucket, order)


def check(source: Layout, target: Layout, bucket: int, order: Random) -> None:
    made = plan(source, target, bucket=bucket)
    assert made.numbers == fewest(source, target) == counted(source, target)
    got, wanted = walked(made, source, target, order), masks(target)
    for holder, tensors in wanted.items():
        for name, times in tensors.items():
            np.testing.assert_array_equal(got[holder][name], times)


def test_two_ranks_with_halves_of_a_matrix_into_two_columns_worked_out_by_hand():
    """Rank 0 has rows 0-1, rank 1 rows 2-3 of 4 x 4; worker a, on rank 0's host, wants columns 0-1, b columns 2-3."""
    ranks, (a, b) = [Holder("one", 0), Holder("two", 1)], [Holder("one", 2), Holder("three", 3)]
    shapes = {"w": (4, 4)}
    source = Layout.of(shapes, [Part(Box("w", (2 * i, 0), (2, 4)), rank) for i, rank in enumerate(ranks)])
    target = Layout.of(shapes, [Part(Box("w", (0, 0), (4, 2)), a), Part(Box("w", (0, 2), (4, 2)), b)])
    made = plan(source, target)
    found = {(move.box.begin, move.box.size, move.sender.process, move.receiver.process) for move in made}
    assert found == {((0, 0), (2, 2), 0, 2), ((2, 0), (2, 2), 1, 2), ((0, 2), (2, 2), 0, 3), ((2, 2), (2, 2), 1, 3)}
    assert made.numbers == (0, 4, 12)


def test_replicas_are_fed_once_and_hand_on():
    """One owner, three hosts with two processes each that want all of 6 numbers."""
    owner, wanting = Holder("trainer", 0), holders(3, 2)
    wanting = [Holder(w.host, 10 + w.process) for w in wanting]
    whole = Box("w", (0,), (6,))
    source = Layout.of({"w": (6,)}, [Part(whole, owner)])
    made = plan(source, Layout.of({"w": (6,)}, [Part(whole, w) for w in wanting]))
    ways = [(m.sender.process, m.receiver.process, s) for m, s in zip(made, made.stage.tolist(), strict=True)]
    assert sorted(ways) == [(0, 10, 0), (10, 11, 1), (10, 12, 1), (12, 13, 2), (12, 14, 2), (14, 15, 3)]
    assert made.numbers == (0, 18, 18)


@pytest.mark.parametrize("replicas", [1, 4])
def test_equal_owners_send_equally_and_equal_receivers_receive_equally(replicas):
    owners = [Holder(f"trainer{i}", i) for i in range(4)]
    engines = [Holder("engines", 10 + i) for i in range(replicas)]
    shapes = {f"layers.{i}.w": (1024, 256) for i in range(3)}
    parts = [Box(name, (0, 0), shape) for name, shape in shapes.items()]
    source = Layout.of(shapes, [Part(box, owner) for box in parts for owner in owners])
    made = plan(source, Layout.of(shapes, [Part(box, engine) for box in parts for engine in engines]))
    total = 3 * 1024 * 256
    assert made.sent[:4].tolist() == [total // 4] * 4
    assert made.received[4:].tolist() == [total] * replicas
    assert made.sent[4:].max() <= total


def test_buckets_are_layers_and_no_more_than_their_limit():
    shapes = {"embed.weight": (100, 4), "layers.0.a": (10, 4), "layers.0.b": (10, 4), "layers.1.a": (10, 4)}
    whole = [Box(name, (0, 0), shape) for name, shape in shapes.items()]
    source = Layout.of(shapes, [Part(box, Holder("a", 0)) for box in whole])
    made = plan(source, Layout.of(shapes, [Part(box, Holder("b", 1)) for box in whole]), bucket=160)
    found = [
        (move.box.name, move.box.begin[0], bucket) for move, bucket in zip(made, made.bucket.tolist(), strict=True)
    ]
    assert found == [
        ("embed.weight", 0, 0), ("embed.weight", 40, 1), ("embed.weight", 80, 2),
        ("layers.0.a", 0, 3), ("layers.0.b", 0, 3), ("layers.1.a", 0, 4),
    ]  # fmt: skip


def test_1024_devices_are_planned_in_5_seconds_of_a_core_at_the_fewest_bytes():
    """ZeRO-3 of a model of 70 billion on 512 ranks of 64 hosts into 64 replicas of 8 workers, on hosts of their own."""
    model = Decoder(layers=80, width=8192, heads=64, kv_heads=8, head_size=128, intermediate=28672, vocabulary=128256)
    ranks = [Holder(f"trainer{i // 8}", i) for i in range(512)]
    workers = [[Holder(f"engine{r}", 512 + 8 * r + i) for i in range(8)] for r in range(64)]
    source, target = zero_layout(3, model.shapes, ranks), vllm_layout(model, workers, tensor_parallel=8)
    begun = process_time()
    made = plan(source, target)
    assert process_time() - begun < 5
    norms = 161 * 8192
    weights = sum(map(prod, model.shapes.values()))
    assert made.numbers == (0, 64 * 7 * norms, 64 * weights)
    share = (weights + 7 * norms) / 8
    assert made.sent[:512].max() < 1.01 * weights / 512
    assert made.received[512:].max() < 1.001 * share
    assert made.sent[512:].max() < 1.001 * share


ONE, TWO = Holder("a", 0), Holder("b", 1)
WHOLE, PART = Part(Box("w", (0,), (4,)), ONE), Part(Box("w", (0,), (3,)), ONE)


@pytest.mark.parametrize(
    ("have", "want", "message"),
    [
        (({"w": (4,)}, [PART]), ({"w": (4,)}, [WHOLE]), r"nobody has all of w from \[0\] to \[4\]"),
        (({"w": (4,)}, []), ({"w": (4,)}, [WHOLE]), "nobody has w"),
        (({"w": (4,), "v": (1,)}, [WHOLE]), ({"w": (4,)}, [WHOLE]), "1 tensors are not in the target layout, first: v"),
        (({"w": (4,)}, [WHOLE]), ({"w": (4,), "v": (1,)}, [WHOLE]), "1 tensors are not in the source layout, first: v"),
        (({"w": (64,)}, [WHOLE]), ({"w": (4,)}, [WHOLE]), "at its source, .* at its target; give .* without padding"),
        (({"w": (4,)}, [WHOLE]), ({"w": (4,)}, [WHOLE, WHOLE]), "a process holds numbers of w twice"),
    ],
)  # fmt: skip
def test_layouts_that_do_not_fit_are_refused_in_one_line_with_the_cure(have, want, message):
    with pytest.raises(LayoutError, match=message) as error:
        plan(Layout.of(*have), Layout.of(*want))
    assert "\n" not in str(error.value)


def test_a_box_that_leaves_its_tensor_is_refused_and_an_empty_one_left_out():
    with pytest.raises(LayoutError, match=r"is not within \(4,\); cut it to the tensor"):
        Layout.of({"w": (4,)}, [Part(Box("w", (2,), (3,)), ONE)])
    assert list(Layout.of({"w": (4,)}, [WHOLE, Part(Box("w", (4,), (0,)), TWO)]).parts) == [WHOLE]
