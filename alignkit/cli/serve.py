"""`alignkit serve`: a reward over HTTP."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.output import JsonOption, OptionsOption, parse_options


def serve(
    reward: Annotated[str, typer.Argument(help="A reward: a name from `alignkit ls rewards`, ./file.py:name, ...")],
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
    as_json: JsonOption = False,
) -> None:
    """Serve a reward on loopback until Ctrl-C. The token is $ALIGNKIT_TOKEN, or made up and printed once."""
    from alignkit.run.serve.serve import Address, Scoring, serve_reward

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
        address=Address(host=host, port=port, certificate=certificate, key=key),
        scoring=Scoring(workers=workers, deadline_s=deadline, batch=batch, wait_s=wait_ms / 1000),
        ready=ready,
    )
