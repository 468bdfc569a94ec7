"""What a recipe may say: one pydantic model per section, closed (unknown keys are errors) and frozen. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections and of every algorithm's Config."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Lora(Section):
    rank: PositiveInt = 16
    """Rank of the adapter matrices."""
    alpha: PositiveFloat = 32.0
    """The adapter's output is scaled by alpha / rank."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which linear layers get an adapter."""


class Scratch(Section):
    """A character-level Llama built from nothing, for learning, tests and smoke recipes."""

    characters: str = "0123456789+= "
    """The vocabulary, one token a character (pad, bos and eos are added)."""
    layers: PositiveInt = 3
    """Number of transformer layers."""
    hidden: PositiveInt = 96
    """Width of the residual stream."""
    heads: PositiveInt = 4
    """Attention heads; divides `hidden`."""
    context: PositiveInt = 64
    """Longest sequence in tokens."""


class Model(Section):
    path: str | None = None
    """A folder, a hub id, `smollm2-135m-instruct` or the encoder `all-minilm-l6-v2` (both out of Python packages)."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    scratch: Scratch | None = None
    """Build a small model instead of loading one; exactly one of `path` and `scratch` is given."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of forward and backward. Weights and optimizer state are always float32."""
    lora: Lora | None = None
    """Train a LoRA adapter instead of all weights."""
    frozen: bool = False
    """Train nothing but the head of a reward model."""
    chat_template: str | None = None
    """A Jinja chat template that replaces the tokenizer's own."""


class Rows(Section):
    source: str = ""
    """Where tasks come from: `generator:NAME`, a file (.jsonl .jsonl.gz .json .parquet .csv), or `hub:ORG/NAME`.
    Required unless there is a `mixture`."""
    split: str = "train"
    """Split of a hub dataset (or of a generator)."""
    revision: str | None = None
    """Revision of a hub dataset."""
    options: dict[str, Any] = {}
    """Arguments of the generator (or, under `name`, the configuration of a hub dataset)."""
    columns: dict[str, str] = {}
    """Renames: ours (prompt, completion, chosen, rejected, label, messages, tools, reference; `id`; `solution`, which
    TRL's rewards read) from theirs."""
    template: str | None = None
    """Python format string over the row's columns that makes the prompt (`{question}`); default: column `prompt`."""
    limit: PositiveInt | None = None
    """Use only the first N rows."""


class Data(Rows):
    mixture: dict[str, Rows] = {}
    """Several sources by names of your own, in place of one. The column `source` of each row then says its name."""
    system: str | None = None
    """System message put before the prompt of chat models."""
    chat: bool = True
    """Render prompts with the chat template; False feeds the prompt's text as it is."""
    holdout: NonNegativeInt = 0
    """Rows kept out of training (chosen by the seed) for evaluation."""
    max_prompt_tokens: PositiveInt = 1024
    """Longest prompt, in tokens."""
    long_prompts: Literal["error", "filter", "truncate"] = "error"
    """What to do with longer prompts; `truncate` keeps the end. Counts are reported."""
    max_completion_tokens: PositiveInt | None = None
    """Longest given completion, in tokens, the same for both sides of a pair; null: what the model's context leaves."""
    long_completions: Literal["error", "filter", "truncate"] = "error"
    """What to do with longer ones; `truncate` keeps the beginning, without a stop token. Counts are reported."""
    shuffle: bool = True
    """New order each epoch, by the seed; False keeps the file's order."""

    @property
    def name(self) -> str:
        """What messages call it: the source, or all of a mixture's."""
        return self.source or " + ".join(rows.source for rows in self.mixture.values())


class Risk(Section):
    """One number from a distribution of rewards."""

    measure: Literal["cvar", "low_quantile", "entropic", "mean_minus_std", "mean"] = "cvar"
    """Mean of the worst outcomes, one low quantile, certainty equivalent, mean less some deviations, or the mean."""
    level: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Of cvar the share of outcomes that is averaged, of low_quantile the quantile's level."""
    weight: float = 1.0
    """Of mean_minus_std the deviations taken off, of entropic the aversion to low outcomes; below 0 seeks high ones."""


class Ensemble(Section):
    """One number from several models that judge the same completions."""

    reducer: Literal["mean", "median", "worst", "mean_minus_variance", "mean_minus_std"] = "worst"
    """Of the members, each centred on its mean over the prompt's completions; their mean level is added again."""
    weight: NonNegativeFloat = 1.0
    """Of the variance or deviation among members that is taken off."""


