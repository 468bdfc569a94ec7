"""`alignkit init`: writes a recipe of one's own, the shelf's recipe of a method with the answers to some questions."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.output import JsonOption, print_json
from alignkit.errors import AlignkitError, ContentError, RecipeError
from alignkit.recipe.lookup.editor_line import with_editor_line
from alignkit.recipe.lookup.find import find
from alignkit.recipe.lookup.methods import methods
from alignkit.recipe.read import read_recipe

TEN_TIMES = re.compile(r"(?m)^  lr: \S+  # with model\.lora\.rank=16 .*?optimizer\.lr=([^)]+)\).*$")


def init(
    file: Annotated[Path, typer.Argument(help="The recipe to write, a new .yaml file.")],
    method: Annotated[str | None, typer.Option(help="sft, dpo, grpo, ... as `alignkit ls recipes` lists them.")] = None,
    model: Annotated[str | None, typer.Option(help="A folder or a model of the hub, ORG/NAME.")] = None,
    data: Annotated[str | None, typer.Option(help="A file, hub:ORG/NAME or ./file.py:NAME.")] = None,
    reward: Annotated[str | None, typer.Option(help="For methods that sample: a name or ./file.py:NAME.")] = None,
    lora: Annotated[int | None, typer.Option(min=0, help="Rank of a LoRA adapter; 0 trains all weights.")] = None,
    launch: Annotated[str | None, typer.Option(help="Launch profile; empty: this process alone.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a commented recipe for your own model and data. What no option says is asked."""
    if file.suffix not in (".yaml", ".yml"):
        raise ContentError(f"{file}: a recipe is a .yaml file; name one")
    if file.exists():
        raise ContentError(f"{file} exists already and is left alone; name another file")
    method = _asked(method, "Method", f"one of {', '.join(methods())}", "sft")
    text = _text_of(method)
    settings = {"model.path": _asked(model, "Model", "a folder or ORG/NAME of the hub", None)}
    if "data.source=FILE" in text:
        settings["data.source"] = _asked(data, "Data", "a file, hub:ORG/NAME or ./file.py:NAME", None)
    if "\nrewards:" in text:
        settings["rewards.0.name"] = _asked(
            reward, "Reward", "a name of `alignkit ls rewards` or ./file.py:NAME", "math_answer"
        )
    rank = lora if lora is not None else _rank(_asked(None, "LoRA rank", "0 trains all weights", "16"))
    settings |= {"model.lora.rank": str(rank)} if rank else {}
    settings["launch"] = _asked(launch, "Launch profile", "of `alignkit ls launch`; empty: this process alone", "")
    written = filled(with_editor_line(text, file), {key: value for key, value in settings.items() if value}, file)
    _checked(written, file)
    file.write_text(written, encoding="utf-8")
    if as_json:
        print_json({"recipe": str(file), "method": method, "settings": settings})
    else:
        typer.echo(f"wrote {file}; next: alignkit check {file}, then alignkit train {file}")


def filled(text: str, settings: Mapping[str, str], file: Path) -> str:
    """A method's recipe with the settings in their sections, comments kept, and the rate that goes with LoRA."""
    text = re.sub(r"(?m)^#   command .*$", lambda _: f"#   command    alignkit train {file}", text)
    text = re.sub(r"`alignkit check \S+ \.\.\. ", lambda _: f"`alignkit check {file} ", text)
    rank = settings.get("model.lora.rank")
    if rank and (found := TEN_TIMES.search(text)):
        text = text.replace(found[0], f"  lr: {found[1]}  # of an adapter; all weights take a tenth of it")
    else:
        text = re.sub(r"(?m)^(  lr: \S+)  # with model\.lora.*$", r"\1", text)
    lora = f"  lora: {{rank: {rank}}}\n" if rank else ""
    text = text.replace("model:\n", f"model:\n  path: {_yaml(settings['model.path'])}\n{lora}", 1)
    if "data.source" in settings:
        text = re.sub(
            r"(?m)^data:(.*)$", lambda m: f"data:{m[1]}\n  source: {_yaml(settings['data.source'])}", text, count=1
        )
    if "rewards.0.name" in settings:
        text = re.sub(r"(?m)^  - name: .*$", lambda _: f"  - name: {_yaml(settings['rewards.0.name'])}", text, count=1)
    return text + (f"launch: {_yaml(settings['launch'])}\n" if "launch" in settings else "")


def _yaml(value: str) -> str:
    """A string of YAML: plain where nothing in it could be read as something else."""
    return value if re.fullmatch(r"[A-Za-z./~][\w./~-]*(:[\w./-]+)?", value) else json.dumps(value, ensure_ascii=False)


def _text_of(method: str) -> str:
    if method not in methods():
        raise ContentError(f"no method is called '{method}'; there are {', '.join(methods())}")
    return find("recipes", method).path.read_text(encoding="utf-8")


def _asked(given: str | None, what: str, help_: str, default: str | None) -> str:
    """The option, or the answer to a question. Without a terminal only what has a default may be left out."""
    if given is not None:
        return given
    if not os.isatty(0):
        if default is None:
            raise AlignkitError(f"init: no --{what.lower()} and nobody to ask; give it ({help_})")
        return default
    return typer.prompt(f"{what} ({help_})", default=default, err=True, type=str)


def _rank(answer: str) -> int:
    if not answer.isdecimal():
        raise AlignkitError(f"init: the rank of an adapter is a whole number; got '{answer}'")
    return int(answer)


def _checked(text: str, file: Path) -> None:
    """Raises RecipeError with what `alignkit check` would say of the file, before it is written."""
    with _beside(file) as draft:
        draft.write_text(text, encoding="utf-8")
        try:
            read_recipe(draft)
        except RecipeError as error:
            problems = [problem.replace(draft.name, file.name) for problem in error.problems]
            raise RecipeError(problems) from error


@contextlib.contextmanager
def _beside(file: Path) -> Generator[Path]:
    """A file in the same folder, from which relative paths hold."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.stem}-", suffix=".yaml", dir=file.parent)
    except OSError as error:
        raise ContentError(f"{file} cannot be written: {error.strerror}") from error
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
