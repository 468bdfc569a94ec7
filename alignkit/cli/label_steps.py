"""`alignkit label-steps`: labels of reasoning steps for process reward models."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.output import JsonOption, OptionsOption, parse_options, print_json, print_table
from alignkit.cli.reward import ColumnOption, DeadlineOption, LimitOption, TemplateOption, WorkersOption
from alignkit.errors import AlignkitError

SPLITS = ("blank_line", "newline", "sentence")


def label_steps(
    rows: Annotated[str, typer.Argument(help="Data file or hub:NAME: `prompt` and `completion` or `steps`.")],
    model: Annotated[str, typer.Argument(help="Rolls out: a folder, a hub id, or smollm2-135m-instruct.")],
    name: Annotated[str, typer.Argument(metavar="REWARD", help="Judges outcomes: a name from `alignkit ls rewards`.")],
    out: Annotated[Path, typer.Option(help="The .jsonl file of labelled solutions; goes on where it ends.")],
    options: OptionsOption = None,
    rollouts: Annotated[int, typer.Option(min=1, help="Roll-outs from the end of each step.")] = 16,
    eta: Annotated[str, typer.Option(help="0: share of successes; above: ER-PRM; inf: any success.")] = "1",
    threshold: Annotated[float, typer.Option(help="Rewards from here on are a success.")] = 0.5,
    solutions: Annotated[int, typer.Option(min=0, help="Sample so many for each prompt; 0: the rows' own.")] = 0,
    split: Annotated[str, typer.Option(help="Steps end at a blank_line, a newline or a sentence.")] = "blank_line",
    pattern: Annotated[str | None, typer.Option(help="A regular expression after which steps end, instead.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest roll-out and longest sampled solution.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the roll-outs and of sampled solutions.")] = 1.0,
    engine: Annotated[str, typer.Option(help="vllm, hf (exact, slow), or the URL of a vLLM server.")] = "vllm",
    chat: Annotated[bool, typer.Option(help="Put prompts into the model's chat template, if it has one.")] = True,
    columns: ColumnOption = None,
    template: TemplateOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = 2,
    deadline: DeadlineOption = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Names all randomness.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Label reasoning steps by rolling out from each one and judging how it ends. Interrupted runs go on."""
    if engine not in ("vllm", "hf") and not engine.startswith(("http://", "https://")):
        raise AlignkitError(f"--engine is {engine}; wanted vllm, hf, or http://HOST:PORT of a vLLM server")
    if split not in SPLITS:
        raise AlignkitError(f"--split is {split}; wanted one of {', '.join(SPLITS)}, or give --pattern")
    from alignkit.recipe.schema import Data, RewardSpec
    from alignkit.rollout.step_rollouts import Labelling
    from alignkit.run.lab.label_steps import label_steps as run_labelling

    renamed = {ours: str(theirs) for ours, theirs in parse_options(columns).items()}
    with _progress() as report:
        result = run_labelling(
            Data(source=rows, columns=renamed, template=template, limit=limit, chat=chat),
            model,
            RewardSpec(name=name, options=parse_options(options), deadline_s=deadline),
            Labelling(
                rollouts=rollouts,
                eta=_number(eta),
                threshold=threshold,
                solutions=solutions,
                split=split,
                pattern=_checked(pattern),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
            ),
            out=out,
            engine=engine,
            workers=workers,
            report=report,
        )
    if as_json:
        print_json(result)
        return
    print_table(("what", "value"), _summary(result))


def _summary(result: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("labelled solutions", f"{result['labelled']} ({result['found']} of them were there)"),
        ("steps", str(result["steps"])),
        ("roll-outs sampled", f"{result['rollouts_sampled']} in {result['seconds']:.0f} s"),
    ]
    if result["labelled"]:
        lines += [("mean label", f"{result['label_mean']:.3f}"), ("right solutions", f"{result['right']:.1%}")]
    lines += [(f"left out: {reason}", str(count)) for reason, count in result["left_out"].items()]
    return [*lines, ("labels", result["out"])]


def _number(text: str) -> float:
    try:
        eta = float(text)
    except ValueError:
        eta = math.nan
    if not eta >= 0:
        raise AlignkitError(f"--eta is {text}; wanted 0, a number above it, or inf")
    return eta


def _checked(pattern: str | None) -> str | None:
    import re

    try:
        re.compile(pattern or "")
    except re.error as error:
        raise AlignkitError(f"--pattern {pattern!r}: not a regular expression: {error}") from error
    return pattern


@contextmanager
def _progress() -> Generator[Any]:
    """A bar over the solutions on stderr, where that is a terminal; a line each tenth of them elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        shown = 0

        def line(done: int, total: int) -> None:
            nonlocal shown
            if done * 10 // total > shown or done == total:
                shown = done * 10 // total
                print(f"label-steps: {done} of {total} solutions", file=sys.stderr)

        yield line
        return
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("solutions", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