class Steps(Section):
    """How the scores of a completion's steps become rewards."""

    returns: Literal["sum", "mean", "min_form", "difference", "last", "product"] = "min_form"
    """What a step and those after it are worth: their sum, sum / number, worst, the progress to the last, the last, or
    the product; a step is paid the difference to the next one's."""
    place: Literal["step", "turn", "end"] = "step"
    """Paid on the token that completes the step, at the end of its utterance, or all at the end."""


class Normalise(Section):
    """Mean 0 and standard deviation 1 over all that the reward said in a step of training; evaluation is as it is."""

    by: str | None = None
    """A column of the data, such as `source`: rows are normalised among those with the same value."""


class RewardSpec(Section):
    name: str
    """Name on the shelf (`alignkit ls rewards`), `./file.py:name`, `package.module:name`, or `trl:function`."""
    weight: float = 1.0
    """Factor in the sum."""
    gate: bool = False
    """A gate multiplies the sum of the others instead of being added to it."""
    deadline_s: PositiveFloat = 5.0
    """Seconds for one rollout; then its worker is killed and the score is None with a timeout fault."""
    options: dict[str, Any] = {}
    """Keyword arguments of the reward."""
    only: dict[str, Any] = {}
    """Rows that it is for, by column and value (or a list of values); to other rows it adds nothing."""
    risk: Risk | None = None
    """For rewards that say a distribution."""
    ensemble: Ensemble | None = None
    """For rewards that say several models' values."""
    steps: Steps | None = None
    """For rewards that score steps."""
    normalise: Normalise | None = None
    """Before the weight; `{}` is over everything."""
    clip: tuple[float, float] | None = None
    """Lowest and highest value (of a step, where steps are scored); after normalising, before the weight."""


class Environment(Section):
    """What the policy talks with over several turns: its first observation is the prompt, what it pays the reward."""

    name: str
    """Name on the shelf (`alignkit ls environments`), `./file.py:name` or `package.module:name`."""
    options: dict[str, Any] = {}
    """Keyword arguments of the environment."""
    max_turns: PositiveInt = 10
    """Most utterances of the policy in an episode; an episode that is cut there counts as truncated."""
    max_tokens: PositiveInt | None = None
    """Most tokens of a whole episode, observations included; null: the model's context."""
    deadline_s: PositiveFloat = 30.0
    """Seconds for one answer of the environment; then the episode is a timeout fault and leaves the batch."""


class Rollouts(Section):
    engine: Literal["vllm", "hf"] = "vllm"
    """`vllm` (fast), or `hf` (slow, exact reference)."""
    prompts: PositiveInt = 16
    """Prompts per step."""
    group: PositiveInt = 8
    """Completions sampled for each prompt."""
    max_new_tokens: PositiveInt = 256
    """Longest completion, in tokens."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; the trainer computes its log-probs at the same temperature."""
    guided: Fraction = 0.0
    """Share of prompts whose completions begin with part of the task's own `completion` (RLGF): scored, not trained."""
    finished: Fraction = 0.0
    """Share of completions that go over to a guide at a random place (RLGF): its part is scored, not trained."""
    guide: str | None = None
    """Model that finishes those, a transformers folder of the policy's tokens; null: the reference."""
    keep_zero_spread: bool = True
    """False drops groups whose rewards are all equal (DAPO's dynamic sampling) and samples new prompts instead."""
    refill_rounds: PositiveInt = 10
    """At most this many sampling rounds a step when groups are dropped."""
    memory_gib: PositiveInt = 2
    """vLLM on CPU: memory for its KV cache. On a GPU `gpu_memory_fraction` counts."""
    gpu_memory_fraction: Fraction = 0.45
    """vLLM on GPU: share of the device's memory."""
    canary_tolerance: PositiveFloat = 0.15
    """After each weight sync: largest allowed mean |log-prob difference| between engine and trainer on the probe."""
    reward_workers: PositiveInt = 2
    """Processes that run rewards."""
    max_unscorable: Fraction = 0.5
    """The run stops when more than this share of a step's rollouts cannot be scored."""


class Optimizer(Section):
    lr: PositiveFloat
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape after the warm-up; linear and cosine end at `final_lr_fraction`."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer steps of linear warm-up from 0."""
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


