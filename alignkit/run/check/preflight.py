"""What can be learned about a recipe before training: prompt lengths, template mistakes, scores of the gold answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.data.look.spans import Sequenced, sequences
from alignkit.errors import ContentError, DataError, first_line
from alignkit.recipe.lookup.kind_of import kind_of
from alignkit.recipe.lookup.secrets import FOR_THE_HUB, lent
from alignkit.recipe.read import resolve_algorithm
from alignkit.run.check.preflight_rows import Learnt, Repeats, known_config, learnt_of, repeats_of, stops_of
from alignkit.types.rollout import Rollout, StopReason, Turn
from alignkit.types.seeds import child

if TYPE_CHECKING:
    from alignkit.models.tokenizer import StopToken
    from alignkit.recipe.schema import Model, Recipe, Stage
    from alignkit.rewards.pool.training import Training
    from alignkit.types.score import Score
    from alignkit.types.task import Task

SHOWN_ROWS = 5
EPISODES = 20  # environments may be slow to start


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Token counts of a set of texts. histogram: (most tokens in the bin, how many texts), bins doubling in width."""

    count: int
    longest: int
    limit: int
    over_limit: int
    histogram: list[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldGrades:
    """How the rewards judge the data's own answers.

    means: the blend (`total`) and each reward part, over the rows that it could score. below_best: rows that score less
    than the best row. shown: the first rows that have no score, or less than the best one.
    """

    rows: int
    without_reference: int
    means: dict[str, float | None]
    unscorable: int
    below_best: int
    shown: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Offline completions with feedback: how many are kept, why the others are not, and how long the sides are.

    problem: the sentence with which training would refuse the data. example: the first row.
    """

    kept: int
    left_out: dict[str, int]
    truncated: int
    lengths: str | None
    problem: str | None
    example: list[Sequenced] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    stage: str
    tasks: int
    prompts: Lengths
    answers: Lengths | None
    template: list[str]
    gold: GoldGrades | None
    compared: Compared | None
    learnt: Learnt | None
    repeats: Repeats
    stops: list[StopToken]
    mismatches: list[str]
    long_prompts: str
    long_completions: str
    rewards: list[str] = field(default_factory=list)
    asked_by_benchmarks: list[str] = field(default_factory=list)

    @property
    def example(self) -> list[Sequenced]:
        """One row as it is learnt from; nothing where rows are sampled."""
        return next((one.example for one in (self.learnt, self.compared) if one is not None), [])

    @property
    def problems(self) -> list[str]:
        """What will hurt the run; empty when all is well."""
        found = [f"template: {sentence}" for sentence in self.template]
        if self.prompts.over_limit and self.long_prompts == "error":
            rows = f"{self.prompts.over_limit} of {self.prompts.count} rows"
            found.append(f"prompts: {rows} are longer than {self.prompts.limit} tokens; see data.long_prompts")
        if self.gold and self.gold.unscorable:
            found.append(f"gold answers: {self.gold.unscorable} of {self.gold.rows} cannot be scored")
        if self.compared and self.compared.problem:
            found.append(f"data: {self.compared.problem}")
        if self.learnt and self.learnt.rows and not self.learnt.tokens:
            found.append("data: no row has a learnt token")
        if self.learnt and self.learnt.too_long and self.long_completions == "error":
            found.append(
                f"data: {len(self.learnt.too_long)} rows are too long for the model; see data.long_completions"
            )
        if not self.stops:
            found.append("stop tokens: none: nothing would end a completion; give the tokenizer an EOS token")
        return found + self.rewards


def preflight(recipe: Recipe, stage: Stage, *, rows: int) -> Preflight:
    """Loads the tokenizer and at most `rows` tasks of a stage, and tries on them all that needs no model.

    Raises ContentError, DataError or RewardError when one of the three cannot be used at all.
    """
    from alignkit.data.asked import check_asked
    from alignkit.data.prompts import checked_prompts
    from alignkit.data.sources import first_window, load_tasks
    from alignkit.data.tokens import plain_ids
    from alignkit.evaluate.held_out.known_questions import every_protocol
    from alignkit.models.mismatch import mismatches
    from alignkit.rewards.pool.blend import check_rows
    from alignkit.run.check.check_trl import trl_problems
    from alignkit.run.check.trained_questions import trained_questions
    from alignkit.run.check.training import training_of

    beside = recipe.file.parent if recipe.file else None
    tokenizer = load_tokenizer(recipe.model, beside)
    config = known_config(recipe.model, beside)
    if config is not None:
        tokenizer.embedded_tokens = config.vocab_size
    stops = stops_of(tokenizer, recipe.model, beside)
    tasks = load_tasks(first_window(stage.data), seed=recipe.seed, beside=beside)
    check_rows(stage.rewards, tasks)
    number = recipe.stages.index(stage)
    training = training_of(recipe, number, tasks)
    sample = [tasks[place * len(tasks) // rows] for place in range(rows)] if rows < len(tasks) else tasks
    kind = kind_of(resolve_algorithm(stage, recipe)[0].source)
    labelled = stage.environment is None and kind.table == "conversations"
    if kind.fresh and stage.environment is None:
        check_asked(sample)
    if stage.environment is not None:
        prompts, template = first_observations(recipe, stage, tokenizer, sample[:EPISODES])
    else:
        prompts, template = checked_prompts(tokenizer, stage.data, sample, learnt=labelled)
    references = [task for task in sample if task.reference is not None]
    answers = [len(plain_ids(tokenizer, str(task.reference))) for task in references]
    return Preflight(
        stage=stage.name,
        tasks=len(tasks),
        prompts=lengths([len(prompt) for prompt in prompts], limit=stage.data.max_prompt_tokens),
        answers=lengths(answers, limit=stage.rollouts.max_new_tokens) if answers else None,
        template=template,
        gold=grade_gold(stage, sample, beside=beside, training=training) if stage.rewards else None,
        compared=compare_answers(recipe, stage, tokenizer, sample),
        learnt=learnt_of(tokenizer, sample, stage.data, context=getattr(config, "max_position_embeddings", None))
        if labelled and "turns" not in sample[0].columns
        else None,
        repeats=repeats_of(sample),
        stops=stops,
        mismatches=mismatches(tokenizer, stops),
        long_prompts=stage.data.long_prompts,
        long_completions=stage.data.long_completions,
        rewards=trl_problems(stage.rewards, tasks, beside=beside, training=training),
        asked_by_benchmarks=[*map(str, trained_questions(stage.data, tasks, every_protocol(beside=beside)))],
    )


def compare_answers(recipe: Recipe, stage: Stage, tokenizer: Any, tasks: Sequence[Task]) -> Compared | None:
    """What a stage that learns from offline data in sides can make of it; None for other stages."""
    from alignkit.data.offline.row_filter import RowFilter

    algorithm, config = resolve_algorithm(stage, recipe)
    kind, steps = kind_of(algorithm.source), algorithm.steps(config)
    if kind.rows is None or kind.table != "sides":
        return None
    row_filter = RowFilter(
        tokenizer=tokenizer,
        data=stage.data,
        context=tokenizer.model_max_length,
        unit=kind.unit,
        seed=recipe.seed,
        tag=steps.tag if steps else "",
    )
    problem, rows = None, []
    try:
        rows = kind.rows(tasks, row_filter)
    except DataError as error:
        problem = str(error)
    return Compared(
        kept=len(rows),
        left_out=dict(row_filter.reasons),
        truncated=row_filter.truncated,
        lengths=kind.lengths(rows) if rows else None,
        problem=problem,
        example=sequences(tokenizer, kind, rows[0]) if rows else [],
    )


def lengths(counts: Sequence[int], *, limit: int) -> Lengths:
    """Summary of token counts; `limit` is the largest allowed."""
    histogram, upper, rest = [], 16, sorted(counts)
    while rest:
        inside = sum(count <= upper for count in rest)
        histogram.append((upper, inside))
        rest, upper = rest[inside:], upper * 2
    return Lengths(
        count=len(counts),
        longest=max(counts, default=0),
        limit=limit,
        over_limit=sum(count > limit for count in counts),
        histogram=histogram,
    )


def first_observations(
    recipe: Recipe, stage: Stage, tokenizer: Any, tasks: Sequence[Task]
) -> tuple[list[list[int]], list[str]]:
    """Token ids of what some episodes begin with, and what the chat template does wrong when a second turn follows.

    Raises ContentError when the stage's environment cannot be made or an episode of it does not start.
    """
    from alignkit.data.turns import Renderer
    from alignkit.environments.maker import environment_maker
    from alignkit.rollout.gateway.programs import program_of

    assert stage.environment is not None
    name, beside = stage.environment.title, recipe.file.parent if recipe.file else None
    if stage.environment.program is not None:  # it asks the policy first, and there is none here
        program_of(stage.environment.program, beside)
        return [], []
    make, _ = environment_maker(stage.environment, beside)
    data = stage.data
    renderer = Renderer(tokenizer=tokenizer, chat=data.chat, system=data.system, arguments=data.chat_template_kwargs)
    prompts: list[list[int]] = []
    problems: dict[str, None] = {}
    for number, task in enumerate(tasks):
        try:
            observation = asyncio.run(_started(make(), task, child(recipe.seed, "preflight", number)))
        except Exception as error:  # a user's environment may raise anything
            raise ContentError(f"environment '{name}': {task.id} did not start: {error}") from error
        transcript = renderer.begin()
        transcript.offer(observation.tools)
        transcript.observe(observation.text, observation.messages)
        prompts.append(list(transcript.ids))
        try:
            transcript.act([*renderer.encode(observation.text), renderer.end_id])
            if observation.tools:
                call: Any = {"type": "function", "function": {"name": "f", "arguments": {}}}
                transcript.messages[-1] = {"role": "assistant", "content": "", "tool_calls": [call]}
                transcript.observe("", [{"role": "tool", "name": "f", "content": "1"}])
            else:
                transcript.observe(observation.text or "?")
        except DataError as error:
            problems.setdefault(str(error))
    return prompts, list(problems)


async def _started(environment: Any, task: Task, seed: int) -> Any:
    try:
        return await environment.start(task, seed)
    finally:
        getattr(environment, "close", lambda: None)()


def grade_gold(
    stage: Stage, tasks: Sequence[Task], *, beside: Path | None, training: Training | None = None
) -> GoldGrades:
    """Scores each task's reference answer, as if the policy had said it, through the stage's rewards; training: what
    TRL functions hear of the run."""
    from alignkit.rewards.pool.pool import RewardPool

    answered = [task for task in tasks if task.reference is not None]
    groups = [(task, [_as_rollout(task, number)]) for number, task in enumerate(answered)]
    pool = RewardPool(stage.rewards, workers=stage.rollouts.reward_workers, beside=beside, training=training)
    try:
        scores = [group[0] for group in asyncio.run(pool.unnormalised().score(groups))]
    finally:
        pool.close()
    graded = list(zip(answered, scores, strict=True))
    best = max((score.value for score in scores if score.value is not None), default=0.0)
    unscorable = [f"{task.id}: {_cause(score)}" for task, score in graded if score.value is None]
    lower = [(task.id, score.value) for task, score in graded if score.value is not None and score.value < best]
    below = [f"{name}: {value:.3g}" for name, value in lower]
    return GoldGrades(
        rows=len(answered),
        without_reference=len(tasks) - len(answered),
        means=_means(scores),
        unscorable=len(unscorable),
        below_best=len(below),
        shown=[*unscorable[:SHOWN_ROWS], *below[:SHOWN_ROWS]],
    )


def load_tokenizer(model: Model, beside: Path | None) -> Any:
    """The tokenizer of a recipe's model, without its weights. Raises ContentError when there is none."""
    from alignkit.models.tokenizer import character_tokenizer, set_chat_template

    if model.scratch is not None:
        tokenizer: Any = character_tokenizer(model.scratch.characters, context=model.scratch.context)
    else:
        tokenizer = _pretrained_tokenizer(str(model.path), model.revision, beside or Path())
    set_chat_template(tokenizer, model.chat_template, beside)
    return tokenizer


@lent(FOR_THE_HUB)
def _pretrained_tokenizer(path: str, revision: str | None, beside: Path) -> Any:
    from transformers import AutoTokenizer

    from alignkit.models.load import tokenizer_place
    from alignkit.models.tokenizer import recognise

    try:
        place = tokenizer_place(path, beside, revision)
        return recognise(AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False))
    except (OSError, ValueError) as error:
        line = first_line(error)
        raise ContentError(
            f"model.path: no tokenizer at '{path}': {line}; check the name, or download it while online"
        ) from error


def _as_rollout(task: Task, number: int) -> Rollout:
    text = str(task.reference)
    turn = Turn(prompt_ids=(), completion_ids=(), sampler_logprobs=(), stop=StopReason.END_OF_TEXT, text=text)
    return Rollout(task=task, group=number, member=0, turns=(turn,), policy_version=0)


def _means(scores: Sequence[Score]) -> dict[str, float | None]:
    """Mean of the blend (`total`) and of each part, over the scores that have it; None where none has."""
    columns: dict[str, list[float | None]] = {"total": [score.value for score in scores]}
    for score in scores:
        for name, value in score.parts.items():
            columns.setdefault(name, []).append(value)
    means: dict[str, float | None] = {}
    for name, column in columns.items():
        known = [value for value in column if value is not None]
        means[name] = sum(known) / len(known) if known else None
    return means


def _cause(score: Score) -> str:
    fault = score.fault
    return f"{fault.kind.value} in {fault.where} {fault.message}".strip() if fault else "no cause given"
