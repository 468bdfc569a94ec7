"""How many steps the epochs of given data are, which only its rows can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alignkit.errors import RecipeError
from alignkit.recipe.schema import Recipe
from alignkit.run.train.build import Policy
from alignkit.run.train.build_data import build_offline
from alignkit.train.offline import OfflineSource


@dataclass(kw_only=True)
class GivenData:
    """The sources of a run's given data. Each is read and tokenised once, be it to count its steps or to draw from it.

    Those that were counted wait here, with what they have to say, until their stage takes them.
    """

    recipe: Recipe
    policy: Policy
    _counted: dict[int, tuple[OfflineSource, list[str]]] = field(default_factory=dict)

    def steps(self) -> list[int | None]:
        """Steps of each stage that gives epochs in their place, ceil(epochs x rows / batch); None of the others.

        The last step is filled up with the first rows of the next pass. Raises RecipeError when a warm-up would not
        end, and all that reading the rows may raise.
        """
        found: list[int | None] = []
        for number, stage in enumerate(self.recipe.stages):
            if stage.train.steps is not None:
                found.append(None)
                continue
            said: list[str] = []
            source = build_offline(stage, self.policy, recipe=self.recipe, report=said.append)
            self._counted[number] = source, said
            rows = len(source.order.examples)
            steps = -(-stage.train.epochs * rows // (stage.train.batch or 1))
            if stage.optimizer.warmup_steps >= steps:
                raise RecipeError(
                    f"optimizer.warmup_steps: {stage.optimizer.warmup_steps:g} steps of warm-up, and "
                    f"{stage.train.epochs} passes over {rows} rows are {steps} steps: lower it (below 1 it is a share "
                    "of them)"
                )
            found.append(steps)
        return found

    def take(self, number: int, policy: Policy, *, report: Callable[[str], None]) -> OfflineSource:
        """The source of stage `number`, which trains `policy`, and what is to be said of it."""
        counted = self._counted.pop(number, None)
        if counted is None:
            return build_offline(self.recipe.stages[number], policy, recipe=self.recipe, report=report)
        source, said = counted
        for sentence in said:
            report(sentence)
        return source


def with_steps(recipe: Recipe, steps: Sequence[int | None]) -> Recipe:
    """The recipe with the steps that were counted."""
    stages = [
        stage if count is None else stage.model_copy(update={"train": stage.train.model_copy(update={"steps": count})})
        for stage, count in zip(recipe.stages, steps, strict=True)
    ]
    return recipe.model_copy(update={"stages": tuple(stages)})
