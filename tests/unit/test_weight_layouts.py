"""ZeRO's and vLLM's layouts, and weights moved between them by the plan: the bits that slicing whole tensors gives."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import LayoutError
from alignkit.types.layout import Box, Holder, Layout
from alignkit.weights.layouts.decoder import Decoder
from alignkit.weights.layouts.vllm_layout import stage_layers, vllm_layout
from alignkit.weights.layouts.zero_layout import shard_range, zero_layout
from alignkit.weights.plan.fewest import fewest
from alignkit.weights.plan.flat_range import flat_range
from alignkit.weights.plan.plan import Plan, plan
from alignkit.weights.transports.held import Held, shard_views

FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj"),
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
SMALL = {"layers": 2, "width": 24, "heads": 8, "head_size": 2, "intermediate": 40, "vocabulary": 70}


def whole(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def trainers(ranks: int) -> list[Holder]:
    return [Holder(f"host{rank // 2}", rank) for rank in range(ranks)]


def workers(replicas: int, each: int) -> list[list[Holder]]:
    """The first replica on the trainers' first host."""
    return [
        [Holder(f"host{2 * replica}", 100 + replica * each + w) for w in range(each)] for replica in range(replicas)
    ]


def of_zero(stage: int, layout: Layout, full: dict[str, torch.Tensor]) -> dict[Holder, Held]:
    """What DeepSpeed leaves each rank: whole tensors, or equal runs of the flat tensor, padded with NaN."""
    held = {}
    for rank, holder in enumerate(layout.holders):
        tensors = {}
        for name, tensor in full.items():
            if stage < 3:
                tensors[Box(name, (0,) * tensor.dim(), tuple(tensor.shape))] = tensor.clone()
                continue
            flat, ranks = tensor.flatten(), len(layout.holders)
            padded = torch.cat((flat, torch.full((-flat.numel() % ranks,), float("nan"))))
            mine = padded.chunk(ranks)[rank]
            tensors |= shard_views(name, tuple(tensor.shape), rank * len(mine), mine)
        held[holder] = Held(tensors)
    return held


def moved(made: Plan, source: dict[Holder, Held], target: Layout) -> dict[Holder, dict[Box, torch.Tensor]]:
    """The plan carried out move by move; a sender has a box from its source, or has been sent it before."""
    none = Held({})
    came = {h: Held({b: torch.full(b.size, float("nan")) for b in target.boxes(h)}) for h in target.holders}
    for move in made:
        sent = source.get(move.sender, none).view(move.box)
        sent = came[move.sender].view(move.box) if sent is None else sent
        came[move.receiver].view(move.box).copy_(sent)
    return {holder: held.tensors for holder, held in came.items()}


