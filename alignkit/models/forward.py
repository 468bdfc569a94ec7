"""What a model says of a packed batch: the fast packed path, and the plain padded path that it must equal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alignkit.models import attention
from alignkit.models.base_model import base_model
from alignkit.models.critic import read_values
from alignkit.models.effective import effective_weight
from alignkit.ops.logprobs import chunked_kl, chunked_logprobs, full_kl, full_logprobs
from alignkit.types.batch import Batch
from alignkit.types.outputs import Outputs

HEAD_ROWS = 256  # rows of logits that exist at a time: 50 MB in float32 for a vocabulary of 49k

# Largest allowed mean |difference| of log-probs from the plain float32 forward. In bfloat16 logits of 20 are rounded to
# 0.06, and the plain path itself is 0.02 to 0.04 off: there it only shows gross mistakes, float32 shows all others.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15}


Want = Literal["logprobs", "values", "ref_kl"]


def packed(
    model: nn.Module,
    batch: Batch,
    *,
    dtype: torch.dtype,
    temperature: float,
    want: Sequence[Want] = ("logprobs",),
    reference: nn.Module | None = None,
) -> Outputs:
    """Log-probs and entropies, or a critic's values, with shared prompts, no padding and a chunked head.

    model: a transformers causal LM (or a PEFT model of one). Gradients equal those of `plain` up to rounding.
    reference: what "ref_kl" is measured from, another such model; it gets no gradient.
    Raises ValueError for models whose attention or head the packed path does not know (sliding window, soft caps).
    """
    causal = base_model(model)
    if getattr(causal.config, "final_logit_softcapping", None):
        raise ValueError("the chunked head has no logit soft cap; set train.fast_paths: false")
    attention.install()
    hidden = _packed_hidden(causal, batch, dtype)
    values = read_values(causal, hidden) if "values" in want else None
    if "logprobs" not in want:
        return Outputs(values=values)  # ty: ignore[invalid-argument-type]
    actions = batch.action_mask.nonzero().squeeze(-1)
    head = hidden[batch.parent[actions]].to(dtype), _head(causal, dtype)
    how = {"temperature": temperature, "rows": HEAD_ROWS}
    said = chunked_logprobs(*head, batch.tokens[actions], **how)
    divergence = None
    if "ref_kl" in want:
        frozen: Any = base_model(reference)
        with torch.no_grad():
            other = _packed_hidden(frozen, batch, dtype)[batch.parent[actions]].to(dtype)
        divergence = chunked_kl(*head, other, _head(frozen, dtype), **how)
    return _outputs(batch, actions, said, values, divergence)


def _head(causal: Any, dtype: torch.dtype) -> Tensor:
    """The matrix of the language-model head, with what an adapter adds to it."""
    return effective_weight(causal.get_output_embeddings()).to(dtype)


def _packed_hidden(causal: Any, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Last hidden states of all tokens of the batch."""
    plan = attention.layout(batch.blocks)
    with _attention(causal, attention.NAME), torch.autocast(batch.tokens.device.type, dtype, enabled=_mixed(dtype)):
        return causal.get_decoder()(
            input_ids=batch.tokens[None],
            position_ids=batch.position[None],
            use_cache=False,
            alignkit_layout=plan,
        ).last_hidden_state[0]


def plain(
    model: nn.Module,
    batch: Batch,
    *,
    dtype: torch.dtype,
    temperature: float,
    want: Sequence[Want] = ("logprobs",),
    reference: nn.Module | None = None,
) -> Outputs:
    """The same by the book: every sequence with its own copy of the prompt, right-padded, full logits."""
    causal = base_model(model)
    index, mask = padded_index(batch)

    def read(causal: Any) -> Any:
        with torch.autocast(batch.tokens.device.type, dtype, enabled=_mixed(dtype)), _attention(causal, "sdpa"):
            return causal(
                input_ids=batch.tokens[index],
                attention_mask=mask.long(),
                use_cache=False,
                output_hidden_states="values" in want,
            )

    output, values = read(causal), None
    if "values" in want:
        place = torch.zeros_like(batch.tokens)
        place[index[mask]] = torch.arange(mask.numel(), device=mask.device)[mask.flatten()]
        values = read_values(causal, output.hidden_states[-1].flatten(0, 1)[place])
    if "logprobs" not in want:
        return Outputs(values=values)  # ty: ignore[invalid-argument-type]
    chosen = mask & batch.action_mask[index]
    rows, columns = chosen.nonzero(as_tuple=True)
    actions = index[rows, columns]
    logits, divergence = output.logits[rows, columns - 1], None
    said = full_logprobs(logits, batch.tokens[actions], temperature=temperature)
    if "ref_kl" in want:
        with torch.no_grad():
            other = read(base_model(reference)).logits[rows, columns - 1]
        divergence = full_kl(logits, other, temperature=temperature)
    return _outputs(batch, actions, said, values, divergence)


