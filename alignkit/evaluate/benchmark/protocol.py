"""What a benchmark is: one YAML file with its data, prompt, sampling, metrics and published numbers, hashed.

Two results may be compared when their protocol hashes are equal. The hash covers every setting but `about`, `licence`
and `reference`, which change no answer and no score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from alignkit.errors import RecipeError
from alignkit.recipe.document import read_document
from alignkit.recipe.lookup.find import find, find_suite
from alignkit.recipe.problems import Located, explain_validation
from alignkit.recipe.schema import Section

NOT_HASHED = ("about", "licence", "reference")
Sha256 = Field(default=None, pattern="^[0-9a-f]{64}$")
AnySection = TypeVar("AnySection", bound=Section)


class Source(Section):
    """Where the rows are: a file in a data folder, else the hub; or a generator."""

    file: str | None = None
    """Path inside a data folder (`--data`, $ALIGNKIT_DATA); with or without `.gz` on the disk."""
    sha256: str | None = Sha256
    """Of the file's uncompressed bytes."""
    url: str | None = None
    """Where the file can be fetched, at a pinned revision."""
    hub: str | None = None
    """Hub id of the same rows, used when no data folder has the file."""
    config: str | None = None
    """Configuration of the hub dataset."""
    split: str = "test"
    """Split of the hub dataset."""
    revision: str | None = None
    """Commit of the hub dataset."""
    tasks_sha256: str | None = Sha256
    """Of the questions and gold answers, in order: rows from the hub must give the same."""
    generator: str | None = None
    """Rows that are made, not read: a generator of alignkit.data.generators."""
    options: dict[str, Any] = Field(default={})
    """Arguments of the generator."""
    keep: dict[str, tuple[str, ...]] = Field(default={})
    """Keeps only rows whose column has one of these values."""

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        if (self.file is None) == (self.generator is None):
            raise ValueError("give exactly one of `file` and `generator`")
        if self.file and not self.sha256:
            raise ValueError("a `file` needs its `sha256`")
        if self.hub and not self.tasks_sha256:
            raise ValueError("a `hub` dataset needs `tasks_sha256`, by which its rows are checked")
        return self


class Shots(Section):
    """Worked examples before the question."""

    rows: tuple[dict[str, Any], ...] = ()
    """The examples themselves."""
    source: Source | None = None
    """Or: where they are drawn from, anew for every task."""
    count: PositiveInt | None = None
    """How many are drawn."""
    seed: int = 1234
    """Seeds the drawing, which is lm-eval's: one Python random stream over all tasks in order."""
    answer: str
    """Template of an example's answer, put straight after its question."""
    separator: str = "\n\n"
    """Between examples, and before the question."""

    @model_validator(mode="after")
    def _one_kind(self) -> Shots:
        if bool(self.rows) == bool(self.source) or bool(self.source) != bool(self.count):
            raise ValueError("give either `rows`, or `source` with `count`")
        return self


class Prompt(Section):
    chat: bool
    """True: one user message in the model's chat template. False: the text as it is, for a model to continue."""
    template: str
    """Jinja template over the row's columns."""
    system: str | None = None
    """System message."""
    shots: Shots | None = None

    @model_validator(mode="after")
    def _system_needs_chat(self) -> Prompt:
        if self.system is not None and not self.chat:
            raise ValueError("`system` needs `chat: true`")
        return self


