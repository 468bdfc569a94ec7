"""What a recipe may say of updates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from alignkit.recipe.schema.section import Fraction, Section
from alignkit.types.needs import REFERENCE_KL, Needs


class Optimizer(Section):
    lr: PositiveFloat
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape after the warm-up; linear and cosine end at `final_lr_fraction`."""
    warmup_steps: NonNegativeFloat = 0
    """Optimizer steps of linear warm-up from 0; below 1: as a share of all of them."""
    final_lr_fraction: Fraction = 0.0
    """Last learning rate as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's averaging coefficients."""
    eps: PositiveFloat = 1e-8
    """Adam's epsilon."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay; never applied to norms, biases and embeddings."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Global gradient-norm clip; null turns it off (the norm is logged all the same)."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """How Adam's two moments are kept: in bfloat16, rounded by chance, they take half the memory (one process only)."""


class Fixup(Section):
    """FixPO's second phase: steps that only take back what moved too far."""

    kl: PositiveFloat
    """No token's KL from the policy that sampled it may be larger than this after the update."""
    max_steps: PositiveInt = 10
    """Optimizer steps at most."""


class Train(Section):
    steps: PositiveInt | None = None
    """Rollout batches; for offline data optimizer steps, and if it is left out there, as many as `epochs` take."""
    batch: PositiveInt | None = None
    """Sequences, pairs or turns per step for offline data, episodes for replay; else prompts x group are taken."""
    epochs: PositiveInt = 1
    """Passes over each rollout batch; over offline data in place of `steps`: the rows of the source once in each."""
    minibatches: PositiveInt = 1
    """Optimizer steps per pass over a rollout batch."""
    micro_batch_tokens: PositiveInt = 4096
    """Most packed tokens in one forward and backward; results do not depend on it, memory does."""
    recompute: bool | None = None
    """Activation checkpointing: layers are computed again in the backward pass instead of kept: a tenth of the memory
    for a third more arithmetic. Default: on a GPU yes, on a CPU no."""
    critic_warmup_steps: NonNegativeInt = 0
    """In the first steps only a critic of its own learns; the policy waits."""
    max_update_kl: PositiveFloat | None = None
    """No more minibatches of this step once the policy is further than this, in KL per token, from where it began."""
    watch_noise: bool = False
    """Log the gradient noise scale: the batch size beyond which more sequences a step are wasted. One process only."""
    drop_confident: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each step's completions that is not trained on: those the policy was surest of (ESRL)."""
    fixup: Fixup | None = None
    """After each update, take back what moved too far."""
    fast_paths: bool = True
    """Prefix sharing and packing, each verified against the plain forward in the live run; False: plain only."""


class Constraint(Section):
    """A limit on a mean cost, kept by a Lagrange multiplier that adapts."""

    of: str
    """The cost: a reward of this stage (with `weight: 0` it is a cost only), or `length`, `truncated` or `kl`."""
    limit: float
    """Largest mean allowed, in the cost's own unit."""
    lr: PositiveFloat = 0.1
    """Step of the multiplier's logarithm."""
    multiplier: PositiveFloat = 1.0
    """Its first value."""
    cap: PositiveFloat = 5.0
    """Its largest value; a warning says when it stays there."""
    delay: NonNegativeInt = 0
    """Steps before it moves."""
    window: PositiveInt = 1
    """Steps that the mean cost is taken over."""

    @property
    def needs(self) -> Needs:
        """What the cost is computed from, beside what the stage's algorithm needs."""
        return REFERENCE_KL if self.of == "kl" else Needs()


class Critic(Section):
    """The model that says values, for algorithms that have one."""

    shared: bool = False
    """A value head on the policy's own layers: one model and one optimizer. Otherwise a model of its own."""
    path: str | None = None
    """A model to start from; default: a copy of the policy as the stage begins."""
    lr: PositiveFloat | None = None
    """Peak learning rate of a critic of its own; default: the policy's."""
    schedule: Literal["constant", "linear", "cosine"] | None = None
    """Shape of its learning rate; default: the policy's."""
    epochs: PositiveInt | None = None
    """Passes of a critic of its own over each batch; default: train.epochs."""
    minibatches: PositiveInt | None = None
    """Its optimizer steps per pass; default: train.minibatches."""
