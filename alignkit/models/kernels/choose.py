"""Which kernel computes packed attention where the CPU's two-part one does not."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from alignkit.models.attention import Layout
from alignkit.models.device_type import device_type
from alignkit.models.kernels.gathered import gathered_attention
from alignkit.models.kernels.varlen import varlen_attention


def by_kernel(
    query: Float[Tensor, "head token width"],
    key: Float[Tensor, "kvhead token width"],
    value: Float[Tensor, "kvhead token value_width"],
    plan: Layout,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Float[Tensor, " head"] | None,
) -> Float[Tensor, "head token value_width"]:
    """As `packed_attention`: fused on CUDA in half precision, by ordinary operations in float32 and on a CPU.

    Rotary embeddings, and norms of queries and keys, leave these in float32 under autocast: the values' dtype decides.
    """
    width, kind = value.shape[-1], query.device.type
    wide = max(width, query.shape[-1])  # of latent attention values are narrower than keys
    query, key, value = (x if x.shape[-1] == wide else pad(x, (0, wide - x.shape[-1])) for x in (query, key, value))
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    how = (scale, window, softcap, sinks)
    if varlen_serves(device_type(query), half):
        out = varlen_attention(query, key, value, plan, half, *how)
    else:
        out = gathered_attention(query.float(), key.float(), value.float(), plan, *how)
    return out[..., :width].to(value.dtype)


def varlen_serves(device: str, dtype: torch.dtype) -> bool:
    """Whether the varlen kernels compute on such a device in this dtype; float32 they never do."""
    return device == "cuda" and dtype in (torch.bfloat16, torch.float16)
