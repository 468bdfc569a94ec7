"""How large the parts of the battery are: on a card, and small enough for a test on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.run.check.distance import GROUPS, Groups


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes in tokens and numbers.

    model: arguments of Qwen3Config. groups: prompts and completions of one micro-batch of the update. warm, updates:
    how many are not timed, and are. compared: groups of the comparison with plain float32. rows: of the head's
    comparison with full logits. matmul: side of the square products that tell what the card can do. recipe: with
    overrides, its memory is counted and measured. cases: of the algorithms' settings; None is all.
    """

    model: dict[str, int]
    groups: Groups
    warm: int
    updates: int
    compared: Groups
    rows: int
    matmul: int
    recipe: tuple[str, ...]
    cases: int | None = None

    @property
    def tokens(self) -> int:
        return sum(prompt + sum(lengths) for prompt, lengths in self.groups)


def _alike(prompts: int, prompt: int, lengths: Sequence[int]) -> Groups:
    return [(prompt, lengths)] * prompts


QWEN3_06B = {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}  # fmt: skip
TINY = {"vocab_size": 211, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip

SIZES = {
    # 8 x (256 + 8 x 224) = 16,384 packed tokens, 14,336 of them trained
    "card": Sizes(model=QWEN3_06B, groups=_alike(8, 256, (224,) * 8), warm=2, updates=5, compared=GROUPS, rows=512,
                  matmul=8192, recipe=("recipes/grpo/qwen3-0.6b-gsm8k.yaml",)),
    "tiny": Sizes(model=TINY, groups=((5, (3, 7)), (9, (4,))), warm=1, updates=2, compared=((9, (5, 2)), (4, (3,))),
                  rows=7, matmul=64, recipe=("recipes/smoke/char-addition.yaml",), cases=4),
}  # fmt: skip
