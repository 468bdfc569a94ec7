"""What must hold between the settings of a recipe. One small rule per function, each problem ending with its cure.

A rule yields (key path, problem); a recipe that passes its schema but breaks a rule cannot train what it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import ContentError
from alignkit.recipe.document import KeyPath
from alignkit.recipe.engine_rules import broken_engine
from alignkit.recipe.lookup.data_file import data_file, data_folders
from alignkit.recipe.lookup.find import did_you_mean, find, find_suite
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.lookup.outline import function_options, keyword_functions
from alignkit.recipe.lookup.rows_function import find_rows_function
from alignkit.recipe.reward_settings import broken_reward_settings
from alignkit.recipe.schema import Critic, Data, Environment, Recipe, Rows, Stage
from alignkit.recipe.step_rules import broken_steps
from alignkit.recipe.template import template_parts
from alignkit.types.needs import Needs

if TYPE_CHECKING:
    from alignkit.data.kinds.kind import Kind

Broken = Iterator[tuple[KeyPath, str]]

DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


def broken_rules(recipe: Recipe, algorithms: Sequence[tuple[Any, Any]]) -> Broken:
    """Every broken rule of a recipe whose sections are valid.

    algorithms: (Algorithm, Config) of each stage; (None, None) where it was not imported: what hangs on it is left out.
    """
    folder = recipe.file.parent if recipe.file else Path()
    for rule in (_model, _stage_names, broken_engine, _launch):
        yield from rule(recipe)
    yield from _quantization(recipe)
    yield from _lora(recipe, algorithms)
    yield from _evaluation(recipe, algorithms)
    if recipe.reference is not None:
        yield from _reference(recipe, algorithms)
    yield from _local_path(("model", "path"), recipe.model.path, folder)
    for i, (stage, (algorithm, config)) in enumerate(zip(recipe.stages, algorithms, strict=True)):
        key = ("stages", i)
        yield from _data(stage.data, (*key, "data"), folder)
        yield from broken_steps(stage, algorithm, key)
        if algorithm is not None:
            yield from _of_algorithm(recipe, stage, algorithm, config, key)


def _of_algorithm(recipe: Recipe, stage: Stage, algorithm: Any, config: Any, key: KeyPath) -> Broken:
    """What a stage's algorithm asks of its other settings."""
    if not isinstance(needs := algorithm.needs(config), Needs):
        problem = f"its `needs` gives {type(needs).__name__}; write `Needs(columns={tuple(needs)})`"
        yield (*key, "algorithm", "type"), f"{problem} of alignkit/types/needs.py"
        return
    yield from _rewards(stage, algorithm, key)
    if kind_of(algorithm.source).fresh:
        yield from broken_reward_settings(stage, algorithm, config, key)
    yield from _guide(recipe, stage, algorithm, (*key, "rollouts"))
    yield from _critic(recipe, stage, algorithm, config, key)
    yield from _context(recipe, stage, algorithm, key)
    if recipe.model.frozen and not algorithm.trains_reward:
        yield ("model", "frozen"), f"{stage.algorithm['type']} would train nothing; it is for reward models"
    if algorithm.trains_reward and stage is not recipe.stages[-1]:
        yield (*key, "algorithm"), "makes a reward model, with which a recipe ends; put later stages in another one"
    first = stage is recipe.stages[0]
    if algorithm.trains_reward and "reference" in algorithm.needs(config).models and not first and not recipe.reference:
        problem = "measures its reward from the model as this stage begins, which is not kept; make it the only stage"
        yield (*key, "algorithm"), problem
    for sentence in algorithm.requires(config, stage):
        yield (*key, "algorithm"), sentence


def optimizer_steps(stage: Stage, source: Kind) -> int | None:
    """Optimizer steps of a stage: one per step for offline data, epochs x minibatches for rollouts.

    None where the number of rows decides.
    """
    passes = stage.train.epochs * stage.train.minibatches if source.fresh else 1
    return None if stage.train.steps is None else stage.train.steps * passes


def _model(recipe: Recipe) -> Broken:
    model = recipe.model
    if (model.path is None) == (model.scratch is None):
        got = "neither; name a folder or a model of the hub, model.path=MODEL" if model.path is None else "both"
        yield ("model",), f"exactly one of `path` and `scratch` must be given; got {got}"
    scratch = model.scratch
    if scratch is None:
        return
    if scratch.hidden % scratch.heads or scratch.hidden // scratch.heads % 2:
        got = f"{scratch.hidden} / {scratch.heads}"
        yield ("model", "scratch", "heads"), f"hidden / heads must be an even whole number; got {got}"
    if len(set(scratch.characters)) != len(scratch.characters):
        twice = next(letter for letter in scratch.characters if scratch.characters.count(letter) > 1)
        yield ("model", "scratch", "characters"), f"holds {twice!r} twice; give each character once"


