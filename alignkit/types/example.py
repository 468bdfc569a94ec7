"""A batch small enough to compute by hand, with what an algorithm must make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WorkedExample:
    """One entry of an algorithm's EXAMPLES. The contract tests run all of them as a step does and compare to 1e-6.

    settings: of the algorithm's Config, where they are not the defaults.
    batch: columns of `Batch` by name, before `estimate`. On the sequence axis a number for each sequence; on the token
        axis a tuple for each, of a number for each token of its completion. `values` and `target_values` have one entry
        more, ahead, for the state after the prompt; an entry is a number, or a tuple for several heads.
    outputs: fields of `Outputs` by name, in the same form: what the model says at this update.
    advantages: of each sequence that `estimate` keeps, one number for all its chosen tokens or a tuple of theirs; None
        where the method has none.
    loss: role -> what the step minimises, the loss's sum over its count; for each role that the algorithm trains.
    gradient: fields of `Outputs` by name, in the same form: the derivative by them of the sum of all roles' losses,
        where a loss holds constant what the outputs move. That by a state which sequences share stands at the first of
        them. Outputs that are not named are compared with differences of the loss.
    metrics: values of what the losses report, by name; that loss/<role> is the loss is compared without being named.
    judged: fields of `Judgement` by name, what a reward model says of these sequences. `steps` has a number for each
        chosen token, `parts` a mapping by name.

    What is not given is as at the first update on what the model itself has sampled: `sampler_logprobs`, `old_logprobs`
    and `values` of the batch are those of `outputs`, all sequences are of one group, every token was chosen.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    batch: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Sequence[Any]]
    advantages: Sequence[float | Sequence[float]] | None = None
    loss: Mapping[str, float]
    gradient: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    judged: Mapping[str, Any] = field(default_factory=dict)
