"""`alignkit serve`: a reward, or a trained model, over HTTP."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from alignkit.cli.output import JsonOption, OptionsOption, parse_options

if TYPE_CHECKING:
    from alignkit.run.serve.serve import Address


def serve(
    reward: Annotated[
        str,
        typer.Argument(
            metavar="REWARD|RUN",
            help="A reward: a name from `alignkit ls rewards`, ./file.py:name, ...; or the folder of a run or model.",
        ),
    ],
    options: OptionsOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback needs a certificate.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 8900,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of the TLS certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that run the reward.")] = 2,
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds for one completion.")] = 5.0,
    batch: Annotated[int, typer.Option(min=1, help="Completions per batch, for rewards that hold a model.")] = 64,
    wait_ms: Annotated[float, typer.Option(min=0, help="Longest time a request waits for others to join it.")] = 5.0,
    context: Annotated[int | None, typer.Option(min=1, help="Of a model: longest prompt and answer.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a reward, or a model as OpenAI's API has it, on loopback until Ctrl-C.

    The token is $ALIGNKIT_TOKEN, or made up and printed once.
    """
    from alignkit.run.serve.serve import Address, Scoring, serve_reward

    address = Address(host=host, port=port, certificate=certificate, key=key)
    if Path(reward).is_dir():
        _serve_policy(reward, address, context, as_json=as_json)

    def ready(told: dict[str, Any]) -> None:
        if as_json:
            typer.echo(json.dumps(told))  # one line: scripts read it from the pipe of a process that goes on
        else:
            typer.echo(f"{told['reward']} on {told['url']}, {told['scored']}; stop with Ctrl-C")
            if "token" in told:
                typer.echo(f"token, shown this once: {told['token']}  (clients read it from ALIGNKIT_TOKEN)")
        sys.stdout.flush()

    serve_reward(
        reward,
        parse_options(options),
        address=address,
        scoring=Scoring(workers=workers, deadline_s=deadline, batch=batch, wait_s=wait_ms / 1000),
        ready=ready,
    )


def _serve_policy(target: str, address: Address, context: int | None, *, as_json: bool) -> NoReturn:
    from alignkit.run.serve.serve_policy import serve_policy
    from alignkit.run.talk.trained import Trained

    def ready(told: dict[str, Any]) -> None:
        if as_json:
            typer.echo(json.dumps(told))
        else:
            typer.echo(f"{told['model']} on {told['url']} once vLLM has loaded it; stop with Ctrl-C")
            if "token" in told:
                typer.echo(f"token, shown this once: {told['token']}")
        sys.stdout.flush()

    trained = Trained.find(target)
    name = Path(target).resolve().name
    serve_policy(trained.folder, name=name, address=address, context=context, ready=ready)
