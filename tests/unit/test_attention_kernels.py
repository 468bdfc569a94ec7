"""Windows, soft caps and sinks, and CUDA's kernels by a strict stand-in, against dense attention over ancestors."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.models.attention import layout, packed_attention
from alignkit.models.forward import packed, plain
from alignkit.models.kernels.flex import flex_packed
from alignkit.models.kernels.varlen import sequences
from alignkit.types.batch import Batch
from tests.flash_kernels import check_inputs, flash_forward, flash_on_cpu
from tests.tiny import causal_lm, flat_gradient, random_batch, relative
from tests.unit.test_attention import ancestor_mask, random_parts, shapes

SCALE = 0.35
EXTRAS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "window": {"window": 4},
    "window of one token": {"window": 1},
    "soft cap": {"softcap": 0.7},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    "all three": {"window": 5, "softcap": 1.5, "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
}


def dense(query: Tensor, key: Tensor, value: Tensor, batch: Batch, *, window=None, softcap=None, sinks=None) -> Tensor:
    """The definition, in float64, over each token's ancestors of which a window keeps the nearest."""
    repeat = query.shape[0] // key.shape[0]
    key, value = (x.repeat_interleave(repeat, 0).double() for x in (key, value))
    scores = query.double() @ key.transpose(1, 2) * SCALE
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    seen = ancestor_mask(batch)
    if window is not None:
        seen = seen & (batch.position[:, None] - batch.position < window)
    weights = scores.masked_fill(~seen, float("-inf")).exp()
    total = weights.sum(-1, keepdim=True) + (0.0 if sinks is None else sinks.double().exp()[:, None, None])
    return ((weights / total) @ value).float()


@settings(max_examples=15, deadline=None)
@given(shapes, st.sampled_from(sorted(EXTRAS)), st.booleans())
def test_windows_caps_and_sinks_equal_dense_attention_and_so_do_their_gradients(shape, extra, share_prefix):
    batch, how = random_batch(shape, share_prefix=share_prefix), EXTRAS[extra]
    parts = random_parts(batch, key_heads=2)
    got = packed_attention(*parts, layout(batch.blocks), scale=SCALE, **how)
    wanted = dense(*parts, batch, **how)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((got * weights).sum(), parts)
    for gradient, expected in zip(gradients, torch.autograd.grad((wanted * weights).sum(), parts), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=2e-5)


def test_the_sinks_get_the_gradient_of_the_definition():
    batch, sinks = random_batch(), EXTRAS["sinks"]["sinks"].clone().requires_grad_()
    parts = random_parts(batch)
    got = packed_attention(*parts, layout(batch.blocks), scale=SCALE, sinks=sinks)
    wanted = dense(*parts, batch, sinks=sinks)
    own, expected = (torch.autograd.grad(x.square().sum(), sinks)[0] for x in (got, wanted))
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().min() > 1e-3


def test_a_window_as_long_as_the_longest_sequence_is_none_to_the_bit():
    batch = random_batch()
    parts, plan = random_parts(batch), layout(batch.blocks)
    longest = int(batch.position.max()) + 1
    assert plan.longest == longest
    wide = packed_attention(*parts, plan, scale=SCALE, window=longest)
    assert torch.equal(wide, packed_attention(*parts, plan, scale=SCALE))
    assert not torch.equal(wide, packed_attention(*parts, plan, scale=SCALE, window=longest - 1))


