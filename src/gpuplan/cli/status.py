"""`gpuplan status`: what became of a run."""

from __future__ import annotations

from gpuplan.cli.driving import report
from gpuplan.cli.home import store
from gpuplan.cli.options import DebugOption, Output, OutputOption, RunArgument


def command(run: RunArgument = None, output: OutputOption = Output.TEXT, debug: DebugOption = False) -> None:
    """Show a run: its steps, the learning rate, the result, the failure if there was one. Changes nothing."""
    del debug
    runs = store()
    report(runs.record(runs.resolve(run)), runs, output)
