"""What a recipe may say as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from alignkit.recipe.schema.data import Data
from alignkit.recipe.schema.engine import EngineProcess
from alignkit.recipe.schema.model import Model
from alignkit.recipe.schema.section import Section
from alignkit.recipe.schema.stage import Stage


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
    deterministic: bool = False
    """On a GPU: what a resume with the same bits needs (slower). On a CPU runs resume with the same bits anyway."""
    run: str | None = None
    """Folder of the run; default `runs/<recipe name>`."""
    model: Model
    reference: Reference | None = None
    engine: EngineProcess = EngineProcess()
    stages: tuple[Stage, ...]
    evaluation: Evaluation | None = None
    checkpoints: Checkpoints = Checkpoints()
    health: Health = Health()
    tracker: Literal["none", "trackio", "wandb", "tensorboard"] = "none"
    """Where metrics go besides metrics.jsonl."""
    tracker_table_every: PositiveInt | None = 10
    """Steps between the tables of completions that the tracker gets besides; null: none."""
    launch: str | None = None
    """Launch profile (`alignkit ls launch`) used when `--launch` is not given; null: this process alone."""
    file: Path | None = None
    """The file it was read from; set by the reader."""
