"""`gpuplan resume`: take a run up where its record stands."""

from __future__ import annotations

from gpuplan.cli.driving import drive, report
from gpuplan.cli.home import store
from gpuplan.cli.options import DebugOption, Output, OutputOption, RunArgument
from gpuplan.core.clock import SystemClock
from gpuplan.store import lock
from gpuplan.store.events import Resumed


def command(run: RunArgument = None, output: OutputOption = Output.TEXT, debug: DebugOption = False) -> None:
    """Go on with a run: adopt the job it left running, try a failed step again, or print what it reached.

    A step that is done is never done again.
    """
    del debug
    runs = store()
    run_id = runs.resolve(run)
    record = runs.record(run_id)
    if record.state == "succeeded":
        report(record, runs, output)
        return
    if record.state in {"failed", "cancelled", "cancelling"}:
        with lock.hold(runs.folder(run_id), run_id, SystemClock()):
            runs.append(run_id, Resumed())
    drive(run_id, runs, output)
