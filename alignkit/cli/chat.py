"""`alignkit chat`: a conversation with a trained model."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from alignkit.errors import AlignkitError

if TYPE_CHECKING:
    from alignkit.run.talk.conversation import Conversation

HELP = "/new begins anew, /system TEXT too with a system message, /quit or Ctrl-D leaves"


def chat(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder, a hub id, or smollm2-135m-instruct.")],
    compare: Annotated[str | None, typer.Option(help="A second model, asked the same.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy; default: as in training.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    system: Annotated[str | None, typer.Option(help="System message; default: as in training.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Names all randomness.")] = 0,
) -> None:
    """Talk to a trained model. Answers are shown as they come, with the rewards that the run's recipe has."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from alignkit.rewards.pool.pool import RewardPool
    from alignkit.run.talk.conversation import Conversation
    from alignkit.run.talk.talker import Talker
    from alignkit.run.talk.trained import Trained

    found = [Trained.find(name) for name in (model, compare) if name is not None]
    first = found[0]
    with contextlib.ExitStack() as resources:
        pool = None
        if first.rewards:
            pool = RewardPool(first.rewards, workers=1, beside=first.beside)
            resources.callback(pool.close)
        conversation = Conversation(
            talkers=[Talker(one) for one in found],
            pool=pool,
            temperature=first.temperature if temperature is None else temperature,
            max_new_tokens=max_tokens or first.max_new_tokens,
            seed=seed,
            system=first.data.system if system is None else system,
        )
        asks = os.isatty(0)
        if asks:
            typer.echo(HELP, err=True)
        while (line := _line(asks)) is not None:
            command, _, rest = line.partition(" ")
            if command == "/quit":
                return
            if command in ("/new", "/system"):
                conversation.system = rest if command == "/system" else conversation.system
                conversation.begin()
            elif command.startswith("/"):
                typer.echo(HELP, err=True)
            elif line:
                _answer(conversation, line, [one.name for one in found])


def _line(asks: bool) -> str | None:
    """The next line of input; None at its end."""
    if asks:
        sys.stderr.write("> ")
        sys.stderr.flush()
    try:
        return input().strip()
    except EOFError:
        return None


def _answer(conversation: Conversation, line: str, names: list[str]) -> None:
    last = -1

    def told(number: int, piece: str) -> None:
        nonlocal last
        if number != last and len(names) > 1:
            typer.echo(f"{'' if last < 0 else chr(10)}[{names[number]}] ", nl=False)
        last = number
        typer.echo(piece, nl=False)
        sys.stdout.flush()

    try:
        answers = conversation.ask(line, told)
    except AlignkitError as error:
        typer.echo(f"\n{error}", err=True)
        return
    typer.echo("")
    for name, answer in zip(names, answers, strict=True):
        if answer.judged:
            typer.echo(f"  reward{f' of {name}' if len(names) > 1 else ''}: {answer.judged}")
