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

from alignkit.engines.vllm.copies import Recorder
from alignkit.engines.vllm.weights import stale_tensors, unreadable
from alignkit.weights.digest import Digest, digest

WIDTH, INNER, EXPERTS, HEADS, RANK = 8, 6, 3, 2, 4


def empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape), requires_grad=False)


class Plain(nn.Module):
    def __init__(self, **tensors: Tensor):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


class Latent(nn.Module):
    """What vLLM absorbs of kv_b_proj (heads x (key 3 + value 5), rank): attributes here, parameters on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_k_scale", torch.ones(()))
        self.kv_cache = torch.zeros(7, 7)

    def absorb(self, matrix: Tensor) -> None:
        whole = matrix.view(HEADS, 3 + 5, RANK)
        self.W_UK_T = whole[:, :3].clone()
        self.W_UV = whole[:, 3:].transpose(1, 2).contiguous()


class Model(nn.Module):
    """All of it at once. correction: a router's bias, which vLLM keeps as a parameter under its own name."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.model, attn, experts = (
            nn.Module(),
            nn.Module(),
            Plain(w13_weight=empty(EXPERTS, 2 * INNER, WIDTH), w2_weight=empty(EXPERTS, WIDTH, INNER)),
        )
        self.model.embed_tokens, self.model.attn, self.model.experts = Plain(weight=empty(12, WIDTH)), attn, experts
        self.model.embed_tokens.num_embeddings_padded = 12  # 10 of the checkpoint
        attn.qkv_proj, attn.kv_b_proj, attn.mla = (
            Plain(weight=empty(24, WIDTH)),
            Plain(weight=empty(16, RANK)),
            Latent(),
        )
        self.model.gate, self.model.norm = Plain(e_score_correction_bias=empty(EXPERTS)), nn.BatchNorm1d(WIDTH)
        self.model.norm.requires_grad_(False)
        recorder = Recorder()
        with recorder:
            self.load(dict(recorder.named(weights.items())))
        self.loaded = recorder.loaded(self)
        attn.mla.absorb(attn.kv_b_proj.weight)
        attn.kv_b_proj.weight = empty(0)

    def load(self, weights: dict[str, Tensor]) -> None:
        """As vLLM's loaders do: fused, padded, expert by expert."""
        model: Any = self.model
        model.embed_tokens.weight[:10].copy_(weights["model.embed_tokens.weight"])
        for part, name in zip(model.attn.qkv_proj.weight.chunk(3), "qkv", strict=True):
            part.copy_(weights[f"model.attn.{name}_proj.weight"])
        model.attn.kv_b_proj.weight.copy_(weights["model.attn.kv_b_proj.weight"])
        for expert in range(EXPERTS):
            gate, up, down = (weights[f"model.experts.{expert}.{name}.weight"] for name in ("gate", "up", "down"))
            model.experts.w13_weight[expert].narrow(0, 0, INNER).copy_(gate)
            model.experts.w13_weight[expert].narrow(0, INNER, INNER).copy_(up)
            model.experts.w2_weight[expert].copy_(down)
        model.gate.e_score_correction_bias.copy_(weights["model.gate.e_score_correction_bias"])
        model.norm.weight.copy_(weights["model.norm.weight"])


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (10, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes |= {f"model.attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkv"}
    shapes |= {"model.attn.kv_b_proj.weight": (HEADS * 8, RANK), "model.gate.e_score_correction_bias": (EXPERTS,)}
    for expert in range(EXPERTS):
        shapes |= {f"model.experts.{expert}.{name}.weight": (INNER, WIDTH) for name in ("gate", "up")}
        shapes[f"model.experts.{expert}.down.weight"] = (WIDTH, INNER)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


UNSOURCED = {f"model.norm.{name}" for name in ("bias", "running_mean", "running_var", "num_batches_tracked")}
UNSOURCED |= {"model.attn.kv_b_proj.weight"}  # vLLM keeps what it has absorbed, and a matrix that no one reads


def proof(model: Any, weights: Any, **options: Any) -> tuple[set[str], set[str]]:
    stale, unknown = stale_tensors(model, weights, model.loaded, version=1, **options)
    return set(stale), set(unknown)


@pytest.mark.parametrize("sent", [lambda weights: weights, lambda weights: {n: digest(t) for n, t in weights.items()}])
def test_everything_with_a_source_is_compared_and_everything_without_one_listed(sent: Any):
    weights = drawn(0)
    assert proof(Model(weights), sent(weights)) == (set(), UNSOURCED)


@pytest.mark.parametrize("sent", [lambda weights: weights, lambda weights: {n: digest(t) for n, t in weights.items()}])
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("model.experts.2.gate.weight", {"model.experts.w13_weight"}),
        ("model.experts.1.up.weight", {"model.experts.w13_weight"}),
        ("model.experts.0.down.weight", {"model.experts.w2_weight"}),
        ("model.attn.kv_b_proj.weight", {"model.attn.mla.W_UK_T", "model.attn.mla.W_UV"}),
        ("model.attn.k_proj.weight", {"model.attn.qkv_proj.weight"}),
        ("model.gate.e_score_correction_bias", {"model.gate.e_score_correction_bias"}),
        ("model.embed_tokens.weight", {"model.embed_tokens.weight"}),
        ("model.norm.weight", {"model.norm.weight"}),
    ],
)
def test_one_number_that_an_update_missed_is_found_wherever_it_is(changed: str, named: set[str], sent: Any):
    weights = drawn(0)
    model = Model(weights)
    weights[changed].view(-1)[-1] += 1e-6
    assert proof(model, sent(weights)) == (named, UNSOURCED)


