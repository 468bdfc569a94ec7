"""The hooks that a stage of a recipe asks for."""

from __future__ import annotations

from collections.abc import Iterator

from alignkit.recipe.schema import Stage
from alignkit.train.hooks.confidence import ConfidenceFilter
from alignkit.train.hooks.constraints import Constraints
from alignkit.train.hooks.fixup import FixUp
from alignkit.train.hooks.hook import Hook
from alignkit.train.hooks.kl_limit import KlLimit
from alignkit.train.hooks.noise import NoiseScale
from alignkit.types.needs import Needs


def hooks_of(stage: Stage, needs: Needs) -> Iterator[Hook]:
    """In the order in which the loop calls them. needs: of the stage's algorithm, which may weigh costs itself."""
    train = stage.train
    if stage.constraints:
        yield Constraints(settings=stage.constraints, mix="costs" not in needs.columns)
    if train.drop_confident:
        yield ConfidenceFilter(share=train.drop_confident)
    if train.max_update_kl is not None:
        yield KlLimit(limit=train.max_update_kl)
    if train.fixup:
        yield FixUp(settings=train.fixup)
    if train.watch_noise:
        yield NoiseScale()
