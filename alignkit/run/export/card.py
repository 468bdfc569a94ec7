"""The model card of an export, from what the run recorded: base, method, data, evaluation, versions, recipe."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from alignkit.evaluate.results.before_after import compare_results
from alignkit.recipe.lookup.secrets import is_secret
from alignkit.report.clean_text import one_line
from alignkit.report.run_data import RunData, read_run, versions
from alignkit.run_folder.json_lines import read_tolerant

HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
MACHINE = ("platform", "cpu cores")  # is nobody's business who reads the card
LEFT_OUT = "(left out)"
USE = {
    "merged": "`AutoModelForCausalLM.from_pretrained(FOLDER)`, or any engine that reads such folders.",
    "adapter": "`PeftModel.from_pretrained(base, FOLDER)`.",
    "gguf": "llama.cpp and what is built on it: `llama-server -m FILE.gguf --jinja`.",
    "ollama": "`ollama create NAME -f Modelfile`, then `ollama run NAME`.",
    "hub": "`AutoModelForCausalLM.from_pretrained(REPOSITORY)`.",
}

QUANTIZED = (
    'Its base was read with `BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="{kind}", '
    "bnb_4bit_use_double_quant=True)`; around one in more digits it says something slightly different."
)


def card(run: Path | None, *, name: str, to: str, dtype: str, gaps: Mapping[str, float]) -> str:
    """Markdown with YAML front matter. run: None where no run is known: then it says what was written, no more."""
    data = read_run(run) if run is not None else None
    recipe = data.recipe if data else {}
    quantized = to == "adapter" and (recipe.get("model") or {}).get("quantization")
    use = f"{USE[to]} {QUANTIZED.format(kind=quantized)}" if quantized else USE[to]
    parts = [_front(recipe, to), f"# {one_line(name)}", "", *_origin(recipe, data), f"How to use it: {use}", ""]
    if data:
        parts += ["## Data", "", *_data(recipe, data), "", "## Evaluation", "", *_evaluation(data), ""]
    said = ", ".join(f"{gap:.2g} ({what})" for what, gap in gaps.items())
    parts += [
        "## Proof",
        "",
        f"Stored as {dtype}. What was written was read back and compared with the trained model on a fixed probe; mean "
        f"difference of log-probs in nats a token: {said}. Chat template, tokens and stop tokens are the model's.",
        "",
    ]
    if data:
        packages = ", ".join(
            f"{package} {number}" for package, number in versions(data.events).items() if package not in MACHINE
        )
        parts += ["## Versions", "", packages or "Not recorded.", "", "## Recipe", "", "```json"]
        parts += [json.dumps(without_secrets(recipe), indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(parts)


def without_secrets(value: Any, name: str = "") -> Any:
    """A recipe with every text that looks like a secret left out, by its key or by what it says."""
    if isinstance(value, Mapping):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_secrets(inner, name) for inner in value]
    if isinstance(value, str):
        return LEFT_OUT if is_secret(name, value) else value.replace(str(Path.home()), "~")
    return value


def _front(recipe: Mapping[str, Any], to: str) -> str:
    """What the hub reads; only names that are the hub's."""
    base, sources = _base(recipe), [source.removeprefix("hub:") for source in _sources(recipe) if source[:4] == "hub:"]
    said: dict[str, Any] = {
        "library_name": "peft" if to == "adapter" else "gguf" if to in ("gguf", "ollama") else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["alignkit", *_methods(recipe)],
    }
    if base and HUB_NAME.fullmatch(base) and not Path(base).exists():
        said["base_model"] = base
    if sources:
        said["datasets"] = sources
    page = io.StringIO()
    YAML().dump(said, page)
    return f"---\n{page.getvalue()}---\n"


def _origin(recipe: Mapping[str, Any], data: RunData | None) -> Iterator[str]:
    if data is None:
        return
    methods = " then ".join(_methods(recipe)) or "a method that its recipe does not name"
    start = _base(recipe) or "weights drawn at random"
    model = recipe.get("model") or {}
    lora = "" if not model.get("lora") else " with QLoRA" if model.get("quantization") else " with LoRA"
    yield f"Trained from {one_line(start)} by {methods}{lora}, {len(data.metrics):,} steps, with alignkit."
    yield ""


def _data(recipe: Mapping[str, Any], data: RunData) -> Iterator[str]:
    taken, _ = read_tolerant(data.path / "ledger.jsonl") if (data.path / "ledger.jsonl").is_file() else ([], 0)
    tasks = [task for line in taken for task in line.get("task_ids", [])]
    for source in dict.fromkeys(_sources(recipe)):
        yield f"- {one_line(source)}"
    yield f"- taken: {len(tasks):,}, of them different: {len(set(map(str, tasks))):,}"


def _evaluation(data: RunData) -> Iterator[str]:
    """The run's own comparison of before with after, as its report says it."""
    if len(data.evaluations) < 2:
        yield "The run evaluated nothing before and after."
        return
    first, last = data.evaluations[0]["results"], data.evaluations[-1]["results"]
    comparison, _ = compare_results(first, last, seed=int(data.recipe.get("seed") or 0))
    yield f"Held-out answers, {comparison.sentence}"


def _base(recipe: Mapping[str, Any]) -> str | None:
    path = (recipe.get("model") or {}).get("path")
    return path.replace(str(Path.home()), "~") if path else None


def _methods(recipe: Mapping[str, Any]) -> list[str]:
    stages: Sequence[Mapping[str, Any]] = recipe.get("stages") or ()
    named = [str((stage.get("algorithm") or {}).get("type", "")) for stage in stages]
    return list(dict.fromkeys(Path(name).stem for name in named if name))


def _sources(recipe: Mapping[str, Any]) -> list[str]:
    """Names of all the data that was learnt from."""
    found: list[str] = []
    for stage in recipe.get("stages") or ():
        section = stage.get("data") or {}
        parts = [section, *(section.get("mixture") or {}).values()]
        found += [str(part["source"]) for part in parts if part.get("source")]
    return [source.replace(str(Path.home()), "~") for source in found]
