"""The `gpuplan` command: a table of commands, each imported only when it is called, and the one place errors end.

A command is a module of this folder with a function `command`. Nothing here may import pydantic, rich or boto3.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
import traceback
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import typer
import typer.core
import typer.main

from gpuplan import __version__
from gpuplan.core.errors import ExitCode, GpuplanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "plan": "Batch, memory, time and cost of a run, and the exact requests; starts nothing.",
    "compare": "The same workload on every instance: does it fit, hours, dollars; starts nothing.",
    "memory": "What a training step takes on a GPU, by kind and module; the largest safe batch.",
    "find-lr": "Find the learning rate alone, on one GPU of this machine or of AWS.",
    "find-batch": "Find the largest safe batch alone, and the fastest, on one GPU of the training's kind.",
    "launch": "Run a pipeline: find the learning rate, carry it over, train on all GPUs.",
    "resume": "Go on with a run where it stopped.",
    "status": "What became of a run.",
    "list": "All runs, newest last.",
    "watch": "Follow a run's progress until its job ends.",
    "logs": "Print the log of a run's jobs.",
    "cancel": "Stop a run and confirm that nothing of it is left.",
    "suggest": "Apply any rule to a stored range test; runs no job.",
    "advise": "What another batch means: learning rate by each rule, warm-up, accumulation, regularisation.",
    "doctor": "What a launch needs of the AWS account, checked: identity, role, bucket, image, quotas, offerings.",
    "infra": "The CloudFormation stack of bucket, role and launcher policy: show, deploy, destroy.",
    "profiles": "The instance profiles: list, show, check.",
    "init": "Write a commented gpuplan.toml and its JSON Schema.",
}

_VARIABLE = re.compile(r"GPUPLAN_[A-Z_]+")
_MEANT = {
    "--batch-size": (
        "per GPU or over all GPUs? global batch = batch per GPU x GPUs x accumulated micro-batches",
        "--per-gpu-batch N for the first; the second follows from it, --world-size and --accumulate",
    ),
    "--world-size": (
        "this command runs on one GPU, or takes the GPUs from elsewhere",
        "--carry-to-gpus N says how many GPUs a learning rate is for (find-lr)",
    ),
}
"""Options that people try, with what to say of them."""
_EPILOG = "Start with: gpuplan plan    then: gpuplan launch"


class _LazyGroup(typer.core.TyperGroup):
    """A group whose commands are modules, imported when named."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own context class is private
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - as above
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gpuplan.cli.{cmd_name.replace('-', '_')}")
        if hasattr(module, "app"):
            return typer.main.get_command(module.app)
        single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        single.command(cmd_name, help=inspect.getdoc(module.command))(module.command)
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as above
        """List the commands from the table, importing none of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=_LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it with the flag's value
    if asked:
        typer.echo(f"gpuplan {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: bool = typer.Option(
        False,  # noqa: FBT003 - a flag's default
        "--version",
        help="Print the version and exit.",
        callback=_print_version,
        is_eager=True,
    ),
) -> None:
    """Plan, price and run PyTorch training on AWS GPUs, with the learning rate found on one of them."""
    del version


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a documented status; the entry point of the `gpuplan` script."""
    _replace_closed_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("GPUPLAN_DEBUG", "") not in {"", "0"}
    try:
        status = app(arguments, prog_name="gpuplan", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("\ninterrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        # The reader of our output has gone (`gpuplan logs | head`): not an error, and nothing may be printed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except Exception as error:  # noqa: BLE001 - here every error ends, as words and a status
        if debug and not hasattr(error, "format_message"):
            _print_traceback(error)
        sys.exit(_report(error, as_json=_wants_json(arguments)))
    sys.exit(status if isinstance(status, int) else ExitCode.OK)


def _replace_closed_streams() -> None:
    """Let a command run whose stdout or stderr was closed by its caller (`>&-`): Python then has None there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for the process's life


def _print_traceback(error: Exception) -> None:
    """Print where an error came from; what AWS said in it is told without what was signed and without credentials."""
    from gpuplan.aws.errors import quotable

    for part in traceback.TracebackException.from_exception(error).format():
        typer.echo(part.rstrip("\n") if part.startswith("  File ") else quotable(part), err=True)


def _report(error: Exception, *, as_json: bool) -> int:
    """Say what went wrong, on stderr and with -o json also on stdout, and return the exit status."""
    if hasattr(error, "format_message"):  # typer's own: no command at all, or an option or a command it does not know
        said = error.format_message().rstrip(".")
        if said.startswith("Usage:"):
            typer.echo(said, err=True)
            return ExitCode.USAGE
        error = UsageError(said, **_advice(said, getattr(error, "ctx", None)))
    if not isinstance(error, GpuplanError):
        detail = f"{type(error).__name__}: {error}".splitlines()[0]
        error = GpuplanError(
            f"internal error: {detail}",
            why="this is a fault in gpuplan",
            fix="the same command with --debug shows where",
        )
    for line in _lines(error):
        typer.echo(line, err=True)
    if as_json:
        document = {
            "schema": "gpuplan.error/1",
            "exit_code": int(error.exit_code),
            "error": {"what": error.what, "why": error.why, "fix": error.fix},
        }
        typer.echo(json.dumps(document))
    return int(ExitCode(error.exit_code))


def _advice(said: str, ctx: Any) -> dict[str, str]:  # noqa: ANN401 - typer's own context class is private
    """Return why and fix for a complaint of typer's about a command or a group of commands."""
    for option, (why, fix) in _MEANT.items():
        if said.startswith(f"No such option: {option}"):
            return {"why": why, "fix": fix}
    if variable := _VARIABLE.search(said):
        return {"fix": f"unset {variable[0]}"}
    if wrong := re.match(r"No such command '(.*?)'", said):
        from gpuplan.core.names import did_you_mean

        return {"why": did_you_mean(wrong[1], ctx.command.list_commands(ctx)), "fix": f"{ctx.command_path} --help"}
    return {"fix": "gpuplan --help    or    gpuplan COMMAND --help"}


def _lines(error: GpuplanError) -> list[str]:
    lines = [f"error: {error.what}"]
    if error.why:
        lines.append(f"  why:  {error.why}")
    if error.fix:
        lines.append(f"  next: {error.fix}")
    return lines


def _wants_json(arguments: Sequence[str]) -> bool:
    if {"-ojson", "--output=json"} & set(arguments):
        return True
    return any(one in {"-o", "--output"} and two == "json" for one, two in pairwise(arguments))