class Sampling(Section):
    max_new_tokens: PositiveInt
    """Longest completion, in tokens; what is cut off is counted as truncated."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy. There is no top-p and no top-k."""
    samples: PositiveInt = 1
    """Completions per task."""
    stop: tuple[str, ...] = ()
    """A completion is cut before the first of these texts."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Sampling:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 all samples of a task are the same; raise it or set samples to 1")
        return self


class MetricSpec(Section):
    """A reward that grades: training and evaluation use the same files."""

    reward: str
    """Name on the shelf, or `./file.py:name`."""
    options: dict[str, Any] = Field(default={})
    """Keyword arguments of the reward."""
    deadline_s: PositiveFloat = 10.0
    """Seconds for one answer."""


class Published(Section):
    """A number that others report for this protocol."""

    model: str
    metric: str
    value: float
    source: str


class Protocol(Section):
    version: PositiveInt
    """Raised whenever a result could change."""
    about: str
    category: Literal["math", "safety", "reward", "knowledge", "code", "instructions"]
    licence: str
    """Of the data."""
    source: Source
    prompt: Prompt | None = None
    """How a row is asked. `pairs` needs none but a `question`."""
    gold: str | None = None
    """Jinja expression over the row's columns: the reference answer."""
    id: str | None = None
    """Jinja expression that names a row; default: its number."""
    group: str | None = None
    """Jinja expression: the category under which the row is also reported."""
    columns: dict[str, str] = Field(default={})
    """More columns for the rewards, each a Jinja expression over the row's."""
    sampling: Sampling | None = None
    measure: Literal["answers", "refusals", "choices", "pairs"] = "answers"
    """answers: share of right answers. refusals: harm and over-refusal, by gold `comply` or `refuse`. choices: which of
    `columns.choices` is most likely. pairs: whether a reward prefers `columns.chosen` to `columns.rejected`."""
    metrics: dict[str, MetricSpec] = Field(default={})
    """The first is the benchmark's main number."""
    control: str | None = None
    """Protocol of harmless prompts: gives the over-refusal rate without which no harm rate is printed."""
    reference: tuple[Published, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Protocol:
        if self.prompt is None:
            raise ValueError("`prompt` is missing")
        if self.measure in ("answers", "refusals") and not (self.sampling and self.metrics):
            raise ValueError(f"measure `{self.measure}` needs `sampling` and `metrics`")
        if self.measure == "choices" and not ("choices" in self.columns and self.gold):
            raise ValueError("measure `choices` needs `columns.choices` and `gold`")
        if self.measure == "pairs" and not {"chosen", "rejected"} <= set(self.columns):
            raise ValueError("measure `pairs` needs `columns.chosen` and `columns.rejected`")
        return self


class Part(Section):
    """One protocol of a suite."""

    protocol: str
    limit: PositiveInt | None = None
    """A seeded subset of this many tasks."""


class Suite(Section):
    about: str
    parts: tuple[Part, ...]


class Named:
    """A protocol with its name on the shelf (or its file's stem) and its hash."""

    def __init__(self, name: str, protocol: Protocol, file: Path):
        self.name, self.protocol, self.file = name, protocol, file
        self.fields: dict[str, Any] = protocol.model_dump(mode="json")
        self.hash = protocol_hash(self.fields)


def protocol_hash(fields: Mapping[str, Any]) -> str:
    """Hex digest of all settings that could change a result."""
    matters = {name: value for name, value in fields.items() if name not in NOT_HASHED}
    return hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()[:16]


def read_protocol(name: str, *, beside: Path | None = None) -> Named:
    """The protocol behind a file (`./mine.yaml`) or a name of `alignkit ls evals`.

    Raises ContentError when there is none, RecipeError with one `file:line: key: problem` line per mistake.
    """
    found = find("evals", name, beside=beside)
    return Named(found.name, _read(found.path, Protocol), found.path)


def read_suite(name: str, *, beside: Path | None = None) -> tuple[Path, Suite]:
    """(file, Suite) of a file or a name such as `quick`. Raises ContentError, RecipeError."""
    path = find_suite(name, beside=beside).path
    return path, _read(path, Suite)


def chosen_protocols(
    suite: str | None, tasks: Sequence[str], *, beside: Path | None = None
) -> tuple[str, list[tuple[Named, int | None]]]:
    """(name of the result folder, the protocols with their limits), controls of harm rates included, each once.

    beside: the folder for relative names; those in a suite are taken from the suite's own.
    """
    name, wanted = "", [(task, None) for task in tasks]
    if suite is not None:
        file, read = read_suite(suite, beside=beside)
        name, beside = file.stem, file.parent
        wanted = [(part.protocol, part.limit) for part in read.parts]
    result: dict[str, tuple[Named, int | None]] = {}
    for protocol, limit in wanted:
        named = read_protocol(protocol, beside=beside)
        result.setdefault(named.name, (named, limit))
    name = name or "+".join(result)
    for named, _ in [*result.values()]:
        if named.protocol.control:
            control = read_protocol(named.protocol.control, beside=named.file.parent)
            result.setdefault(control.name, (control, None))
    return name, list(result.values())


def _read(path: Path, model: type[AnySection]) -> AnySection:
    document = read_document(path, path.name)
    try:
        return model.model_validate(document.tree)
    except ValidationError as error:
        located = Located(document.places)
        explain_validation(error, model=model, tree=document.tree, base=(), top=model, located=located)
        raise RecipeError(located.lines()) from error
