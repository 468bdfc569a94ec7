"""`alignkit sample`: answers of a trained model to a file of prompts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.output import EngineOption, JsonOption, check_engine, print_json
from alignkit.errors import AlignkitError

if TYPE_CHECKING:
    from alignkit.run.talk.conversation import Answer

SHOWN = 600  # characters of an answer; the file has all of them


def sample(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder, a hub id, or smollm2-135m-instruct.")],
    prompts: Annotated[str, typer.Argument(help="Rows with a prompt or messages: a file or hub:ORG/NAME.")],
    out: Annotated[Path, typer.Option(help="JSON lines; a file that exists is left alone.")] = Path("answers.jsonl"),
    samples: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy; default: as in training.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    engine: EngineOption = "vllm",
    seed: Annotated[int, typer.Option(min=0, help="Names all randomness.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Answer every prompt of a file. Answers are shown as they come, with the rewards that the run's recipe has."""
    if out.exists():
        raise AlignkitError(f"{out} exists already and is left alone; name another --out")
    check_engine(engine)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from alignkit.run.talk.sampled import Sampling
    from alignkit.run.talk.sampled import sample as run_sample
    from alignkit.run.talk.trained import Trained

    trained = Trained.find(model)
    settings = Sampling(
        samples=samples,
        temperature=trained.temperature if temperature is None else temperature,
        max_new_tokens=max_tokens or trained.max_new_tokens,
        engine=engine,
        seed=seed,
    )
    result = run_sample(trained, prompts, settings, out=out, told=None if as_json else _tell)
    if as_json:
        print_json(result)
        return
    mean = result["reward_mean"]
    scored = f"; mean reward of {result['scored']:,} of them {mean:.3f}" if mean is not None else ""
    scored += "".join(f"; {count:,} without a reward, {kind}" for kind, count in result["faults"].items())
    typer.echo(f"{result['answers']:,} answers to {result['prompts']:,} prompts in {out}{scored}")


def _tell(row: dict[str, Any], answer: Answer) -> None:
    """Which prompt, what was said with control characters made visible, and how it was judged."""
    from alignkit.report.clean_text import one_line

    typer.echo(one_line(f"{row['id']} #{row['sample']}: {answer.text}", limit=SHOWN))
    if answer.judged:
        typer.echo(one_line(f"  reward: {answer.judged}"))
    sys.stdout.flush()
