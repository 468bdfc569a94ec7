"""What a model says of a packed batch: the fast packed path, and the plain padded path that it must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alignkit.models import attention
from alignkit.models.adapted import base_model, effective_weight
from alignkit.models.critic import read_values
from alignkit.models.device_type import HEAD_ROWS, device_type
from alignkit.models.frozen import read_beside, without_adapter
from alignkit.ops.logprobs import chunked_kl, chunked_logprobs
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs

STATELESS = {"full_attention", "sliding_attention", "attention"}
FACTORS = {
    "logit_scale": 1,
    "lm_head_multiplier": 1,
    "logits_scaling": -1,
}  # of configs, and with which power they count

Want = Literal["logprobs", "values", "ref_kl"]


def packed(model: nn.Module, batch: Batch, **options: Any) -> Outputs:
    """Log-probs and entropies, or a critic's values, with shared prompts, no padding and a chunked head.

    model: a transformers causal LM (or a PEFT model of one). options: as of `outputs`. Gradients equal those of `plain`
    up to rounding. Raises ValueError for models that the packed path does not know.
    """
    config = base_model(model).config.get_text_config()
    other = sorted(set(getattr(config, "layer_types", None) or ()) - STATELESS)
    if other:
        raise ValueError(f"layers of the kind {other[0]} know no packed sequences")
    attention.install()
    return outputs(_packed_states, model, batch, **options)


def plain(model: nn.Module, batch: Batch, **options: Any) -> Outputs:
    """The same by the book: every sequence with its own copy of the prompt, right-padded, the model's own attention."""
    return outputs(_plain_states, model, batch, **options)


States = Callable[[Any, Batch, torch.dtype, bool], tuple[Tensor, Tensor]]
"""(model, batch, dtype, all?) -> last states before each action token; those of every token, where they are wanted."""


def outputs(
    states: States,
    model: nn.Module,
    batch: Batch,
    *,
    dtype: torch.dtype,
    temperature: float,
    want: Sequence[Want] = ("logprobs",),
    reference: nn.Module | None = None,
) -> Outputs:
    """What a model says of a batch, its head read tile by tile, so that memory does not grow with tokens x vocabulary.

    reference: what "ref_kl" is measured from, another such model, or the same, whose adapter is then switched off; it
    gets no gradient.
    """
    causal = base_model(model)
    before, every = states(causal, batch, dtype, "values" in want)
    values = read_values(causal, every, batch) if "values" in want else None
    if "logprobs" not in want:
        return Outputs(values=values)  # ty: ignore[invalid-argument-type]
    weight, shape = _head(causal, dtype, temperature)
    said, divergence = chunked_logprobs(before, weight, batch.tokens[batch.actions], **shape), None
    if "ref_kl" in want:
        with read_beside(model, reference) as frozen:
            other, _ = states(frozen, batch, dtype, False)
            head, _ = _head(frozen, dtype, temperature)
            head = head if reference is model else head.detach()
        divergence = chunked_kl(before, weight, other, head, **shape)
    return on_tokens(batch, said, values, divergence)


def _head(causal: Any, dtype: torch.dtype, temperature: float) -> tuple[Tensor, dict[str, Any]]:
    """The matrix of the language-model head, with what an adapter adds to it, and what is made of its products."""
    config, factor = causal.config.get_text_config(), 1.0
    for name, power in FACTORS.items():
        factor *= float(getattr(config, name, None) or 1.0) ** power
    weight, cap = effective_weight(causal.get_output_embeddings()).to(dtype), None
    if getattr(config, "final_logit_softcapping", None):
        cap = config.final_logit_softcapping / factor  # c tanh(f x / c) / t = c / f tanh(x f / c) / (t / f)
    rows = HEAD_ROWS.get(device_type(weight), HEAD_ROWS["cuda"])
    return weight, {"temperature": temperature / factor, "softcap": cap, "rows": rows}


def _decoder(causal: Any) -> Any:
    decoder = causal.get_decoder()
    return getattr(causal, "model", causal) if decoder is causal else decoder


def _packed_states(causal: Any, batch: Batch, dtype: torch.dtype, every: bool) -> tuple[Tensor, Tensor]:
    plan = attention.layout(batch.blocks)
    with attention.named(causal.config, attention.NAME), mixed(batch, dtype):
        hidden = _decoder(causal)(
            input_ids=batch.tokens[None],
            position_ids=batch.position[None],
            use_cache=False,
            alignkit_layout=plan,
        ).last_hidden_state[0]
    return hidden[batch.parent[batch.actions]].to(dtype), hidden


