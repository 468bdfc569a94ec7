"""`alignkit replica`: samples for a run that trains elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.output import JsonOption


def replica(
    trainer: Annotated[str, typer.Argument(help="http(s)://HOST:PORT of the run, its engine.listen.")],
    host: Annotated[
        str, typer.Option(help="Own address, at which the run finds it; needs a certificate, but loopback.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 0,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of the TLS certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    ca_file: Annotated[Path | None, typer.Option(help="PEM file of the run's certificate, if it has its own.")] = None,
    memory_gib: Annotated[int, typer.Option(min=1, help="On a CPU: memory for vLLM's key-value cache.")] = 2,
    memory_fraction: Annotated[float, typer.Option(min=0.05, max=1, help="On a GPU: share of its memory.")] = 0.9,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine; all cores by default.")] = None,
    patience: Annotated[float, typer.Option(min=1, help="Seconds that the run may be away.")] = 600.0,
    log_file: Annotated[Path | None, typer.Option(help="Takes the engine's output.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Sample for a run with engine.placement: servers, until it ends. The token is the run's $ALIGNKIT_TOKEN."""
    from alignkit.rewards.serve.listener import Address
    from alignkit.run.serve.replica import Machine, serve_replica

    def ready(told: dict[str, Any]) -> None:
        typer.echo(json.dumps(told) if as_json else f"samples for {told['trainer']} on {told['url']}; stop with Ctrl-C")
        sys.stdout.flush()

    serve_replica(
        trainer,
        address=Address(host=host, port=port, certificate=certificate, key=key),
        ca_file=str(ca_file) if ca_file else None,
        machine=Machine(
            memory_gib=memory_gib,
            memory_fraction=memory_fraction,
            threads=threads,
            patience_s=patience,
            log_file=log_file,
        ),
        ready=ready,
    )