def test_values_narrower_than_keys_are_those_of_latent_attention():
    batch = random_batch()
    query, key, value = random_parts(batch)
    got = packed_attention(query, key, value[..., :5], layout(batch.blocks), scale=SCALE)
    torch.testing.assert_close(got, dense(query, key, value[..., :5], batch), rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(shapes, st.sampled_from([None, 1, 4]))
def test_what_the_varlen_kernels_are_given_passes_their_checks_and_is_each_tokens_ancestors(shape, window):
    """Widths of 12 are padded to 16, float32 queries beside bfloat16 values are cast."""
    batch = random_batch(shape)
    parts = random_parts(batch, key_heads=2, width=12)
    with flash_on_cpu(), torch.autocast("cpu", torch.bfloat16):
        value = parts[2].bfloat16()
        got = packed_attention(parts[0], parts[1], value, layout(batch.blocks), scale=SCALE, window=window)
        gradients = torch.autograd.grad(got.float().square().sum(), parts)
    assert got.dtype is torch.bfloat16
    rounded = [part.detach().bfloat16().float().requires_grad_() for part in parts]
    wanted = dense(*rounded, batch, window=window)
    torch.testing.assert_close(got.float(), wanted, rtol=2e-2, atol=2e-2)
    expected = torch.autograd.grad(wanted.square().sum(), rounded)
    for gradient, exact in zip(gradients, expected, strict=True):
        assert relative(gradient, exact) < 0.03 or exact.norm() < 1e-3


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda q, k, v: (q.float(), k, v), "only fp16"),
        (lambda q, k, v: (q, k.half(), v), "same dtype"),
        (lambda q, k, v: (q.transpose(0, 2).contiguous().transpose(0, 2), k, v), "contiguous"),
        (lambda q, k, v: (q[..., :12], k[..., :12], v[..., :12]), "multiple of 8"),
        (lambda q, k, v: (q, k, v[..., :8]), "one shape"),
        (lambda q, k, v: (q, k[:, :3], v[:, :3]), "multiple of key heads"),
        (lambda q, k, v: (q[:-1], k, v), "cover the tokens"),
    ],
)
def test_the_stand_in_refuses_what_the_kernels_refuse(spoil, says):
    ends = torch.tensor([0, 3, 5], dtype=torch.int32)
    parts = [torch.zeros(5, 4, 16, dtype=torch.bfloat16) for _ in range(3)]
    check_inputs(*parts, ends, ends, 3, 3)
    with pytest.raises(RuntimeError, match=says):
        check_inputs(*spoil(*parts), ends, ends, 3, 3)


@pytest.mark.parametrize("kind", ["llama_grouped", "qwen2", "qwen3"])
def test_through_them_packed_is_no_further_from_float32_than_plain_in_bfloat16_is(kind):
    """Log-probs and gradients of whole models under autocast, which leaves queries and keys in float32."""
    model, batch = causal_lm(kind), random_batch()
    said = []
    with flash_on_cpu():
        for path, dtype in ((plain, torch.float32), (plain, torch.bfloat16), (packed, torch.bfloat16)):
            outputs = path(model, batch, dtype=dtype, temperature=1.0)
            outputs.logprobs.sum().backward()
            said.append((outputs.logprobs.detach()[batch.action_mask], flat_gradient(model)))
    (exact, gradient), *others = said
    (plain_gap, plain_turn), (gap, turn) = (
        (float((own - exact).abs().mean()), relative(grad, gradient)) for own, grad in others
    )
    assert 0 < gap < 1.5 * plain_gap
    assert 0 < turn < 1.5 * plain_turn


def test_index_and_offsets_are_computed_once_for_all_layers(monkeypatch):
    from alignkit.models.kernels import varlen

    made = []
    monkeypatch.setattr(varlen, "sequences", lambda *of: made.append(of[1]) or sequences(*of))
    with flash_on_cpu():
        packed(causal_lm(), random_batch(), dtype=torch.bfloat16, temperature=1.0)
    assert made == [None]


@pytest.mark.parametrize("extra", ["nothing", "window", "soft cap", "sinks", "all three"])
def test_flex_attention_equals_dense_attention(extra):
    """Torch's own, uncompiled; it has no backward on a CPU."""
    batch, how = random_batch(), EXTRAS[extra]
    parts = [part.detach() for part in random_parts(batch, key_heads=2, width=16)]
    options = {"window": None, "softcap": None, "sinks": None} | how
    got = flex_packed(*parts, layout(batch.blocks), scale=SCALE, **options)
    torch.testing.assert_close(got, dense(*parts, batch, **how), rtol=1e-5, atol=1e-5)


def test_flash_attn_serves_soft_caps_where_it_is_installed(monkeypatch):
    calls = []

    def varlen(q, k, v, cu_q, cu_k, max_q, max_k, *, softmax_scale, causal, window_size, softcap, deterministic):
        check_inputs(q, k, v, cu_q, cu_k, max_q, max_k)
        calls.append((softcap, window_size, causal, deterministic))
        left, right = window_size
        window = {"window_size_left": left, "window_size_right": right}
        return flash_forward(q, k, v, cu_q, cu_k, max_q, max_k, 0.0, causal, False, scale=softmax_scale, **window)[0]

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=varlen))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    batch = random_batch()
    parts = [part.detach().bfloat16() for part in random_parts(batch)]
    with flash_on_cpu():
        got = packed_attention(*parts, layout(batch.blocks), scale=SCALE, softcap=50.0, window=4)
    assert calls == [(50.0, (3, 0), True, False)]
    wanted = dense(*(part.float() for part in parts), batch, window=4)  # a cap of 50 changes next to nothing here
    torch.testing.assert_close(got.float(), wanted, rtol=2e-2, atol=2e-2)
