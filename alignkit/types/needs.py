"""What an update rule, or something added to it, reads beside what every batch and every forward pass has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Output = Literal["ref_kl"]
Model = Literal["reference", "target"]
SAID_BY: dict[str, Model] = {"ref_logprobs": "reference", "ref_kl": "reference", "target_values": "target"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Columns and outputs by name, and the models that these come from; `a | b` is what both need.

    columns: of the batch (types/batch.py), filled by the loop before the estimate. `rewards`: it learns from where a
        reward is paid; without it, rewards of steps are paid at the end only. `costs`: it weighs what constraints limit
        itself; without it, they are taken from the reward.
    outputs: of the policy's forward pass, beside log-probs and the heads: `ref_kl`, the divergence from the reference.
    """

    columns: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()

    @property
    def models(self) -> tuple[Model, ...]:
        """Kept beside the policy, since they say what is needed: the frozen `reference` its `ref_logprobs` and
        `ref_kl`, the `target`, which follows the critic slowly, its `target_values`."""
        return tuple(dict.fromkeys(SAID_BY[name] for name in (*self.columns, *self.outputs) if name in SAID_BY))

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            columns=tuple(dict.fromkeys(self.columns + other.columns)),
            outputs=tuple(dict.fromkeys(self.outputs + other.outputs)),
        )


REFERENCE = Needs(columns=("ref_logprobs",))
REFERENCE_KL = Needs(columns=("old_logprobs",)) | REFERENCE
"""What a KL from the reference to the policy that sampled is computed from."""