def padded_index(batch: Batch) -> tuple[Tensor, Tensor]:
    """Packed index (sequence, position) of every sequence with its prompt, and the mask of real positions."""
    rows = []
    for block in batch.blocks:
        begin = block.start + block.prompt
        for length in block.lengths:
            prompt = torch.arange(block.start, block.start + block.prompt)
            rows.append(torch.cat([prompt, torch.arange(begin, begin + length)]))
            begin += length
    index = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    return index.clamp(min=0).to(batch.tokens.device), (index >= 0).to(batch.tokens.device)


def _outputs(
    batch: Batch, actions: Tensor, said: Sequence[Tensor], values: Tensor | None, ref_kl: Tensor | None
) -> Outputs:
    """said: log-prob, entropy and normaliser of each action token."""
    blank = torch.zeros(batch.num_tokens, device=batch.tokens.device)
    logprobs, entropy, normaliser = (blank.index_put((actions,), column) for column in said)
    return Outputs(
        logprobs=logprobs,
        entropy=entropy,
        normaliser=normaliser,
        values=values,  # ty: ignore[invalid-argument-type]
        ref_kl=None if ref_kl is None else blank.index_put((actions,), ref_kl),  # ty: ignore[invalid-argument-type]
    )


def _mixed(dtype: torch.dtype) -> bool:
    return dtype != torch.float32


@contextmanager
def _attention(model: Any, name: str) -> Generator[None]:
    """Within it the model's layers use the attention function `name`; they read the config at each call."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


@dataclass
class Forward:
    """Chooses the path: packed once it has been seen to equal plain on this kind of batch, in this very run.

    A family is (prompts are shared, longest sequence, number of sequences), the sizes rounded up to powers of two. The
    first batch of each family is checked on a few of its sequences; a miss (or a model that the packed path does not
    know) turns it off for the rest of the run and is reported once through `report`.

    run: Trainer.run of a model whose weights a trainer may have sharded; None: the paths read the model as it is.
    want: what the model is asked for; the first of them is what the paths are compared by.
    reference: the frozen model that "ref_kl" is measured from.
    """

    model: nn.Module
    dtype: torch.dtype
    fast: bool = True
    report: Callable[[str], None] = print
    families: set[tuple] = field(default_factory=set)
    run: Callable[..., Outputs] | None = None
    want: tuple[Want, ...] = ("logprobs",)
    reference: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, batch: Batch, *, temperature: float) -> Outputs:
        path = packed if self.fast else plain
        return self._run(path, batch, dtype=self.dtype, temperature=temperature)

    def _run(self, path: Callable[..., Outputs], batch: Batch, **options: Any) -> Outputs:
        options["want"] = self.want
        if "ref_kl" in self.want:
            options["reference"] = self.reference
        return path(self.model, batch, **options) if self.run is None else self.run(path, batch, **options)

    def verify(self, batch: Batch, *, temperature: float) -> None:
        """Checks the packed path on `batch`, the same on every rank, if its family is new."""
        shared = any(len(block.lengths) > 1 for block in batch.blocks)
        longest = max(block.prompt + max(block.lengths) for block in batch.blocks)
        family = (shared, (longest - 1).bit_length(), (batch.num_sequences - 1).bit_length())
        if not self.fast or family in self.families:
            return
        self.families.add(family)
        few = _few(batch).to(self.device)
        try:
            gaps = self._gaps(few, temperature)
        except ValueError as error:
            self._fall_back(str(error))
            return
        for dtype, gap in gaps.items():
            if not gap <= TOLERANCE[dtype]:
                self._fall_back(f"in {dtype} its {self.want[0]} differ by {gap:.2e} in the mean from the plain forward")

    @torch.no_grad()
    def _gaps(self, batch: Batch, temperature: float) -> dict[torch.dtype, float]:
        compared = self.want[0]
        exact = getattr(self._run(plain, batch, dtype=torch.float32, temperature=temperature), compared)
        gaps = {}
        for dtype in dict.fromkeys((torch.float32, self.dtype)):  # in an order that every rank shares
            fast = getattr(self._run(packed, batch, dtype=dtype, temperature=temperature), compared)
            gaps[dtype] = float((fast - exact)[batch.action_mask].abs().mean())
        return gaps

    def _fall_back(self, reason: str) -> None:
        self.fast = False
        self.report(f"the packed forward is off for this run, the plain one is used: {reason}")


def _few(batch: Batch) -> Batch:
    """Up to 3 sequences of each of 2 blocks: enough for shared prompts, several blocks and padding.

    The blocks with the most sequences, because a prompt that is not shared takes another way through the attention.
    """
    firsts = [0, *accumulate(len(block.lengths) for block in batch.blocks)]
    most = sorted(range(len(batch.blocks)), key=lambda number: -len(batch.blocks[number].lengths))[:2]
    sizes = {number: min(3, len(batch.blocks[number].lengths)) for number in most}
    return batch.select([firsts[number] + member for number in sorted(most) for member in range(sizes[number])])
