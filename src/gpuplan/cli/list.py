"""`gpuplan list`: all runs."""

from __future__ import annotations

import json

import typer

from gpuplan.cli.home import store
from gpuplan.cli.options import DebugOption, Output, OutputOption
from gpuplan.core.errors import StoreError
from gpuplan.reports.layout import Line, console, show
from gpuplan.reports.run_text import runs_table


def command(output: OutputOption = Output.TEXT, debug: DebugOption = False) -> None:
    """List all runs, newest last. A damaged one is named on stderr and hides no other."""
    del debug
    runs = store()
    records = []
    for run_id in runs.run_ids():
        try:
            records.append(runs.record(run_id))
        except StoreError as error:
            typer.echo(f"{run_id}: {error.what}: {error.why}", err=True)
    if output is Output.JSON:
        rows = [
            {"run_id": r.run_id, "state": r.state, "pipeline": r.plan.pipeline, "instance": r.plan.instance}
            for r in records
        ]
        typer.echo(json.dumps({"schema": "gpuplan.list/1", "runs": rows}, indent=2))
    elif records or runs.run_ids():
        show([runs_table(records)], console())
    else:
        show([Line("no runs yet; start one: gpuplan launch")], console())
