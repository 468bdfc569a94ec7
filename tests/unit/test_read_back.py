"""The read-back proof over stand-ins with the tensors of vLLM's modules: what is held is compared or listed, always."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from alignkit.engines.vllm.weights import stale_tensors, unreadable
from alignkit.weights.digest import Digest, digest

WIDTH, INNER, EXPERTS, HEADS, RANK = 8, 6, 3, 2, 4


class RoutedExperts(nn.Module):
    """w13: gate above up, expert by expert; w2: down."""

    def __init__(self, weights: dict[str, Tensor], prefix: str):
        super().__init__()
        of = [
            [weights[f"{prefix}.{e}.{name}.weight"] for name in ("gate_proj", "up_proj", "down_proj")]
            for e in (0, 1, 2)
        ]
        self.w13_weight = nn.Parameter(torch.stack([torch.cat([gate, up]) for gate, up, _ in of]))
        self.w2_weight = nn.Parameter(torch.stack([down for _, _, down in of]))


class Mixture(nn.Module):
    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.routed_experts = RoutedExperts(weights, "model.mlp.experts")


class Latent(nn.Module):
    """What vLLM absorbs of kv_b_proj (heads x (key 3 + value 5), rank): attributes here, parameters on a CPU."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        whole = weights["model.attn.kv_b_proj.weight"].view(HEADS, 3 + 5, RANK)
        self.W_UK_T = whole[:, :3].clone()
        self.W_UV = whole[:, 3:].transpose(1, 2).contiguous()
        self.register_buffer("_k_scale", torch.ones(()))
        self.kv_cache = torch.zeros(7, 7)


class Fused(nn.Module):
    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.weight = nn.Parameter(torch.cat([weights[f"model.attn.{name}_proj.weight"] for name in "qkv"]))


class Plain(nn.Module):
    def __init__(self, **tensors: Tensor):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))


class Model(nn.Module):
    """All of it at once. correction: a router's bias, which vLLM keeps as a parameter under its own name."""

    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}  # noqa: RUF012

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.model, self.model.attn, self.model.mlp = nn.Module(), nn.Module(), nn.Module()
        self.model.embed_tokens = Plain(weight=torch.cat([weights["model.embed_tokens.weight"], torch.zeros(2, WIDTH)]))
        self.model.attn.qkv_proj, self.model.attn.mla = Fused(weights), Latent(weights)
        self.model.mlp.experts = Mixture(weights)
        self.model.mlp.gate = Plain(e_score_correction_bias=weights["model.mlp.gate.e_score_correction_bias"].clone())
        self.model.norm = nn.BatchNorm1d(WIDTH)
        self.model.norm.weight.data = weights["model.norm.weight"].clone()


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (10, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes |= {f"model.attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkv"}
    shapes |= {"model.attn.kv_b_proj.weight": (HEADS * 8, RANK), "model.mlp.gate.e_score_correction_bias": (EXPERTS,)}
    for expert in range(EXPERTS):
        shapes |= {f"model.mlp.experts.{expert}.{name}.weight": (INNER, WIDTH) for name in ("gate_proj", "up_proj")}
        shapes[f"model.mlp.experts.{expert}.down_proj.weight"] = (WIDTH, INNER)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


UNSOURCED = {f"model.norm.{name}" for name in ("bias", "running_mean", "running_var", "num_batches_tracked")}


def proof(model: nn.Module, weights: Any, **options: Any) -> tuple[set[str], set[str]]:
    stale, unknown = stale_tensors(model, weights, version=1, **options)
    return set(stale), set(unknown)


@pytest.mark.parametrize("sent", [lambda weights: weights, lambda weights: {n: digest(t) for n, t in weights.items()}])
def test_everything_with_a_source_is_compared_and_everything_without_one_listed(sent: Any):
    weights = drawn(0)
    assert proof(Model(weights), sent(weights)) == (set(), UNSOURCED)


@pytest.mark.parametrize("sent", [lambda weights: weights, lambda weights: {n: digest(t) for n, t in weights.items()}])
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("model.mlp.experts.2.gate_proj.weight", {"model.mlp.experts.routed_experts.w13_weight"}),
        ("model.mlp.experts.1.up_proj.weight", {"model.mlp.experts.routed_experts.w13_weight"}),
        ("model.mlp.experts.0.down_proj.weight", {"model.mlp.experts.routed_experts.w2_weight"}),
        ("model.attn.kv_b_proj.weight", {"model.attn.mla.W_UK_T", "model.attn.mla.W_UV"}),
        ("model.attn.k_proj.weight", {"model.attn.qkv_proj.weight"}),
        ("model.mlp.gate.e_score_correction_bias", {"model.mlp.gate.e_score_correction_bias"}),
        ("model.embed_tokens.weight", {"model.embed_tokens.weight"}),
        ("model.norm.weight", {"model.norm.weight"}),
    ],
)
def test_one_number_that_an_update_missed_is_found_wherever_it_is(changed: str, named: set[str], sent: Any):
    weights = drawn(0)
    model = Model(weights)
    weights[changed].view(-1)[-1] += 1e-6
    assert proof(model, sent(weights)) == (named, UNSOURCED)