class Train(Section):
    steps: PositiveInt
    """Rollout batches (or, for labelled data and pairs, optimizer steps)."""
    batch: PositiveInt | None = None
    """Sequences, pairs or turns per step for given data and replay; rollout algorithms take prompts x group instead."""
    epochs: PositiveInt = 1
    """Passes over each rollout batch."""
    minibatches: PositiveInt = 1
    """Optimizer steps per pass over a rollout batch."""
    micro_batch_tokens: PositiveInt = 4096
    """Most packed tokens in one forward and backward; results do not depend on it, memory does."""
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


class Replay(Section):
    """Turns of past episodes, for algorithms that learn from them again and again."""

    every: PositiveInt = 1
    """Steps between collections of rollouts.prompts x rollouts.group episodes."""
    capacity: PositiveInt = 100_000
    """Turns kept; the oldest leave first."""


class Fixup(Section):
    """FixPO's second phase: steps that only take back what moved too far."""

    kl: PositiveFloat
    """No token's KL from the policy that sampled it may be larger than this after the update."""
    max_steps: PositiveInt = 10
    """Optimizer steps at most."""


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


class Critic(Section):
    """The model that says values, for algorithms that have one."""

    shared: bool = False
    """A value head on the policy's own layers: one model and one optimizer. Otherwise a model of its own."""
    path: str | None = None
    """A model to start from; default: a copy of the policy as the stage begins."""
    lr: PositiveFloat | None = None
    """Peak learning rate of a critic of its own; default: the policy's."""
    epochs: PositiveInt | None = None
    """Passes of a critic of its own over each batch; default: train.epochs."""
    minibatches: PositiveInt | None = None
    """Its optimizer steps per pass; default: train.minibatches."""


class Stage(Section):
    """One training phase. A recipe without `stages` has exactly one, made of its top-level sections."""

    name: str = "main"
    data: Data
    rewards: tuple[RewardSpec, ...] = ()
    environment: Environment | None = None
    rollouts: Rollouts = Rollouts()
    replay: Replay | None = None
    constraints: tuple[Constraint, ...] = ()
    critic: Critic | None = None
    algorithm: dict[str, Any]
    """`type` names a file of alignkit/algorithms (or `./file.py:NAME`); the other keys are that file's Config."""
    optimizer: Optimizer
    train: Train


class Evaluation(Section):
    data: Data | None = None
    """Held-out tasks; default: the rows that `data.holdout` of the last stage kept out."""
    every: PositiveInt | None = None
    """Evaluate every N steps besides before and after; null: only before and after."""
    samples: PositiveInt = 1
    """Completions per task."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
    max_new_tokens: PositiveInt | None = None
    """Default: the rollouts' value."""
    limit: PositiveInt | None = None
    """At most this many tasks."""
    suite: str | None = None
    """Also this suite of benchmarks (`alignkit ls evals`), by the runner of `alignkit eval`; `limit` holds for each."""


class Reference(Section):
    """The frozen model that KL terms are measured against: the policy as it was when the stage began."""

    path: str | None = None
    """Another model than the initial policy."""


class Checkpoints(Section):
    every: PositiveInt | None = 20
    """Steps between checkpoints; null: only at the end and on SIGTERM."""
    keep: PositiveInt = 2
    """Newest checkpoints kept."""


class Health(Section):
    dead_steps: PositiveInt = 10
    """Stop after this many steps in a row without any learning signal."""
    max_kl: PositiveFloat | None = None
    """Stop when the mean KL between sampler and trainer (or policy and reference) exceeds this."""


class Recipe(Section):
    """A whole recipe, resolved: `stages` is never empty."""

    seed: NonNegativeInt = 0
    """Every random choice of the run is derived from it."""
    run: str | None = None
    """Folder of the run; default `runs/<recipe name>`."""
    model: Model
    reference: Reference | None = None
    stages: tuple[Stage, ...]
    evaluation: Evaluation | None = None
    checkpoints: Checkpoints = Checkpoints()
    health: Health = Health()
    tracker: Literal["none", "trackio", "wandb", "tensorboard"] = "none"
    """Where metrics go besides metrics.jsonl."""
    launch: str | None = None
    """Launch profile (`alignkit ls launch`) used when `--launch` is not given; null: this process alone."""
    file: Path | None = None
    """The file it was read from; set by the reader."""
