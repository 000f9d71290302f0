"""`gpuplan resume`: take a run up where its record stands."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuplan.cli.driving import drive, report
from gpuplan.cli.options import DebugOption, Given, Output, OutputOption, RunArgument, with_account
from gpuplan.cli.runs import find
from gpuplan.store.events import Resumed


@with_account
def command(
    given: Given,
    run: RunArgument = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave once a job is submitted.")] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also from a client on another machine that may be alive.")
    ] = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Go on with a run: adopt the job it left running, try a failed step again, or print what it reached.

    A step that is done is never done again. A run in AWS may be taken up on any machine that can reach its bucket.
    """
    del debug
    runs, run_id = find(run, given)
    record = runs.record(run_id)
    if record.state == "succeeded":
        report(record, runs, output)
        return
    first = Resumed() if record.state in {"failed", "cancelled", "cancelling"} else None
    drive(run_id, runs, output, detach=detach, take_over=take_over, first=first, profile=given.profile)