def _plain_states(causal: Any, batch: Batch, dtype: torch.dtype, every: bool) -> tuple[Tensor, Tensor]:
    index, mask = padded_index(batch)
    with mixed(batch, dtype):
        read = _decoder(causal)(input_ids=batch.tokens[index], attention_mask=mask.long(), use_cache=False)
    hidden = read.last_hidden_state
    before = hidden[batch.segment[batch.actions], batch.position[batch.actions] - 1].to(dtype)
    if not every:
        return before, before
    place = torch.zeros_like(batch.tokens)
    place[index[mask]] = torch.arange(mask.numel(), device=mask.device)[mask.flatten()]
    return before, hidden.flatten(0, 1)[place]


def padded_index(batch: Batch) -> tuple[Tensor, Tensor]:
    """Packed index (sequence, position) of every sequence with its prompt, and the mask of real positions."""
    rows = []
    for block in batch.blocks:
        begin = block.start + block.prompt
        for length, ahead in zip(block.lengths, block.ahead, strict=True):
            before = torch.arange(block.start, block.start + ahead)
            rows.append(torch.cat([before, torch.arange(begin, begin + length)]))
            begin += length
    index = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    return index.clamp(min=0).to(batch.tokens.device), (index >= 0).to(batch.tokens.device)


def on_tokens(batch: Batch, said: Sequence[Tensor], values: Tensor | None, ref_kl: Tensor | None) -> Outputs:
    """said: log-prob, entropy and normaliser of each action token."""
    blank = torch.zeros(batch.num_tokens, device=batch.tokens.device)
    logprobs, entropy, normaliser = (blank.index_put((batch.actions,), column) for column in said)
    return Outputs(
        logprobs=logprobs,
        entropy=entropy,
        normaliser=normaliser,
        values=values,  # ty: ignore[invalid-argument-type]
        ref_kl=None if ref_kl is None else blank.index_put((batch.actions,), ref_kl),  # ty: ignore[invalid-argument-type]
    )


def mixed(batch: Batch, dtype: torch.dtype) -> torch.autocast:
    """Arithmetic in `dtype` over weights in float32."""
    return torch.autocast(batch.tokens.device.type, dtype, enabled=dtype != torch.float32)


@dataclass
class Forward:
    """Chooses the path: packed once it has been seen to equal plain on this kind of batch, in this very run.

    A family is (prompts are shared, longest sequence, number of sequences), the sizes rounded up to powers of two. The
    first batch of each family is checked (`alignkit.models.verify`); a miss, or a model that the packed path does not
    know, turns it off for the rest of the run and is reported once through `report`.

    run: Trainer.run of a model whose weights a trainer may have sharded; None: the paths read the model as it is.
    want: what the model is asked for; the first of them is what the paths are compared by.
    reference: the frozen model that "ref_kl" is measured from.
    adapter: whether a PEFT model speaks with its adapter; without, it is the frozen model that training began with.
    tiled: whether the head may be read tile by tile; without, `own_head` is the path.
    """

    model: nn.Module
    dtype: torch.dtype
    fast: bool = True
    report: Callable[[str], None] = print
    families: set[tuple] = field(default_factory=set)
    run: Callable[..., Outputs] | None = None
    want: tuple[Want, ...] = ("logprobs",)
    reference: nn.Module | None = None
    tiled: bool = True
    adapter: bool = True

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, batch: Batch, *, temperature: float) -> Outputs:
        if self.tiled:
            return self.by(packed if self.fast else plain, batch, dtype=self.dtype, temperature=temperature)
        from alignkit.models.own_head import own_head

        return self.by(own_head, batch, dtype=self.dtype, temperature=temperature)

    def by(self, path: Callable[..., Outputs], batch: Batch, **options: Any) -> Outputs:
        """What the model says of a batch by one of the paths."""
        options["want"] = self.want
        if "ref_kl" in self.want:
            options["reference"] = self.reference
        with nullcontext() if self.adapter else without_adapter(self.model):
            return path(self.model, batch, **options) if self.run is None else self.run(path, batch, **options)

    def verify(self, batch: Batch, *, temperature: float) -> None:
        """Checks the paths on `batch`, the same on every rank, if its family is new."""
        shared = any(len(block.lengths) > 1 for block in batch.blocks)
        longest = max(block.prompt + max(block.lengths) for block in batch.blocks)
        family = (shared, (longest - 1).bit_length(), (batch.num_sequences - 1).bit_length())
        if family not in self.families and (self.fast or not self.families):
            from alignkit.models.verify import verify

            verify(self, batch, temperature)
            self.families.add(family)
