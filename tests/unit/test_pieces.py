"""The pieces of all ranks are, number by number and bit by bit, the weights of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from alignkit.models import weights
from alignkit.models.weights import Held, Part, named_policy_weights
from alignkit.weights import pieces as own
from alignkit.weights import renamed
from alignkit.weights.piece import Piece
from alignkit.weights.pieces import ROWS, _own, _rows, checkpoint_shapes, pieces
from alignkit.weights.renamed import Renamed
from tests.model_families import FAMILIES, tiny
from tests.tiny import causal_lm


def put_together(ranks: Iterable[Iterable[Piece]], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors out of all ranks' pieces; fails where a number comes twice or from nobody."""
    found = {name: torch.zeros(tensor.numel(), dtype=tensor.dtype) for name, tensor in wanted.items()}
    times = {name: torch.zeros(tensor.numel(), dtype=torch.int64) for name, tensor in wanted.items()}
    for piece in (piece for rank in ranks for piece in rank):
        assert piece.values.ndim == 1
        end = piece.begin + len(piece.values)
        found[piece.name][piece.begin : end] = piece.values
        times[piece.name][piece.begin : end] += 1
    assert all(bool((count == 1).all()) for count in times.values())
    return {name: tensor.view(wanted[name].shape) for name, tensor in found.items()}


def assert_whole(model: Any, world: int, part: Part = "merged") -> None:
    wanted = {name: tensor.clone() for name, tensor in named_policy_weights(model, part=part)}
    got = put_together((pieces(model, rank=rank, world=world, part=part) for rank in range(world)), wanted)
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor), name
    if part != "adapter":
        assert checkpoint_shapes(model, part=part) == {name: tuple(tensor.shape) for name, tensor in wanted.items()}


def adapted(base: Callable[[], nn.Module], **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(base(), LoraConfig(**{"r": 3, "lora_alpha": 5, "init_lora_weights": False} | settings))


EVERYTHING = ["q_proj", "down_proj", "embed_tokens", "lm_head"]
ADAPTED: dict[str, Callable[[], nn.Module]] = {
    "layers": partial(adapted, partial(causal_lm, "qwen2"), target_modules="all-linear"),
    "tied words": partial(adapted, partial(causal_lm, "llama_tied"), target_modules=EVERYTHING),
    "stored turned": partial(adapted, lambda: tiny(FAMILY["GPT-2"]), target_modules=["c_attn", "c_proj"]),
    "trained whole": partial(adapted, causal_lm, target_modules=["q_proj"], modules_to_save=["norm", "lm_head"]),
    "dora": partial(adapted, causal_lm, target_modules=["q_proj", "down_proj"], use_dora=True),
    "stacked experts": partial(
        adapted, lambda: tiny(FAMILY["Mixtral"]), target_modules=["q_proj"], target_parameters=["experts.gate_up_proj"]
    ),
}
FAMILY = {family.name: family for family in FAMILIES}
BEFORE_TRANSFORMERS_SAVES = ["Mixtral", "Qwen3-MoE", "DeepSeek V3, Kimi K2", "gpt-oss (window, sinks)", "Jamba", "MPT"]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", ["llama", "llama_tied", "qwen2"])
def test_the_pieces_of_all_ranks_are_the_weights_of_one_process(kind: str, world: int):
    assert_whole(causal_lm(kind), world)


BY_ITSELF = ("layers", "stored turned", "trained whole")
"""Kinds of adapters whose matrices `adapter_matrices` says."""


@pytest.mark.parametrize(
    ("name", "part"),
    [*((name, part) for name in ADAPTED for part in ("merged", "base")), *((name, "adapter") for name in BY_ITSELF)],
)
def test_with_an_adapter_they_are_the_same_bits_merged_apart_and_its_matrices(name: str, part: Part):
    model = ADAPTED[name]()
    for world in (1, 2, 5):
        assert_whole(model, world, part)


@pytest.mark.parametrize("name", BEFORE_TRANSFORMERS_SAVES)
def test_families_whose_checkpoints_have_other_names_come_under_these(name: str):
    assert_whole(tiny(FAMILY[name]), 3)


def test_an_adapter_that_is_switched_off_adds_nothing():
    model: Any = ADAPTED["layers"]()
    with model.disable_adapter():
        off = {piece.name: piece.values.clone() for piece in pieces(model, rank=0, world=1)}
    plain = {piece.name: piece.values for piece in pieces(model, rank=0, world=1, part="base")}
    assert off.keys() == plain.keys()
    assert all(torch.equal(off[name], values) for name, values in plain.items())


@pytest.mark.parametrize(
    ("rows", "width", "rank"), [(576, 192, 8), (65, 40, 5), (33, 48, 5), (63, 8, 3), (129, 64, 16)]
)
def test_a_range_of_a_merged_matrix_has_the_bits_of_the_whole_product_wherever_it_begins(rows, width, rank):
    torch.manual_seed(0)
    base = nn.ModuleDict({"layer": nn.Linear(width, rows, bias=False)})
    model: Any = get_peft_model(base, LoraConfig(r=rank, target_modules=["layer"], init_lora_weights=False))
    layer = model.base_model.model["layer"]
    whole = layer.base_layer.weight + (layer.lora_B["default"].weight @ layer.lora_A["default"].weight) * (8 / rank)
    for world in (2, 3, 8, rows):
        for number in (0, 1, world // 2, world - 1):
            begin, values = _own(Held(layer.base_layer.weight, layer), number, world)
            assert torch.equal(values, whole.detach().flatten()[begin : begin + len(values)]), (world, number)


def test_less_than_a_block_of_rows_is_computed_only_of_a_matrix_that_has_no_more():
    """A product of one row goes another way through the library, and ends in other bits."""
    for rows in (1, 5, ROWS, ROWS + 1, 3 * ROWS - 1):
        for begin in range(0, 10 * rows, 7):
            first, last = _rows(begin, begin + 1, (rows, 10))
            assert first * 10 <= begin < begin + 1 <= last * 10
            assert last <= rows
            assert last - first >= min(rows, ROWS)
            assert first % ROWS == 0


def test_stacked_experts_are_ranges_of_their_stack_and_turned_ones_are_scattered():
    """Of (2 experts, gate above up of 3 rows, 4 columns) expert 1's gate is the 12 numbers from 24 on."""
    model: Any = tiny(FAMILY["Mixtral"])
    shapes = {"model.layers.0.mlp.experts.gate_up_proj": (2, 6, 4)}
    found = Renamed.of(model, shapes)
    [ranges] = found.ranges.values()
    places = {each.name.removeprefix("model.layers.0.block_sparse_moe.experts."): each for each in ranges}
    assert {name: (each.begin, each.end) for name, each in places.items()} == {
        "0.w1.weight": (0, 12), "0.w3.weight": (12, 24), "1.w1.weight": (24, 36), "1.w3.weight": (36, 48),
    }  # fmt: skip
    assert found.scattered == ()


def test_what_lies_in_another_order_is_found_scattered_and_still_arrives(monkeypatch: pytest.MonkeyPatch):
    """A family whose checkpoint holds a matrix turned."""

    def turned(base: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.T.contiguous() if "q_proj" in name else tensor for name, tensor in tensors.items()}

    for module in (weights, own, renamed):
        monkeypatch.setattr(module, "checkpoint_names", turned)
    name = "model.layers.0.self_attn.q_proj.weight"
    found = Renamed.of(None, {name: (3, 5), "norm": (4,)})
    assert (found.scattered, list(found.ranges), found.shapes[name]) == ((name,), ["norm"], (5, 3))
    assert_whole(causal_lm(), 3)
