"""`gpuplan profiles list | show | check`: the instances gpuplan knows, their facts, and whether their files hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuplan.cli.options import DebugOption, Output, OutputOption
from gpuplan.cli.planning import resolve_profile
from gpuplan.core.errors import ExitCode, UsageError
from gpuplan.profiles import load as profiles
from gpuplan.profiles.schema import DetectedProfile
from gpuplan.reports import profiles_text as report
from gpuplan.reports.layout import console, show

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The instance profiles: what each instance has, costs and defaults to.",
)


@app.command("list")
def list_profiles(output: OutputOption = Output.TEXT, debug: DebugOption = False) -> None:
    """List all profiles.

    With GPUs, prices, lifecycle and the instance on which lr-find runs.
    """
    del debug  # read by the entry point
    found = profiles.load_all()
    _print(output, report.list_text(found), report.list_document(found))


@app.command("show")
def show_profile(
    name: Annotated[str, typer.Argument(help="A short or a full name: g5, g5.12xlarge, ml.g5.12xlarge, local.")],
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Show all facts of a profile.

    With where each is from; of local, what was found on this machine.
    """
    del debug
    detected = isinstance(profiles.load(name), DetectedProfile)
    profile = resolve_profile(name)
    text = report.profile_text(profile, detected=detected)
    _print(output, text, report.profile_document(profile, detected=detected))


@app.command("check")
def check_profiles(
    directory: Annotated[
        Path | None, typer.Argument(help="Folder of profile files; by default the shipped one.", show_default=False)
    ] = None,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Check profile files, offline.

    Against the schema and against each other. Exit 2 if anything is found.
    """
    del debug
    folder = directory or profiles.profiles_directory()
    files = len(profiles.names(folder))
    if not files:
        raise UsageError(
            f"no profile file (*.toml) in {folder}",
            why="" if folder.is_dir() else "it is not a folder",
            fix="gpuplan profiles check    checks the shipped ones",
        )
    findings = profiles.check(folder)
    _print(output, report.check_text(folder, files, findings), report.check_document(folder, files, findings))
    if findings:
        raise typer.Exit(ExitCode.USAGE)


def _print(output: Output, blocks: report.Blocks, document: dict[str, Any]) -> None:
    if output is Output.JSON:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show(blocks, console())