def test_experts_under_other_names_are_listed():
    weights = drawn(0)
    model = Model(weights)
    renamed = {name.replace("gate_proj", "gate_and_more"): tensor for name, tensor in weights.items()}
    assert proof(model, renamed) == (
        set(),
        UNSOURCED | {"model.mlp.experts.routed_experts.w13_weight", "model.mlp.experts.routed_experts.w2_weight"},
    )


def test_a_layout_of_vllms_own_is_noticed_at_the_start_and_then_listed_not_called_stale():
    weights = drawn(0)
    model = Model(weights)
    experts: Any = model.model.mlp.experts.routed_experts
    experts.w13_weight.data = experts.w13_weight.data.flip(1)  # up above gate
    assert unreadable(model, lambda: weights) == {"model.mlp.experts.routed_experts.w13_weight"}
    unread = unreadable(model, lambda: weights)
    assert proof(model, weights, unread=unread) == (set(), UNSOURCED | unread)


def test_the_start_weights_are_read_only_where_something_is_derived():
    def refuse() -> Any:
        raise AssertionError("read")

    assert unreadable(nn.Sequential(nn.Linear(2, 2)), refuse) == frozenset()


def test_a_matrix_kept_in_packed_form_only_that_no_kernel_answers_for_is_listed():
    model = nn.Module()
    model.layer = Plain(weight=torch.empty(0))
    assert proof(model, {"layer.weight": torch.ones(3, 3)}) == (set(), {"layer.weight"})


def test_a_digest_sees_any_one_number_an_exchange_and_a_shape():
    tensor = torch.arange(12.0).view(3, 4)
    same = digest(tensor)
    assert digest(tensor.clone().t().contiguous().t()) == same, "however it lies in memory"
    assert digest(tensor.view(4, 3)) != same
    swapped = tensor.clone()
    swapped[0, 1], swapped[2, 2] = tensor[2, 2], tensor[0, 1]
    assert digest(swapped) != same
    for place in range(12):
        nudged = tensor.clone().view(-1)
        nudged[place] = torch.nextafter(nudged[place], torch.tensor(99.0))
        assert digest(nudged.view(3, 4)) != same
    assert digest(tensor.bfloat16()) != same
    assert isinstance(digest(torch.tensor(1.0)), Digest)


def test_a_digest_does_not_depend_on_the_blocks_it_is_taken_in(monkeypatch: pytest.MonkeyPatch):
    from alignkit.weights import digest as module

    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = digest(tensor)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert digest(tensor) == whole
    data = tensor.view(torch.int16).numpy().tobytes()
    words = [int.from_bytes(data[place : place + 8], "little") for place in range(0, 2000, 8)]
    weights = module._weights(0, 250, tensor.device).tolist()
    assert sum(weight * word for weight, word in zip(weights, words, strict=True)) % 2**64 == whole.value % 2**64


@given(
    bits=st.sampled_from([torch.int8, torch.bfloat16, torch.float32, torch.int64]),
    size=st.integers(0, 40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    block=st.integers(1, 20),
)
def test_digests_of_ranges_add_up_wherever_a_tensor_is_cut(bits: torch.dtype, size: int, cuts: list[int], block: int):
    from alignkit.weights import digest as module

    tensor = (torch.randn(size, generator=torch.Generator().manual_seed(size)) * 100).to(bits)
    ends = sorted({0, size, *(min(cut, size) for cut in cuts)})
    with mock.patch.object(module, "BLOCK", block):
        parts = [module.digest_of_range(tensor[a:b], a) for a, b in pairwise(ends)]
    assert sum(parts) % 2**64 == digest(tensor).value % 2**64


class GPT2LMHeadModel(nn.Module):
    """Its layers hold (output, input), its checkpoints (input, output); one of them is square."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.attn = nn.Module()
        for name in ("c_attn", "c_proj"):
            self.attn.register_module(name, Plain(weight=weights[f"attn.{name}.weight"].T.contiguous()))


def test_turned_layers_are_compared_turned_and_by_a_digest_not_at_all():
    sent = {"attn.c_attn.weight": torch.randn(4, 12), "attn.c_proj.weight": torch.randn(4, 4)}
    model = GPT2LMHeadModel(sent)
    assert stale_tensors(model, sent, version=1) == ([], [])
    for name, tensor in sent.items():
        changed = sent | {name: tensor + torch.eye(*tensor.shape) * 1e-6}
        assert stale_tensors(model, changed, version=1) == ([name], [])
    assert stale_tensors(model, {name: digest(w) for name, w in sent.items()}, version=1) == ([], list(sent))


def test_a_packed_layer_that_reads_other_widths_than_were_sent_is_listed_and_not_asked():
    """vLLM's kernel would read beyond the end of a row, and end the process some time later."""
    layer: Any = Plain(weight=torch.empty(0))
    layer.cpu_linear, layer.input_size, layer.quant_method = object(), 4, None  # asked, it would raise
    model = nn.Module()
    model.layer = layer
    assert stale_tensors(model, {"layer.weight": torch.randn(4, 12)}, version=1) == ([], ["layer.weight"])
