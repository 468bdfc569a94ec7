"""What a loader takes of which tensor, seen from below: boxes by hand, by property, and what is no box."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignkit.engines.vllm.copies import Loaded, Recorder, box_of
from alignkit.engines.vllm.moved import Moved, View


def model_of(**shapes: tuple[int, ...]) -> Any:
    model: Any = nn.Module()
    for name, shape in shapes.items():
        model.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
    return model


def recorder_of(model: Any, weights: dict[str, Tensor], how: Any) -> Recorder:
    """how: a loader, given the model and the weights."""
    recorder = Recorder()
    with recorder:
        how(model, dict(recorder.named(weights.items())))
    return recorder


def recorded(model: Any, weights: dict[str, Tensor], how: Any) -> dict[str, Loaded]:
    return recorder_of(model, weights, how).loaded(model)


@pytest.mark.parametrize(
    ("cut", "begin", "size"),
    [
        (lambda w: w, (0, 0), (6, 8)),
        (lambda w: w.narrow(0, 2, 3), (2, 0), (3, 8)),
        (lambda w: w.narrow(1, 4, 4), (0, 4), (6, 4)),
        (lambda w: w[1:5].chunk(2, 1)[1], (1, 4), (4, 4)),
        (lambda w: w.view(3, 2, 2, 4)[1, :, 1], (2, 4), (2, 4)),
        (lambda w: w.t()[2], (0, 2), (6, 1)),
        (lambda w: w.view(2, 3, 8).transpose(0, 1), (0, 0), (6, 8)),
        (lambda w: w[3, 5], (3, 5), (1, 1)),
        (lambda w: w.view(-1)[16:32], (2, 0), (2, 8)),
    ],
)
def test_a_view_of_six_by_eight_is_the_box_that_it_was_cut_as(cut: Any, begin: Any, size: Any):
    assert box_of(View.between(cut(torch.zeros(6, 8)), 0), (6, 8)) == (begin, size)


@pytest.mark.parametrize(
    "cut",
    [
        lambda w: w[::2],
        lambda w: w.view(-1)[4:12],  # the end of one row and the beginning of the next
        lambda w: w.view(6, 2, 4)[:, :, 1:3],  # two pieces of each row
        lambda w: w[:1].expand(6, 8),
        lambda w: w.diagonal(),
    ],
)
def test_what_is_no_box_is_not_called_one_and_the_whole_tensor_is_wanted(cut: Any):
    part = cut(torch.zeros(6, 8))
    assert box_of(View.between(part, 0), (6, 8)) is None
    recorder = recorder_of(model_of(t=part.shape), {"w": torch.zeros(6, 8)}, lambda m, ws: m.t.copy_(cut(ws["w"])))
    assert recorder.wanted() == {"boxes": [], "whole": ["w"]}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_chain_of_cuts_is_a_box_with_just_the_numbers_that_it_holds(data: st.DataObject):
    """The numbers of the tensor are their places, so that what a view holds says which box it must be."""
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    whole = view = torch.arange(torch.Size(shape).numel()).view(shape)
    for _ in range(data.draw(st.integers(0, 4))):
        axis = data.draw(st.integers(0, view.ndim - 1))
        begin = data.draw(st.integers(0, view.shape[axis] - 1))
        view = view.narrow(axis, begin, data.draw(st.integers(1, view.shape[axis] - begin)))
        view = view.transpose(axis, data.draw(st.integers(0, view.ndim - 1)))
    box = box_of(View.between(view, 0), shape)
    assert box is not None
    cut = whole[tuple(slice(begin, begin + size) for begin, size in zip(*box, strict=True))]
    assert sorted(cut.flatten().tolist()) == sorted(view.flatten().tolist())


def fused(model: Any, weights: dict[str, Tensor]) -> None:
    """q and k below each other, as the second of two workers; a turned layer."""
    for name, begin in (("q", 0), ("k", 4)):
        target = model.qk.data.narrow(0, begin, weights[name].shape[0] // 2)
        target.copy_(weights[name].chunk(2)[1])
    model.turned.copy_(weights["c"].t())


def test_a_fused_layer_is_made_of_the_boxes_that_went_into_it_and_holds_what_they_hold():
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) for name, shape in {"q": (8, 3), "k": (4, 3), "c": (2, 5)}.items()
    }
    model = model_of(qk=(6, 3), turned=(5, 2))
    recorder = recorder_of(model, weights, fused)
    loaded = recorder.loaded(model)
    assert recorder.wanted() == {
        "boxes": [("c", (0, 0), (2, 5)), ("k", (2, 0), (2, 3)), ("q", (4, 0), (4, 3))],
        "whole": [],
    }
    assert all(each.covered for each in loaded.values())
    assert torch.equal(model.qk, torch.cat([weights["q"][4:], weights["k"][2:]]))
    for name, each in loaded.items():
        for copy in each.copies:
            assert torch.equal(copy.placed.of(getattr(model, name)), copy.taken.of(weights[copy.source]))


def test_without_weights_the_same_boxes_are_asked_and_nothing_is_copied():
    shapes = {"q": (8, 3), "k": (4, 3), "c": (2, 5)}
    real = recorded(model_of(qk=(6, 3), turned=(5, 2)), {n: torch.ones(s) for n, s in shapes.items()}, fused)
    model = model_of(qk=(6, 3), turned=(5, 2))
    asked = recorded(model, {n: torch.ones(s, device="meta") for n, s in shapes.items()}, fused)
    assert asked == real
    assert not model.qk.any()


def test_one_tensor_under_two_names_is_known_by_both_and_later_copies_replace_earlier_ones():
    model: Any = nn.Module()
    model.embed, model.head = model_of(weight=(4, 2)), model_of(weight=(4, 2))
    model.head.weight = model.embed.weight

    def twice(model: Any, weights: dict[str, Tensor]) -> None:
        model.head.weight.copy_(weights["lm_head"])
        model.embed.weight.copy_(weights["embed"])

    loaded = recorded(model, {"lm_head": torch.ones(4, 2), "embed": torch.ones(4, 2)}, twice)
    assert loaded["embed.weight"] == loaded["head.weight"]
    assert [copy.source for copy in loaded["embed.weight"].copies] == ["embed"]


@pytest.mark.parametrize(
    "how",
    [
        lambda w, source: w.copy_(source.exp()),
        lambda w, source: w.copy_(torch.cat([source[:1], torch.ones(2, 2)])),
        lambda w, source: w.copy_(source.clone().add_(1)),
        lambda w, source: w.copy_(source.clone().fill_(1)),
        lambda w, source: w.copy_(torch.cat([source.exp()[:1], source[1:]])),
        lambda w, source: w.copy_(source).add_(1),
        lambda w, source: w.copy_(source).copy_(torch.exp(w)),
        lambda w, source: torch.add(source, 1, out=w),
        lambda w, source: w.add_(source),
    ],
)
def test_what_a_loader_computes_is_said_to_be_computed_of_all_of_its_sources(how: Any):
    model = model_of(w=(3, 2))
    recorder = recorder_of(model, {"x": torch.ones(3, 2)}, lambda model, weights: how(model.w, weights["x"]))
    assert recorder.loaded(model)["w"].computed == ("x",)


def test_what_is_computed_with_is_wanted_whole_and_what_is_only_changed_afterwards_as_the_box_that_came():
    def load(model: Any, weights: dict[str, Tensor]) -> None:
        model.w.copy_(weights["x"][:3]).add_(1)
        model.v.copy_(weights["y"][:3] * 2)

    recorder = recorder_of(model_of(w=(3, 2), v=(3, 2)), {"x": torch.ones(6, 2), "y": torch.ones(6, 2)}, load)
    assert recorder.wanted() == {"boxes": [("x", (0, 0), (3, 2))], "whole": ["y"]}


def test_what_goes_to_memory_that_the_model_has_no_more_is_wanted_all_the_same():
    def load(model: Any, weights: dict[str, Tensor]) -> None:
        model.w.copy_(weights["x"][:3])
        model.w = nn.Parameter(model.w.clone(), requires_grad=False)

    model = model_of(w=(3, 2))
    recorder = recorder_of(model, {"x": torch.ones(6, 2)}, load)
    assert recorder.loaded(model) == {}
    assert recorder.wanted() == {"boxes": [("x", (0, 0), (3, 2))], "whole": []}


def test_a_freed_tensors_memory_is_not_taken_for_it_when_it_is_used_again():
    """Files are read one tensor at a time; memory that is free again goes to whatever comes next."""
    model, recorder = model_of(w=(100, 100)), Recorder()
    with recorder:
        for name, _ in recorder.named((f"x{i}", torch.ones(100, 100)) for i in range(20)):
            assert name
        model.w.copy_(torch.ones(100, 100))
    assert recorder.loaded(model) == {}


HEADS = 4
MOVES = {
    "heads before their parts (BLOOM)": lambda w: w.view(HEADS, 3, -1, 5).transpose(0, 1).reshape(24, 5),
    "pairs of a rotation (Llama 4)": lambda w: w.view(HEADS, 3, 2, 5).transpose(1, 2).reshape(24, 5),
    "halves exchanged": lambda w: torch.cat([w[12:], w[:12]]),
    "every second row first, twice": lambda w: torch.cat([w[::2], w[1::2]]).view(12, 10).t().contiguous().view(24, 5),
    "in another dtype and back": lambda w: w.to(torch.float64).flatten().clone().view(24, 5).to(torch.float32),
    "rows as a list": lambda w: torch.stack(list(w)),
    "as its strides were": lambda w: w.view(5, 24).t().clone(),
}


@pytest.mark.parametrize("rows", [slice(0, 24), slice(6, 18)])
@pytest.mark.parametrize("name", MOVES)
def test_what_a_loader_puts_in_another_order_is_the_same_made_of_any_weights(name: str, rows: slice):
    """Also a worker's share of it. The numbers are places, so that one in the wrong place is seen."""
    move = MOVES[name]
    sent, other = torch.zeros(24, 5), torch.arange(120.0).view(24, 5)
    model = model_of(w=tuple(move(sent)[rows].shape))
    recorder = recorder_of(model, {"x": sent}, lambda model, weights: model.w.copy_(move(weights["x"])[rows]))
    loaded = recorder.loaded(model)["w"]
    assert (loaded.computed, loaded.covered) == ((), True)
    [copy] = loaded.copies
    assert isinstance(copy.source, Moved)
    made = copy.source.of({"x": other})
    assert made is not None
    assert torch.equal(copy.taken.of(made), move(other)[rows])
    assert copy.source.of({"x": torch.zeros(24, 6)}) is copy.source.of({}) is copy.source.of({"x": "a digest"}) is None
    assert recorder.wanted() == {"boxes": [], "whole": ["x"]}
