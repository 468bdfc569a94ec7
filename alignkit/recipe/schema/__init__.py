"""What a recipe may say: one pydantic model per section, closed (unknown keys are errors) and frozen. No torch here."""

from alignkit.recipe.schema.data import Data, Part, Rows
from alignkit.recipe.schema.engine import EngineProcess
from alignkit.recipe.schema.model import Lora, Model, Scratch
from alignkit.recipe.schema.recipe import Checkpoints, Evaluation, Health, Recipe, Reference
from alignkit.recipe.schema.rewards import Ensemble, Normalise, RewardSpec, Risk, Steps
from alignkit.recipe.schema.rollouts import Environment, Replay, Rollouts
from alignkit.recipe.schema.section import Fraction, Section
from alignkit.recipe.schema.stage import Stage
from alignkit.recipe.schema.train import Constraint, Critic, Fixup, Optimizer, Train

__all__ = [
    "Checkpoints",
    "Constraint",
    "Critic",
    "Data",
    "EngineProcess",
    "Ensemble",
    "Environment",
    "Evaluation",
    "Fixup",
    "Fraction",
    "Health",
    "Lora",
    "Model",
    "Normalise",
    "Optimizer",
    "Part",
    "Recipe",
    "Reference",
    "Replay",
    "RewardSpec",
    "Risk",
    "Rollouts",
    "Rows",
    "Scratch",
    "Section",
    "Stage",
    "Steps",
    "Train",
]