def _quantization(recipe: Recipe) -> Broken:
    """That what is held in 4 bits is a base that was trained before, and stays what it is."""
    kind, key = recipe.model.quantization, ("model", "quantization")
    if kind is not None and recipe.model.lora is None:
        yield key, f"weights in {kind} cannot be trained; add an adapter, model.lora.rank=16, or remove it"
    if kind is not None and recipe.model.scratch is not None:
        yield key, "`scratch` weights are drawn at random, and none are read; remove it"


def _lora(recipe: Recipe, algorithms: Sequence[tuple[Any, Any]]) -> Broken:
    """That everything of the adapter would be trained."""
    lora, key = recipe.model.lora, ("model", "lora")
    if lora is None:
        return
    named = () if isinstance(lora.target_modules, str) else lora.target_modules
    for module in sorted(set(named) & set(lora.modules_to_save)):
        yield (*key, "modules_to_save"), f"{module} is in target_modules, too; take it out of one of the two"
    if recipe.model.frozen:
        yield key, "`frozen` trains the head alone, so an adapter would stay as it is; remove one of the two"
    if "lm_head" in (*named, *lora.modules_to_save):
        for stage, (algorithm, config) in zip(recipe.stages, algorithms, strict=True):
            if algorithm is not None and algorithm.trains_reward and algorithm.heads(config):
                problem = f"{stage.algorithm['type']} makes a reward model, which says no words"
                yield key, f"{problem}: lm_head would never be trained; take it out"


def _stage_names(recipe: Recipe) -> Broken:
    if not recipe.stages:
        yield ("stages",), "needs at least one stage; leave the key out to make one of the top-level sections"
    names = [stage.name for stage in recipe.stages]
    for i, name in enumerate(names):
        if name in names[:i]:
            yield ("stages", i, "name"), f"two stages are called '{name}'; give each its own `name`"


def evaluates_offline(stage: Stage, algorithm: Any) -> bool:
    """Whether a stage is evaluated by what its model says of held-out completions, and answers nothing itself."""
    graded = stage.rewards or stage.environment
    return algorithm.trains_reward or (algorithm.judge is not None and not graded)


def _evaluation(recipe: Recipe, algorithms: Sequence[tuple[Any, Any]]) -> Broken:
    evaluation = recipe.evaluation
    if evaluation is None or not recipe.stages:
        return
    last = recipe.stages[-1]
    if evaluation.data is None and not last.data.holdout:
        yield ("evaluation",), "has no tasks; set `evaluation.data`, or keep rows out with `data.holdout`"
    if evaluation.data is not None:
        yield from _data(evaluation.data, ("evaluation", "data"), recipe.file.parent if recipe.file else Path())
    if algorithms[-1][0] is not None and evaluates_offline(last, algorithms[-1][0]):
        if evaluation.suite is not None:
            yield ("evaluation", "suite"), "asks a policy, and this stage is evaluated on its held-out data; remove it"
    elif algorithms[-1][0] is not None and not any(stage.rewards or stage.environment for stage in recipe.stages):
        yield ("evaluation",), "cannot grade without `rewards` or an `environment` in any stage; add them"
    exact = last.rollouts.engine == "hf" and recipe.engine.placement != "servers"
    for stage, (algorithm, config) in zip(recipe.stages, algorithms, strict=True):
        if algorithm is not None and algorithm.steers(config) and not exact:
            problem = f"asks vLLM or servers, where the critics of {stage.algorithm['type']} cannot steer what is said"
            yield ("evaluation",), f"{problem}; set `rollouts.engine` to hf, `algorithm.beta` to 0, or remove it"
    if evaluation.samples > 1 and evaluation.temperature == 0:
        problem = "at temperature 0 all samples of a task are the same; set `evaluation.temperature` above 0"
        yield ("evaluation", "samples"), problem
    if evaluation.suite is not None:
        try:
            find_suite(evaluation.suite, beside=recipe.file.parent if recipe.file else None)
        except ContentError as error:
            yield ("evaluation", "suite"), str(error)


def _launch(recipe: Recipe) -> Broken:
    if recipe.launch is not None:
        try:
            find("launch", recipe.launch, beside=recipe.file.parent if recipe.file else None)
        except ContentError as error:
            yield ("launch",), str(error)


def _reference(recipe: Recipe, algorithms: Sequence[tuple[Any, Any]]) -> Broken:
    assert recipe.reference is not None
    limits = [each.needs for stage in recipe.stages for each in stage.constraints]
    known = [algorithm.needs(config) for algorithm, config in algorithms if algorithm is not None]
    if len(known) == len(algorithms) and not any("reference" in needs.models for needs in (*limits, *known)):
        yield ("reference",), "no stage uses a reference model; switch its algorithm's KL term on or remove the section"
    folder = recipe.file.parent if recipe.file else Path()
    yield from _local_path(("reference", "path"), recipe.reference.path, folder)


