"""The contract of an algorithm: sample -> score -> annotate -> one scalar loss. An algorithm is a frozen value.

No torch is imported here or in any algorithm file at import time: `alignkit check` reads every Config without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alignkit.recipe.schema import Section
from alignkit.types.needs import Needs
from alignkit.types.outputs import Judgement, Loss, Outputs
from alignkit.types.steps import StepRule

if TYPE_CHECKING:
    from alignkit.data.kinds.kind import Kind
    from alignkit.types.batch import Batch


__all__ = ["Algorithm", "AlgorithmConfig", "Judgement", "Loss", "Outputs", "StepRule"]


class AlgorithmConfig(Section):
    """Base of every algorithm's Config; `type` is the file's name."""

    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One update rule.

    config: pydantic model, each field one documented line.
    source: where batches come from: a kind of data by the name of its file in alignkit/data/kinds, or a Kind.
    needs: (config) -> columns, outputs and models that it reads beside what is always there (types/needs.py); checked
        against the recipe first.
    estimate: (config, batch) -> batch with advantages, returns, targets; runs without gradient on the global batch.
        It may return fewer sequences (`batch.select`): the others are not trained on.
    losses: what is trained, "policy", "critic" or "reward" -> (config, outputs, batch) -> Loss. A "reward" loss stands
        alone: the recipe's model becomes a reward model.
    unit: what a loss must see whole: a "sequence", a "rollout" of maybe several, or a "group" (pairs, regressions on
        differences). No micro-batch and no minibatch cuts one apart.
    heads: (config) -> names of the value head's outputs; none for algorithms without a critic.
    scored: (config) -> how many of these, the first ones, are scores of the chosen token, read in the state before it.
    normalised: (config) -> whether as many come next, each the logsumexp of such a score over the vocabulary.
    steers: (config) -> nats that a unit of its least score adds to a token's log-prob where its policy speaks; 0: none.
    controls: (config) -> coefficients that adapt during training, at their first values. They reach `estimate` and the
        losses as `batch.controls`, are logged as control/<name> and saved with every checkpoint.
    adapt: (config, batch) -> the coefficients of the next step, from a batch that has been trained on.
    columns: (config) -> ratings of the data that it reads, by name: they become channels of the batch.
    steps: (config) -> how its answers are read in steps; None where they are not.
    judge: (config, outputs, batch) -> Judgement: how a trained reward model is read.
    lower_is_better: what it judges is a cost.
    requires: (config, stage) -> sentences that say why this recipe's stage cannot work; each ends with the cure.
    explain: (config) -> the objective actually optimised, as text for `alignkit explain`.
    """

    config: type[AlgorithmConfig]
    source: str | Kind
    estimate: Callable[[Any, Batch], Batch]
    losses: Mapping[str, Callable[[Any, Outputs, Batch], Loss]]
    requires: Callable[[Any, Any], list[str]]
    explain: Callable[[Any], str]
    needs: Callable[[Any], Needs] = lambda config: Needs()
    unit: Literal["sequence", "rollout", "group"] = "sequence"
    heads: Callable[[Any], tuple[str, ...]] = lambda config: ()
    scored: Callable[[Any], int] = lambda config: 0
    normalised: Callable[[Any], bool] = lambda config: False
    steers: Callable[[Any], float] = lambda config: 0.0
    controls: Callable[[Any], Mapping[str, float]] = lambda config: {}
    adapt: Callable[[Any, Batch], Mapping[str, float]] = lambda config, batch: batch.controls
    columns: Callable[[Any], tuple[str, ...]] = lambda config: ()
    steps: Callable[[Any], StepRule | None] = lambda config: None
    judge: Callable[[Any, Outputs, Batch], Judgement] | None = None
    lower_is_better: bool = False

    @property
    def trains_reward(self) -> bool:
        """Whether it makes a reward model, not a policy."""
        return "reward" in self.losses
