"""Takes the fingerprints of everything that a recipe names and that could change between two starts of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignkit.data.sources import first_window, load_tasks
from alignkit.evaluate.benchmark.grade import scorer_files, scorer_hash
from alignkit.models.fingerprint import fingerprint_file, fingerprint_folder
from alignkit.models.load import locate
from alignkit.recipe.lookup.data_file import data_file
from alignkit.recipe.lookup.find import find
from alignkit.recipe.lookup.source_files import source_files
from alignkit.recipe.schema import Data, Recipe
from alignkit.run.check.named_models import named_models
from alignkit.run.evaluate.evaluate import plan
from alignkit.run.train.build import Policy, beside
from alignkit.train.inputs import Input
from alignkit.types.task import Task


def inputs_of(recipe: Recipe, policy: Policy) -> list[Input]:
    """Everything that `--resume` must find unchanged: rows as loaded, files, models, tokenizer and chat template.

    policy: as just loaded. Reads every data file once. Raises what loading a recipe's data, rewards or suite raises.
    """
    return [
        *_data(recipe),
        *_evaluation(recipe),
        *_files(recipe),
        *_words(recipe, policy),
        *_models(recipe),
    ]


def _data(recipe: Recipe) -> Iterator[Input]:
    seen: set[str] = set()
    for stage in recipe.stages:
        key = stage.data.model_dump_json()
        if key not in seen:
            seen.add(key)
            of = f" of stage {stage.name}" if len(recipe.stages) > 1 else ""
            yield from _rows("data", stage.data, of, recipe)


def _evaluation(recipe: Recipe) -> Iterator[Input]:
    settings = recipe.evaluation
    if settings is None:
        return
    if settings.data is not None:
        yield from _rows("evaluation", settings.data, "", recipe)
    if settings.suite is not None:
        folder = beside(recipe)
        parts = {}
        for job in plan(settings.suite, (), limit=settings.limit, seed=recipe.seed, data=folder, beside=folder).jobs:
            named = job.named
            parts |= {named.name: named.hash, f"questions of {named.name}": _ordered(map(_content, job.tasks))}
            for metric in named.protocol.metrics.values():
                parts[f"{metric.reward} of {named.name}"] = scorer_hash(metric, named.file.parent)
        yield Input(kind="evaluation", name=settings.suite, parts=parts)


def _rows(kind: str, data: Data, of: str, recipe: Recipe) -> Iterator[Input]:
    """One Input for each source: of a mixture its parts, which the column `source` tells apart; of windows the first
    one's rows."""
    tasks = load_tasks(first_window(data), seed=recipe.seed, beside=beside(recipe))
    parts = {name: (f"{rows.source} ({name}){of}", rows.source) for name, rows in data.mixture.items()}
    for part, (name, source) in (parts or {"": (f"{data.source}{of}", data.source)}).items():
        own = [_content(task) for task in tasks if not parts or task.columns.get("source") == part]
        total = sum(int.from_bytes(content) for content in own) % 2**128
        file = None if source.startswith(("generator:", "hub:")) else data_file(source, beside(recipe))
        yield Input(
            kind=kind,
            name=name,
            parts={"rows": f"{total:032x}"},
            rows=len(own),
            order=_ordered(own),
            place=str(file.resolve()) if file else None,
            written=file.stat().st_mtime if file else None,
        )


def _ordered(contents: Iterable[bytes]) -> str:
    return hashlib.blake2b(b"".join(contents), digest_size=16).hexdigest()


def _content(task: Task) -> bytes:
    """Hash of all that a task says; its id, which names the place in the source, is no content."""
    columns = sorted(task.columns.items(), key=lambda pair: str(pair[0]))
    content = [task.messages, task.text, task.reference, columns]
    text = json.dumps(content, default=_plain, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else repr(value)


def _files(recipe: Recipe) -> Iterator[Input]:
    """Python files of rewards, environments, tools and algorithms, and the files and models that their options name."""
    wanted: dict[tuple[str, str], list[Any]] = {}
    for stage in recipe.stages:
        for spec in stage.rewards:
            wanted.setdefault(("rewards", spec.name), []).append(spec.options)
        if stage.environment is not None:
            if stage.environment.name is not None:
                wanted.setdefault(("environments", stage.environment.name), []).append(stage.environment.options)
            if isinstance(stage.environment.program, str):
                wanted.setdefault(("environments", stage.environment.program), []).append({})
            for tool in stage.environment.tools:
                wanted.setdefault(("tools", tool.name), []).append(tool.options)
        wanted.setdefault(("algorithms", str(stage.algorithm["type"])), []).append(stage.algorithm)
        if stage.environment is not None and isinstance(stage.environment.program, tuple):
            named = [_named(word, beside(recipe)) for word in stage.environment.program]
            parts = {name: digest for one in named for name, digest in one.items()}
            yield Input(kind="environments", name=stage.environment.title, parts=parts)
    for (kind, name), options in wanted.items():
        path = find(kind, name, beside=beside(recipe)).path
        files = [*source_files(path), *scorer_files(path)]
        parts = {_relative(file, path.parent): fingerprint_file(file) for file in files}
        for value in _texts(options):
            parts |= _named(value, beside(recipe))
        newest = max(file.stat().st_mtime for file in files)
        yield Input(kind=kind, name=name, parts=parts, place=str(path), written=newest)


def _relative(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _named(value: str, folder: Path | None) -> dict[str, str]:
    """The hash of a file, or of the files of a model, when an option names one."""
    if not value or len(value) > 1000 or "\n" in value:
        return {}
    for place in ((folder or Path()) / Path(value).expanduser(), Path(value).expanduser()):
        try:
            if place.is_file():
                return {value: fingerprint_file(place)}
            if (place / "config.json").is_file() or (place / "adapter_config.json").is_file():
                return {f"{value}/{name}": digest for name, digest in fingerprint_folder(place).items()}
        except (OSError, ValueError):
            continue  # no name that a file could have
    return {}


def _words(recipe: Recipe, policy: Policy) -> Iterator[Input]:
    """The tokenizer and the chat template, as loaded."""
    tokenizer = policy.tokenizer
    name = recipe.model.path or "of model.scratch"
    inner = getattr(tokenizer, "backend_tokenizer", None)
    whole = inner.to_str() if inner is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps({key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())})
    parts = {"vocabulary and rules": _digest(whole), "special tokens": _digest(special)}
    yield Input(kind="tokenizer", name=name, parts=parts)
    given = recipe.model.chat_template
    named = given if given and "\n" not in given and len(given) < 200 else f"of {name}"
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    yield Input(kind="template", name=named, parts={named: _digest(template)})


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=16).hexdigest()


def _models(recipe: Recipe) -> Iterator[Input]:
    """Every model that the recipe names: the policy's, the reference, critics and guides."""
    for kind, path, revision in dict.fromkeys((one.kind, one.path, one.revision) for one in named_models(recipe)):
        folder = _folder(path, revision, beside(recipe))
        if folder is not None:
            files = [file for file in folder.iterdir() if file.name.endswith((".safetensors", "config.json"))]
            newest = max((file.stat().st_mtime for file in files), default=None)
            parts = fingerprint_folder(folder)
            yield Input(kind=kind, name=path, parts=parts, place=str(folder.resolve()), written=newest)


def _folder(path: str, revision: str | None, beside: Path | None) -> Path | None:
    """Where a model lies on this machine; None of one of the hub that was not fetched yet."""
    located = locate(path, beside)
    if Path(located).is_dir():
        return Path(located)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(located, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None