def _local_path(key: KeyPath, path: str | None, folder: Path) -> Broken:
    """A path that is clearly local must exist; anything else may be a hub id."""
    if path and path.startswith(("./", "../", "/", "~")) and not (folder / Path(path).expanduser()).exists():
        yield key, f"there is no {folder / Path(path).expanduser()}; local paths are taken from the recipe's folder"


def _data(data: Data, key: KeyPath, folder: Path) -> Broken:
    if not data.mixture:
        yield from _rows(data, key, folder)
    for name in Rows.model_fields.keys() & data.model_fields_set if data.mixture else ():
        yield (*key, name), "belongs into each part of `mixture`; move it there"
    for name, rows in data.mixture.items():
        yield from _rows(rows, (*key, "mixture", name), folder)
        if "/" in name or ":" in name:
            yield (*key, "mixture", name), "has a / or : in its name, which part names of metrics and ids; leave it out"
    weighted = [name for name, part in data.mixture.items() if part.weight is not None]
    if weighted and len(weighted) < len(data.mixture):
        name = next(name for name in data.mixture if name not in weighted)
        yield (*key, "mixture", name, "weight"), f"is missing, and {weighted[0]} has one; give all parts one, or none"
    if data.window is not None and data.mixture and not weighted:
        yield (*key, "window"), "reads the parts of a mixture in turns; give each a `weight`"
    if data.window is not None and data.holdout:
        yield (*key, "holdout"), "is drawn from all rows, and `window` never has them all; give `evaluation.data`"
    if data.limit is not None and data.holdout >= data.limit:
        yield (*key, "holdout"), f"leaves nothing to train on: {data.holdout} of {data.limit} rows; lower it"


def _rows(data: Rows, key: KeyPath, folder: Path) -> Broken:
    if data.source:
        yield from _source(data, key, folder)
    else:
        yield (*key, "source"), "is missing; name a file, hub:ORG/NAME or ./file.py:NAME, data.source=FILE"
    if data.template is not None:
        try:
            parts = template_parts(data.template)
        except ValueError as error:
            yield (*key, "template"), str(error)
        else:
            if all(part.column is None for part in parts):
                yield (*key, "template"), "names no column, so all prompts are alike; write e.g. `{question}`"


def _source(data: Rows, key: KeyPath, folder: Path) -> Broken:
    """That the source can exist, and that it takes the options."""
    kind, colon, name = data.source.partition(":")
    source = (*key, "source")
    options: set[str] = set()
    if kind == "hub" and colon:
        options = {"name"}
        if name.count("/") > 1 or not name.strip("/"):
            yield source, f"a hub dataset is written `hub:ORG/NAME`; got '{data.source}'"
    elif kind == "generator" and colon:
        generators = _generators()
        options = generators.get(name, set(data.options))
        if name not in generators:
            known = ", ".join(generators)
            yield source, f"no generator is called '{name}'{did_you_mean(name, generators)}; there are {known}"
    else:
        try:
            function = find_rows_function(data.source, beside=folder)
        except ContentError as error:
            yield source, str(error)
            return
        if function is None:
            yield from _data_file(data.source, source, folder)
        else:
            options = (function_options(function.path, function.name) or set(data.options)) - {"seed", "split"}
    for option in data.options:
        if option not in options:
            problem = f"is not an option of '{data.source}'{did_you_mean(option, options)}"
            yield (*key, "options", option), problem


def _generators() -> dict[str, set[str]]:
    """Every generator and its options, read from the source text: the data layer lies above this one."""
    return keyword_functions(Path(__file__).resolve().parents[1] / "data" / "generators.py", {"split", "seed"})


def _data_file(source: str, key: KeyPath, folder: Path) -> Broken:
    path = data_file(source, folder)
    if not source.endswith(DATA_SUFFIXES) and (path is None or not path.is_dir()):
        files = f"a file ({' '.join(DATA_SUFFIXES)}), a folder of datasets.save_to_disk"
        yield key, f"wants `generator:NAME`, `hub:ORG/NAME`, `./file.py:NAME`, {files}; got '{source}'"
    elif path is None:
        looked = ", ".join(str(place) for place in data_folders(folder))
        yield key, f"there is no file '{source}' in {looked}; fetch it, or set ALIGNKIT_DATA to its folder"


