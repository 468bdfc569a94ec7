"""The work of a GRPO step: prompts, completion lengths and rewards, all pure functions of a shape's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.types.seeds import child

SIGMA = 0.8  # of the log-lengths: the longest of 64 completions is several times the median
SHORTEST = 8


@dataclass(frozen=True)
class Shape:
    """One GRPO step. Lengths in tokens; completions are exactly as long as `lengths` says, on both sides."""

    name: str
    prompts: int
    group: int
    prompt: int
    mean_completion: int
    longest_completion: int

    @property
    def samples(self) -> int:
        return self.prompts * self.group

    @property
    def lengths(self) -> list[int]:
        """Length of every completion, prompt by prompt: a clipped lognormal trace with the shape's mean and maximum."""
        if self.mean_completion == self.longest_completion:
            return [self.mean_completion] * self.samples
        generator = np.random.Generator(np.random.Philox(key=child(0, self.name, "lengths")))
        spread = np.exp(SIGMA * generator.standard_normal(self.samples))
        low, high = 0.0, float(self.longest_completion)
        for _ in range(60):  # bisection for the scale at which the clipped mean is right
            scale = (low + high) / 2
            mean = np.clip(scale * spread, SHORTEST, self.longest_completion).mean()
            low, high = (scale, high) if mean < self.mean_completion else (low, scale)
        lengths = np.clip(low * spread, SHORTEST, self.longest_completion).round().astype(int)
        lengths[lengths.argmax()] = self.longest_completion
        return lengths.tolist()

    @property
    def rewards(self) -> list[float]:
        """A reward for every completion, so that both sides compute the same advantages."""
        generator = np.random.Generator(np.random.Philox(key=child(0, self.name, "rewards")))
        return generator.random(self.samples).round(3).tolist()

    def prompt_ids(self, tokenizer: Any) -> list[tuple[int, ...]]:
        """One prompt of exactly `prompt` tokens each: lines of sums, which survive decoding and encoding unchanged."""
        generator = np.random.Generator(np.random.Philox(key=child(0, self.name, "prompts")))
        prompts = []
        for _ in range(self.prompts):
            pairs = generator.integers(10, 99, size=(self.prompt, 2)).tolist()
            ids = tokenizer("".join(f"{a} plus {b} is {a + b}.\n" for a, b in pairs))["input_ids"][: self.prompt]
            assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids, "a prompt changes when it is re-tokenised"
            prompts.append(tuple(ids))
        return prompts


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("A0", prompts=2, group=4, prompt=32, mean_completion=12, longest_completion=32),  # tries the harness
        Shape("A1", prompts=8, group=8, prompt=128, mean_completion=96, longest_completion=256),
        Shape("A2", prompts=4, group=16, prompt=512, mean_completion=64, longest_completion=64),
    )
}