def vllm_worker(decoder: Decoder, full: dict[str, torch.Tensor], worker: int, workers: int) -> dict[str, torch.Tensor]:
    """A worker's own tensors, fused as vLLM has them, out of whole ones; without padded rows."""
    size, heads = decoder.head_size, decoder.heads // workers
    kv_heads = max(1, decoder.kv_heads // workers)
    kv_first = worker * kv_heads if decoder.kv_heads >= workers else worker // (workers // decoder.kv_heads)
    inner, padded = decoder.intermediate // workers, (decoder.vocabulary + 63) // 64 * 64 // workers
    words = slice(worker * padded, min((worker + 1) * padded, decoder.vocabulary))
    found = {"model.embed_tokens.weight": full["model.embed_tokens.weight"][words]}
    for layer in range(decoder.layers):
        stem = f"model.layers.{layer}."
        q, k, v, o, gate, up, down = (
            full[f"{stem}{name}_proj.weight"]
            for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
        )
        kv = slice(kv_first * size, (kv_first + kv_heads) * size)
        mine = slice(worker * inner, (worker + 1) * inner)
        queries = slice(worker * heads * size, (worker + 1) * heads * size)
        found[f"{stem}self_attn.qkv_proj.weight"] = torch.cat((q[queries], k[kv], v[kv]))
        found[f"{stem}self_attn.o_proj.weight"] = o[:, queries]
        found[f"{stem}mlp.gate_up_proj.weight"] = torch.cat((gate[mine], up[mine]))
        found[f"{stem}mlp.down_proj.weight"] = down[:, mine]
        found |= {f"{stem}{name}_layernorm.weight": full[f"{stem}{name}_layernorm.weight"]
                  for name in ("input", "post_attention")}  # fmt: skip
    found["model.norm.weight"] = full["model.norm.weight"]
    if not decoder.tied:
        found["lm_head.weight"] = full["lm_head.weight"][words]
    return {name: tensor for name, tensor in found.items() if tensor.numel()}


def fused(came: dict[Box, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Boxes as vLLM's layers hold them, in the order of the checkpoint: q, k and v, gate and up under one another."""
    parts: dict[str, list[torch.Tensor]] = {}
    for box, tensor in came.items():
        name = ".".join(FUSED.get(word, word) for word in box.name.split("."))
        parts.setdefault(name, []).append(tensor)
    return {name: torch.cat(found) if len(found) > 1 else found[0] for name, found in parts.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_a_workers_weights_have_the_bits_of_slices_of_whole_tensors(stage, kv_heads):
    for ranks, parallel, tied, replicas in product((1, 2, 4), (1, 2, 4, 8), (True, False), (1, 2)):
        decoder = Decoder(**SMALL, kv_heads=kv_heads, tied=tied)
        full = whole(decoder.shapes)
        source = zero_layout(stage, decoder.shapes, trainers(ranks))
        engines = workers(replicas, parallel)
        target = vllm_layout(decoder, engines, tensor_parallel=parallel)
        made = plan(source, target, bucket=1000)
        came = moved(made, of_zero(stage, source, full), target)
        assert made.numbers == fewest(source, target)
        for engine in engines:
            for index, worker in enumerate(engine):
                assert same(fused(came[worker]), vllm_worker(decoder, full, index, parallel)), (ranks, parallel, tied)


@pytest.mark.parametrize("expert_parallel", [True, False])
def test_experts_go_whole_to_their_worker_or_in_shares_to_all(expert_parallel):
    decoder = Decoder(**SMALL, kv_heads=4, experts=5, head_norms=True, qkv_bias=True)
    full, [engine] = whole(decoder.shapes), workers(1, 4)
    source = zero_layout(3, decoder.shapes, trainers(3))
    target = vllm_layout(decoder, [engine], tensor_parallel=4, expert_parallel=expert_parallel)
    came = moved(plan(source, target), of_zero(3, source, full), target)
    whose = [[], [], [], []]
    for worker, holder in enumerate(engine):
        for box, tensor in came[holder].items():
            assert torch.equal(tensor, full[box.name][box.slices])
            if expert := re.fullmatch(r"model\.layers\.1\.mlp\.experts\.(\d)\.up_proj\.weight", box.name):
                whose[worker].append((int(expert[1]), box.size[0]))
    if expert_parallel:  # vLLM gives the first workers one more
        assert whose == [[(0, 40), (1, 40)], [(2, 40)], [(3, 40)], [(4, 40)]]
    else:
        assert whose == [[(expert, 10) for expert in range(5)]] * 4


def test_pipeline_stages_have_their_layers_and_a_tied_head_is_the_last_stages_embedding():
    decoder = Decoder(**{**SMALL, "layers": 5}, kv_heads=4, tied=True)
    full, [engine] = whole(decoder.shapes), workers(1, 4)
    source, target = (
        zero_layout(2, decoder.shapes, trainers(2)),
        vllm_layout(decoder, [engine], tensor_parallel=2),
    )
    assert [list(layers) for layers in stage_layers(5, 2)] == [[0, 1, 2], [3, 4]]
    assert [len(layers) for layers in stage_layers(10, 4)] == [2, 3, 3, 2]
    came = moved(plan(source, target), of_zero(2, source, full), target)
    names = [{box.name for box in came[holder]} for holder in engine]
    assert names[0] == names[1]
    assert names[2] == names[3]
    assert names[0] & names[2] == {"model.embed_tokens.weight"}
    assert {name.split(".")[2] for name in names[0] if ".layers." in name} == {"0", "1", "2"}
    assert all(torch.equal(t, full[box.name][box.slices]) for held in came.values() for box, t in held.items())


def test_an_adapter_travels_alone_and_is_cut_with_its_layers():
    decoder = Decoder(**SMALL, kv_heads=2, lora_rank=4)
    shapes = {name: tensor.shape for name, tensor in decoder.adapter.items()}
    full, [engine] = whole(shapes), workers(1, 4)
    source = zero_layout(3, shapes, trainers(3))
    target = vllm_layout(decoder, [engine], tensor_parallel=4, adapter=True)
    came = moved(plan(source, target), of_zero(3, source, full), target)
    sizes = {box.name.removeprefix("model.layers.0."): box.size for box in came[engine[3]] if ".0." in box.name}
    assert sizes["self_attn.q_proj.lora_A.weight"] == (4, 24)
    assert sizes["self_attn.q_proj.lora_B.weight"] == (4, 4)
    assert sizes["self_attn.k_proj.lora_B.weight"] == (2, 4)
    assert sizes["mlp.down_proj.lora_A.weight"] == (4, 10)
    assert sizes["mlp.down_proj.lora_B.weight"] == (24, 4)
    assert all(torch.equal(t, full[box.name][box.slices]) for held in came.values() for box, t in held.items())


def test_the_last_worker_of_a_padded_vocabulary_may_have_no_word():
    decoder = Decoder(**SMALL, kv_heads=8)  # 70 words are 128 with the padding: 16 a worker
    target = vllm_layout(decoder, workers(1, 8), tensor_parallel=8)
    rows = [b.size[0] for w in target.holders for b in target.boxes(w) if b.name == "lm_head.weight"]
    assert rows == [16, 16, 16, 16, 6]


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_a_flat_range_is_at_most_2n_minus_1_boxes_in_its_order(shape, data):
    count = torch.Size(shape).numel()
    begin = data.draw(st.integers(0, count))
    end = data.draw(st.integers(begin, count))
    boxes = flat_range("w", tuple(shape), begin, end)
    places = torch.arange(count).view(shape)
    taken = [places[box.slices].flatten() for box in boxes]
    assert torch.cat([*taken, torch.zeros(0, dtype=torch.int64)]).tolist() == list(range(begin, end))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)


def test_of_a_bias_smaller_than_the_ranks_the_last_ones_have_nothing():
    assert [shard_range((5,), rank, 4) for rank in range(4)] == [(0, 2), (2, 4), (4, 5), (5, 5)]
    layout = zero_layout(3, {"bias": (5,), "scale": ()}, trainers(4))
    assert [(p.box.name, p.box.begin, p.box.size, p.holder.process) for p in layout.parts] == [
        ("bias", (0,), (2,), 0), ("bias", (2,), (2,), 1), ("bias", (4,), (1,), 2), ("scale", (), (), 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "parallel", "message"),
    [
        ({"heads": 6}, 4, "heads 6 is no multiple of tensor_parallel 4"),
        ({"intermediate": 42}, 4, "intermediate 42 is no multiple of tensor_parallel 4"),
        ({"kv_heads": 3, "heads": 12}, 4, "3 key-value heads on tensor_parallel 4; one must divide the other"),
        ({}, 3, "give each a multiple of 3"),
        (
            {"heads": 6, "kv_heads": 6, "intermediate": 42},
            6,
            "padded vocabulary 128 is no multiple of tensor_parallel 6",
        ),
    ],
)
def test_what_vllm_cannot_cut_is_refused_in_one_line(changed, parallel, message):
    decoder = Decoder(**{**SMALL, "kv_heads": 4, **changed})
    with pytest.raises(LayoutError, match=message):
        vllm_layout(decoder, workers(1, 4 + 2 * (parallel == 6)), tensor_parallel=parallel)