def _rewards(stage: Stage, algorithm: Any, key: KeyPath) -> Broken:
    kind, source = stage.algorithm["type"], kind_of(algorithm.source)
    if stage.replay is not None and not source.replays:
        yield (*key, "replay"), f"{kind} keeps no past turns; remove the section"
    if source.environment == "must" and stage.environment is None:
        yield key, f"{kind} plays episodes; give it an `environment` (see `alignkit ls environments`)"
        return
    if source.environment == "must" and stage.rewards and not source.candidates:
        yield (*key, "rewards"), f"{kind} learns from what the environment pays each turn alone; remove the rewards"
    if not source.fresh:
        if stage.environment is not None and source.environment == "never":
            problem = (
                f"{kind} learns from offline data ({source.name}), not in an environment; move it to another stage"
            )
            yield (*key, "environment"), problem
        return
    if stage.environment is not None:
        yield from _environment(stage, stage.environment, (*key, "environment"))
    if stage.environment is not None and stage.environment.pays and not source.candidates:
        return
    if not stage.rewards:
        yield (*key, "rewards"), f"{kind} learns from rewards; name at least one (see `alignkit ls rewards`)"
    elif not any(spec.weight and not spec.gate for spec in stage.rewards):
        yield (
            (*key, "rewards"),
            "only gates or zero weights, so the sum is always 0; at least one reward must add to it",
        )


def _environment(stage: Stage, environment: Environment, key: KeyPath) -> Broken:
    """That there is something to talk with, and that tools can be shown."""
    if not environment.pays and not environment.tools:
        yield key, "has no `name`, `program` or `tools`; give it one of them (see `alignkit ls environments`)"
    if environment.program is not None and (environment.name is not None or environment.tools):
        yield (*key, "program"), "is the whole episode, and brings its own tools; remove `name` and `tools`"
    if environment.program is not None and environment.max_tool_calls is not None:
        yield (*key, "max_tool_calls"), "limits tools of the recipe, and a program brings its own; remove it"
    if environment.program == ():
        yield (*key, "program"), "is an empty command; wanted one such as [python, agent.py]"
    if environment.name is None and environment.options:
        yield (*key, "options"), "are the environment's, and there is no `name`; a tool has `options` of its own"
    if environment.tools and not stage.data.chat:
        yield (*key, "tools"), "are shown by the chat template, and data.chat is false; set it to true"


def _guide(recipe: Recipe, stage: Stage, algorithm: Any, key: KeyPath) -> Broken:
    """That a guide has utterances to finish."""
    rollouts, kind, source = stage.rollouts, stage.algorithm["type"], kind_of(algorithm.source)
    if rollouts.guide is not None and not rollouts.guide_roll_out:
        yield (*key, "guide"), "has nothing to finish; set `guide_roll_out` above 0, or remove it"
    folder = recipe.file.parent if recipe.file else Path()
    yield from _local_path((*key, "guide"), rollouts.guide, folder)
    if not rollouts.guide_roll_out:
        return
    if source.replays:
        yield (*key, "guide_roll_out"), f"{kind} keeps past turns, and of them what the policy said alone; remove it"
    elif not source.fresh:
        yield (*key, "guide_roll_out"), f"{kind} samples no answers; set it in the stages that do"
    elif rollouts.max_new_tokens < 2:
        yield (*key, "guide_roll_out"), "a completion of one token cannot be shared; raise `rollouts.max_new_tokens`"


def _critic(recipe: Recipe, stage: Stage, algorithm: Any, config: Any, key: KeyPath) -> Broken:
    """That a critic is asked for only where an algorithm has one, and that it can be what is asked for."""
    kind, shared = stage.algorithm["type"], stage.critic is not None and stage.critic.shared
    heads = algorithm.heads(config)
    if stage.critic is not None and not heads:
        yield (*key, "critic"), f"{kind} has no critic; remove the section"
    if stage.critic is not None and shared and stage.critic != Critic(shared=True):
        problem = "a head on the policy has its layers and its optimizer; remove the other settings of critic"
        yield (*key, "critic", "shared"), problem
    if stage.train.critic_warmup_steps and (shared or not heads):
        yield (*key, "train", "critic_warmup_steps"), "only a critic of its own can learn first; remove this"
    folder = recipe.file.parent if recipe.file else Path()
    yield from _local_path((*key, "critic", "path"), stage.critic.path if stage.critic else None, folder)


def _context(recipe: Recipe, stage: Stage, algorithm: Any, key: KeyPath) -> Broken:
    scratch = recipe.model.scratch
    if scratch is None or not kind_of(algorithm.source).fresh:
        return
    longest = stage.rollouts.max_new_tokens
    if stage.environment is not None and (stage.environment.max_tokens or 0) > scratch.context:
        problem = f"is more than the model's context of {scratch.context}; got {stage.environment.max_tokens}"
        yield (*key, "environment", "max_tokens"), problem
    if longest >= scratch.context:
        problem = f"leaves no room for a prompt in a context of {scratch.context}; got {longest}"
        yield (*key, "rollouts", "max_new_tokens"), problem
