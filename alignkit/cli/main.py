"""The `alignkit` command: one file per verb. Importing it loads neither torch nor transformers."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from alignkit.cli.best_of_n import best_of_n
from alignkit.cli.chat import chat
from alignkit.cli.check import check
from alignkit.cli.compare import compare
from alignkit.cli.cp import cp
from alignkit.cli.data import data
from alignkit.cli.doctor import doctor
from alignkit.cli.eval import evaluate
from alignkit.cli.explain import explain
from alignkit.cli.export import export
from alignkit.cli.init import init
from alignkit.cli.label_steps import label_steps
from alignkit.cli.ls import ls
from alignkit.cli.replica import replica
from alignkit.cli.report import report
from alignkit.cli.reward_quality import reward
from alignkit.cli.run_folder import run_folder
from alignkit.cli.sample import sample
from alignkit.cli.serve import serve
from alignkit.cli.train import train
from alignkit.cli.watch import watch
from alignkit.errors import AlignkitError, first_line
from alignkit.run.launch.launched import report_end, report_start
from alignkit.types.files import disk_error, sentence

EXIT_BUG, EXIT_INPUT = 1, 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code.

    0 done, 1 a check failed or a bug in alignkit, 2 wrong input, 3 stopped by a health rule, 85 stopped on request
    with a checkpoint, 130 interrupted. Errors are one line each on stderr; `--debug` shows the traceback instead.
    """
    _open_standard_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    report_start(os.environ)
    code = run(arguments)
    _flush()
    sys.exit(report_end(os.environ, code))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    debug = "--debug" in arguments
    try:
        given = [argument for argument in arguments if argument != "--debug"]
        command()(args=given, prog_name="alignkit", obj=debug)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except AlignkitError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        if refused := disk_error(error):
            _complain(sentence(refused, Path(str(refused.filename or "a file"))))
            return EXIT_INPUT
        _complain(f"alignkit failed: {type(error).__name__}: {first_line(error)} (--debug shows where)")
        return EXIT_BUG
    return 0


def _open_standard_streams() -> None:
    """Where a standard stream is closed, the next file to be opened would get its number, and what libraries print."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


def _flush() -> None:
    """What is left for an output that takes no more is dropped: it must not change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(text: str) -> None:
    """Error lines on stderr; those of one process among several say which one it is."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    prefix = f"rank {os.environ.get('RANK')}: " if several else ""
    for line in text.splitlines():
        with contextlib.suppress(OSError):
            print(f"{prefix}{line}", file=sys.stderr)


@functools.cache  # reading the arguments of all verbs takes longer than most checks
def command() -> Callable[..., Any]:
    """What runs the command with the arguments that it is given."""
    return typer.main.get_command(build())


def build() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(
        name="alignkit",
        help="Trains language models from rewards and preferences, one YAML recipe at a time.",
        epilog="--debug, anywhere, shows the traceback of an error.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for verb in (
        init,
        train,
        check,
        data,
        explain,
        ls,
        cp,
        doctor,
        compare,
        report,
        watch,
        chat,
        sample,
        export,
        serve,
        replica,
    ):
        app.command()(verb)
    app.command("eval")(evaluate)
    app.command("best-of-n")(best_of_n)
    app.command("label-steps")(label_steps)
    app.add_typer(reward, name="reward")
    app.add_typer(run_folder, name="run")
    return app
