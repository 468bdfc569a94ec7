"""The contract of an algorithm: sample -> score -> annotate -> one scalar loss. An algorithm is a frozen value.

No torch is imported here or in any algorithm file at import time: `alignkit check` reads every Config without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alignkit.recipe.schema import Section
from alignkit.types.outputs import Judgement, Loss, Outputs

if TYPE_CHECKING:
    from alignkit.types.batch import Batch


__all__ = ["Algorithm", "AlgorithmConfig", "Judgement", "Loss", "Outputs", "Source"]


class AlgorithmConfig(Section):
    """Base of every algorithm's Config; `type` is the file's name."""

    type: str


Source = Literal[
    "rollouts", "resets", "replay", "labelled", "turns",
    "pairs", "duels", "ranked", "rated", "steps", "judged", "rewrites",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One update rule.

    config: pydantic model, each field one documented line.
    source: where batches come from: sampled "rollouts", episodes gone on with once more from one of their turns
        ("resets"), "labelled" completions, preference "pairs", both answers of pairs in one context ("duels"), several
        completions "ranked" by a number, single ones "rated" by numbers or with a label on each of their "steps",
        "judged" good or bad, right ones and wrong ones with "rewrites", turns of past episodes each beside a fresh one
        ("replay"), or of given ones ("turns").
    needs: optional batch columns it reads; filled by the loop before `estimate`, and checked against the recipe first.
        `ref_logprobs` means that a frozen reference model is kept, `target_values` a slowly following critic. `rewards`
        that it learns from where a reward is paid: without it, rewards of steps are paid at the end only. `ref_kl`
        is no column: with `ref_logprobs`, it asks for the divergence from that model among the policy's outputs; nor is
        `costs`: with it the algorithm weighs what constraints limit itself, which is otherwise taken from the reward.
    estimate: (config, batch) -> batch with advantages, returns, targets; runs without gradient on the global batch.
        It may return fewer sequences (`batch.select`): the others are not trained on.
    losses: what is trained, "policy", "critic" or "reward" -> (config, outputs, batch) -> Loss. A "reward" loss stands
        alone: the recipe's model becomes a reward model.
    unit: what a loss must see whole: a "sequence", or a "group" (pairs, regressions on differences). No micro-batch and
        no minibatch cuts one apart.
    heads: (config) -> names of the value head's outputs; none for algorithms without a critic.
    controls: (config) -> coefficients that adapt during training, at their first values. They reach `estimate` and the
        losses as `batch.controls`, are logged as control/<name> and saved with every checkpoint.
    adapt: (config, batch) -> the coefficients of the next step, from a batch that has been trained on.
    columns: (config) -> ratings of the data that it reads, by name: they become channels of the batch.
    judge: (config, outputs, batch) -> Judgement: how a trained reward model is read.
    lower_is_better: what it judges is a cost.
    requires: (config, stage) -> sentences that say why this recipe's stage cannot work; each ends with the cure.
    explain: (config) -> the objective actually optimised, as text for `alignkit explain`.
    """

    config: type[AlgorithmConfig]
    source: Source
    needs: Callable[[Any], tuple[str, ...]]
    estimate: Callable[[Any, Batch], Batch]
    losses: Mapping[str, Callable[[Any, Outputs, Batch], Loss]]
    requires: Callable[[Any, Any], list[str]]
    explain: Callable[[Any], str]
    unit: Literal["sequence", "group"] = "sequence"
    heads: Callable[[Any], tuple[str, ...]] = lambda config: ()
    controls: Callable[[Any], Mapping[str, float]] = lambda config: {}
    adapt: Callable[[Any, Batch], Mapping[str, float]] = lambda config, batch: batch.controls
    columns: Callable[[Any], tuple[str, ...]] = lambda config: ()
    judge: Callable[[Any, Outputs, Batch], Judgement] | None = None
    lower_is_better: bool = False

    @property
    def trains_reward(self) -> bool:
        """Whether it makes a reward model, not a policy."""
        return "reward" in self.losses

    @property
    def samples(self) -> bool:
        """Whether its data needs an engine with the policy's present weights."""
        return self.source in ("rollouts", "resets", "replay")
