"""A suite of benchmarks inside a run: the runner of `alignkit eval` on the policy's own engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignkit.data.opened import opened
from alignkit.data.prompts import render
from alignkit.data.tokens import said_text
from alignkit.engines.engine import Engine
from alignkit.errors import RecipeError
from alignkit.evaluate.benchmark.answers import Model
from alignkit.evaluate.benchmark.runner import Runner
from alignkit.recipe.identity import recipe_hash
from alignkit.recipe.schema import Data, Recipe
from alignkit.run.evaluate.evaluate import Plan, plan
from alignkit.run.train.build import Policy, beside, longest_sequence
from alignkit.types.task import Task

FOLDER = "evals"


class SuiteEvaluation:
    """`evaluation.suite` of a recipe. folder: the run's. Raises DataError at once when data are missing.

    Results lie in `<run>/evals/step-<n>/<suite>`, so `alignkit compare` takes any two of them.
    """

    def __init__(self, recipe: Recipe, policy: Policy, engine: Engine, folder: Path):
        settings = recipe.evaluation
        if settings is None or settings.suite is None:
            raise RecipeError("evaluation.suite: is not set")
        self._recipe, self._policy, self._engine, self._folder = recipe, policy, engine, folder
        self._plan: Plan = plan(
            settings.suite, (), limit=settings.limit, seed=recipe.seed, data=beside(recipe), beside=beside(recipe)
        )

    def run(self, step: int) -> dict[str, Any]:
        """Metrics `eval/suite/<protocol>.<metric>` of the weights that the engine holds after `step` steps."""
        place = self._folder / FOLDER / f"step-{step:06}"
        runner = Runner(
            model=self._model(step),
            folder=place / self._plan.name,
            logs=place / "answers",
            seed=self._recipe.seed,
            workers=self._recipe.stages[-1].rollouts.reward_workers,
        )
        results = runner.run_all(self._plan.jobs)
        return {
            f"eval/suite/{result['protocol'].replace('/', '-')}.{name}": number["value"]
            for result in results
            for name, number in result["metrics"].items()
        }

    def _model(self, step: int) -> Model:
        tokenizer = self._policy.tokenizer

        def encode(task: Task) -> tuple[int, ...]:
            return tuple(render(tokenizer, task, Data(source=task.id)))

        return Model(
            name=f"{self._folder.name} after {step} steps",
            hash=f"{recipe_hash(self._recipe)[:12]}-{step}",
            engine=self._engine,
            kind=f"{self._recipe.stages[-1].rollouts.engine} {self._recipe.model.dtype}",
            context=longest_sequence(self._recipe, self._policy.context),
            stop_token_ids=self._policy.stop,
            encode=encode,
            decode=lambda ids: said_text(tokenizer, ids, self._policy.stop),
            opened=lambda task: opened(tokenizer, task, Data(source=task.id)),
        )