def test_tensors_that_come_under_other_names_or_shapes_than_were_loaded_are_listed():
    weights = drawn(0)
    model = Model(weights)
    renamed = {name.replace("experts.0", "expert.0"): tensor for name, tensor in weights.items()}
    unknown = UNSOURCED | {"model.experts.w13_weight", "model.experts.w2_weight"}
    assert proof(model, renamed) == (set(), unknown)
    reshaped = weights | {"model.norm.weight": torch.ones(2, WIDTH // 2)}
    assert proof(model, reshaped) == (set(), UNSOURCED | {"model.norm.weight"})


def test_a_layout_of_vllms_own_is_noticed_at_the_start_and_then_listed_not_called_stale():
    weights = drawn(0)
    model = Model(weights)
    experts: Any = model.model.experts
    experts.w13_weight.data = experts.w13_weight.data.flip(1)  # up above gate
    unread = unreadable(model, model.loaded, lambda: weights)
    assert unread == {"model.experts.w13_weight"}
    assert proof(model, weights, unread=unread) == (set(), UNSOURCED | unread)


def test_the_start_weights_are_read_only_where_something_is_derived():
    def refuse() -> Any:
        raise AssertionError("read")

    assert unreadable(nn.Sequential(nn.Linear(2, 2)), {}, refuse) == frozenset()


def one_layer(held: Tensor, sent: Tensor, how: Any) -> Any:
    """A model of one layer, of which `how` (target, source) is the loader; it holds `held` afterwards."""
    model: Any = nn.Module()
    model.layer = Plain(weight=torch.zeros(held.shape))
    recorder = Recorder()
    with recorder:
        [(_, source)] = recorder.named([("layer.weight", sent)])
        how(model.layer.weight, source)
    model.loaded = recorder.loaded(model)
    model.layer.weight.data = held
    return model


def test_a_matrix_kept_in_packed_form_only_that_no_kernel_answers_for_is_listed():
    sent = torch.randn(3, 3)
    model = one_layer(sent.clone(), sent, Tensor.copy_)
    assert proof(model, {"layer.weight": sent}) == (set(), set())
    model.layer.weight.data = torch.empty(0)
    assert proof(model, {"layer.weight": sent}) == (set(), {"layer.weight"})


def test_a_tensor_that_a_loader_computes_or_fills_by_half_is_listed():
    sent = torch.rand(4, 4) + 1
    for held, how in (
        (sent.exp(), lambda target, source: target.copy_(source.exp())),
        (sent * 2, lambda target, source: target.copy_(source).mul_(2)),
        (torch.cat([sent[:2], torch.zeros(2, 4)]), lambda target, source: target[:2].copy_(source[:2])),
    ):
        model = one_layer(held, sent, how)
        assert proof(model, {"layer.weight": sent}) == (set(), {"layer.weight"})


def test_half_of_a_tensor_is_compared_with_that_half_and_cannot_be_by_a_digest_of_all():
    sent = torch.randn(4, 6)
    model = one_layer(sent[:, 3:].clone(), sent, lambda target, source: target.copy_(source.chunk(2, 1)[1]))
    assert proof(model, {"layer.weight": sent}) == (set(), set())
    assert proof(model, {"layer.weight": digest(sent)}) == (set(), {"layer.weight"})
    elsewhere, here = sent.clone(), sent.clone()
    elsewhere[0, 2] += 1e-6
    here[0, 3] += 1e-6
    assert proof(model, {"layer.weight": elsewhere}) == (set(), set())
    assert proof(model, {"layer.weight": here}) == ({"layer.weight"}, set())


class Kernel:
    """As vLLM's on a CPU: it multiplies with the matrix that it was given at the loading."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    def apply(self, module: Any, x: Tensor, bias: None) -> Tensor:
        return x @ self.matrix.T


@pytest.mark.parametrize("cut", [lambda w: w[2:6], lambda w: w[:, 4:12], lambda w: w.T])
def test_a_packed_layer_is_asked_for_its_share_and_one_wrong_number_of_it_is_found(cut: Any):
    """Rows of a layer that shares its outputs out, columns of one that shares its inputs out, a turned layer."""
    sent = torch.randn(8, 16)
    model = one_layer(cut(sent).clone(), sent, lambda target, source: target.copy_(cut(source)))
    model.layer.weight.data = torch.empty(0)
    model.layer.cpu_linear, model.layer.quant_method = object(), Kernel(cut(sent).clone())
    assert proof(model, {"layer.weight": sent}) == (set(), set())
    model.layer.quant_method.matrix[-1, -1] += 1e-6
    assert proof(model, {"layer.weight": sent}) == ({"layer.weight"}, set())
    shifted = torch.roll(sent, 1, 0)
    model.layer.quant_method.matrix = cut(shifted).clone()
    assert proof(model, {"layer.weight": sent}) == ({"layer.weight"}, set())


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


def test_a_turned_layer_is_compared_turned_and_by_a_digest_too():
    sent = torch.randn(4, 4)
    model = one_layer(sent.T.contiguous(), sent, lambda target, source: target.copy_(source.t()))
    for value in (sent, digest(sent)):
        assert proof(model, {"layer.weight": value}) == (set(), set())
    changed = sent + torch.eye(4) * 1e-6
    for value in (changed, digest(changed), digest(sent.T)):
        assert proof(model, {"layer.weight": value}) == ({"layer.weight"}, set())
