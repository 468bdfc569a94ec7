"""Results to compare: our own eval folders, logs of lm-eval, logs of inspect; told apart by what is in them.

A task's id ends with a hash of its question and answer, so that only tasks of the same content are paired.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import DataError
from alignkit.evaluate.benchmark.many_samples import avg_at_k
from alignkit.evaluate.results.eval_folder import (
    EvalFolder,
    EvalResult,
    MetricResult,
    Sample,
    is_eval_folder,
    read_eval_folder,
)

LM_EVAL_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
LM_EVAL_ROW = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics")
LM_EVAL_ROW += ("doc_hash", "prompt_hash", "target_hash")
NOT_COMPARED = ("metadata", "task", "tag", "task_alias", "dataset_kwargs", "description_dict")
"""Settings of an lm-eval task that name the model or the files, not the measurement."""
INSPECT_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Inspect's own numbers for correct, incorrect, partial and no answer."""


def read_results(path: Path) -> EvalFolder:
    """An eval folder, a folder or file of lm-eval samples, or a folder or file of inspect logs.

    Raises DataError when the path holds none of these, or logs that cannot be read.
    """
    if is_eval_folder(path):
        return read_eval_folder(path)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    try:
        results = [_lm_eval_result(file) for file in _newest(files)] or [
            _inspect_result(log)
            for file in files
            if file.suffix in (".json", ".eval") and (log := _inspect_log(file)) is not None
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: a log in it is not as lm-eval or inspect writes them: {error!r}") from error
    if not results:
        raise DataError(f"{path}: holds no result.json, no lm-eval samples_*.jsonl (--log_samples) and no inspect log")
    names = [result.protocol for result in results]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise DataError(f"{path}: holds two logs of {twice}; name the file of one of them")
    return EvalFolder(path=path, results={result.protocol: result for result in results})


def _newest(files: Iterable[Path]) -> list[Path]:
    """The newest file of every task: lm-eval adds files with a date to a folder that it is given again."""
    named = [(found.group("date"), found.group("task"), file) for file in files if (found := _samples_name(file))]
    return list({task: file for _, task, file in sorted(named)}.values())


def _samples_name(file: Path) -> re.Match[str] | None:
    return LM_EVAL_SAMPLES.fullmatch(file.name)


def _lm_eval_result(file: Path) -> EvalResult:
    """One task of lm-eval. Each (metric, filter) is a metric `filter/metric`, or `metric` where nothing is filtered."""
    found = _samples_name(file)
    assert found, "_newest gives files of this name"
    task, date = found.group("task"), found.group("date")
    rows = _json_lines(file)
    run = _lm_eval_run(file.with_name(f"results_{date}.json"))
    higher: Mapping[str, bool] = (run.get("higher_is_better") or {}).get(task) or {}
    lower: dict[str, bool] = {}
    parts: dict[str, dict[str, float]] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        name = f"{row['doc_id']}-{_hash([row.get('doc_hash'), row.get('target_hash')])[:6]}"
        first.setdefault(name, row)
        for metric, value in row.items():
            if metric not in LM_EVAL_ROW and isinstance(value, bool | int | float):
                told = metric if row.get("filter", "none") == "none" else f"{row['filter']}/{metric}"
                parts.setdefault(name, {})[told] = float(value)
                if higher.get(metric) is not None:
                    lower[told] = not higher[metric]
    samples = [
        Sample(task_id=name, prompt=_lm_eval_prompt(row), completion=_lm_eval_answer(row), parts=parts.get(name, {}))
        for name, row in first.items()
    ]
    fields = _lm_eval_fields(run, task)
    return EvalResult(
        protocol=task,
        protocol_hash=_hash(fields),
        protocol_fields=fields,
        model=str(run.get("model_name") or ""),
        engine=f"lm-eval {run.get('lm_eval_version') or ''} {run.get('model_source') or ''}".strip(),
        metrics=_metrics(samples),
        lower_is_better=lower,
        counts={"samples": len(samples), "tasks": len(samples), "empty": sum(not s.completion for s in samples)},
        samples=samples,
    )


def _lm_eval_run(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _lm_eval_fields(run: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What decides an lm-eval number, as far as its logs tell."""
    config = (run.get("configs") or {}).get(task) or {}
    return {
        "harness": "lm-eval",
        "version": (run.get("versions") or {}).get(task),
        "num_fewshot": (run.get("n-shot") or {}).get(task),
        "chat_template": run.get("chat_template") is not None,
        "fewshot_as_multiturn": run.get("fewshot_as_multiturn"),
        "system_instruction": run.get("system_instruction"),
        "task": {name: value for name, value in config.items() if name not in NOT_COMPARED},
    }


def _lm_eval_prompt(row: Mapping[str, Any]) -> str:
    arguments = row.get("arguments")
    first = next(iter(arguments.values()), {}) if isinstance(arguments, Mapping) else (arguments or [[""]])[0]
    return str(first.get("arg_0", "") if isinstance(first, Mapping) else first[0])


def _lm_eval_answer(row: Mapping[str, Any]) -> str:
    """The text that was generated; nothing for tasks that compare likelihoods."""
    value = row.get("resps")
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else ""


def _inspect_log(file: Path) -> dict[str, Any] | None:
    """An inspect log with its samples, from `.json` or `.eval` (a zip); None for other JSON files."""
    try:
        if file.suffix == ".json":
            log = json.loads(file.read_text(encoding="utf-8"))
        else:
            with zipfile.ZipFile(file) as archive:
                log = json.loads(archive.read("header.json"))
                names = [name for name in archive.namelist() if name.startswith("samples/")]
                log["samples"] = [json.loads(archive.read(name)) for name in names]
    except (OSError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile) as error:
        if file.suffix == ".json":
            return None
        raise DataError(
            f"{file}: cannot be read ({error}); `inspect log convert --to json` makes a file that can"
        ) from error
    is_log = isinstance(log, dict) and isinstance(log.get("eval"), dict) and isinstance(log.get("samples"), list)
    return log if is_log else None


def _inspect_result(log: Mapping[str, Any]) -> EvalResult:
    told = log["eval"]
    samples = [_inspect_sample(sample) for sample in log["samples"]]
    dataset = told.get("dataset") or {}
    fields = {
        "harness": "inspect",
        "task_version": told.get("task_version"),
        "task_args": told.get("task_args") or {},
        "dataset": dataset.get("name"),
        "epochs": (told.get("config") or {}).get("epochs"),
        "plan": (log.get("plan") or {}).get("steps"),
        "generation": (log.get("plan") or {}).get("config"),
        "scorers": told.get("scorers"),
    }
    return EvalResult(
        protocol=str(told["task"]),
        protocol_hash=_hash(fields),
        protocol_fields=fields,
        model=str(told.get("model") or ""),
        engine="inspect",
        metrics=_metrics(samples),
        counts={
            "samples": len(samples),
            "tasks": len({sample.task_id for sample in samples}),
            "failed": sum(sample.outcome == "failed" for sample in samples),
            "truncated": sum(sample.stop == "length" for sample in samples),
            "empty": sum(not sample.completion for sample in samples),
        },
        samples=samples,
    )


def _inspect_sample(sample: Mapping[str, Any]) -> Sample:
    asked, output = sample.get("input"), sample.get("output") or {}
    choice = (output.get("choices") or [{}])[0]
    parts: dict[str, Any] = {}
    for scorer, score in (sample.get("scores") or {}).items():
        value = score.get("value")
        number = INSPECT_VALUES.get(value) if isinstance(value, str) else value
        parts[scorer] = float(number) if isinstance(number, bool | int | float) else None
        if score.get("answer"):
            parts.setdefault("answer", str(score["answer"]))
    return Sample(
        task_id=f"{sample['id']}-{_hash([asked, sample.get('target')])[:6]}",
        sample=int(sample.get("epoch") or 1) - 1,
        prompt=asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False),
        completion=str(output.get("completion") or _content(choice.get("message") or {})),
        stop={"max_tokens": "length"}.get(choice.get("stop_reason"), str(choice.get("stop_reason") or "")),
        outcome="failed" if sample.get("error") else "",
        parts=parts,
    )


def _content(message: Mapping[str, Any]) -> str:
    """The text of a message, which may be in parts."""
    content = message.get("content") or ""
    parts = [part.get("text", "") for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    return "".join(parts) or (content if isinstance(content, str) else "")


def _metrics(samples: Iterable[Sample]) -> dict[str, MetricResult]:
    """The mean of every number in `parts`, tasks as clusters."""
    values: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        for name, value in sample.parts.items():
            if isinstance(value, float):
                values.setdefault(name, {}).setdefault(sample.task_id, []).append(value)
    metrics = {}
    for name, by_task in values.items():
        mean = avg_at_k(list(by_task.values()))
        low, high = (mean.interval.low, mean.interval.high) if mean.interval else (None, None)
        metrics[name] = MetricResult(value=mean.value, low=low, high=high, n=mean.samples)
    return metrics


def _json_lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append(row | {"doc_id": row["doc_id"]})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}:{number}: is no lm-eval sample: {error!r}") from error
    return rows


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
