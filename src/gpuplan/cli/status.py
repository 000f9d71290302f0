"""`gpuplan status`: what became of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from gpuplan.cli.account import backend_of
from gpuplan.cli.driving import report
from gpuplan.cli.options import DebugOption, Given, Output, OutputOption, RunArgument, with_account
from gpuplan.cli.runs import find, read
from gpuplan.core.errors import CredentialsError, UnreachableError
from gpuplan.engine.account import so_far
from gpuplan.reports.run_now import JobNow, RunNow

if TYPE_CHECKING:
    from gpuplan.store.record import RunRecord


@with_account
def command(
    given: Given, run: RunArgument = None, output: OutputOption = Output.TEXT, debug: DebugOption = False
) -> None:
    """Show a run: its steps, the learning rate, the result, the failure if there was one. Changes nothing.

    Of a job that has not ended, also what its service says of it now and the dollars so far.
    """
    del debug
    runs, run_id = find(run, given)
    record = read(runs, run_id)
    report(record, runs, output, now=_now(record, given.profile) if record.live_handles() else None)


def _now(record: RunRecord, profile: str | None) -> RunNow:
    """Look at the jobs that are not known to have ended; what cannot be asked is left out, with a word on stderr."""
    at = datetime.now(UTC)
    backend = backend_of(record.plan, profile)
    jobs = []
    for step in record.steps:
        for attempt in step.attempts:
            if attempt.state.terminal:
                continue
            try:
                status = backend.poll(attempt.handle)
            except (CredentialsError, UnreachableError) as error:
                typer.echo(f"note: {error.what}; shown is what was last seen", err=True)
                continue
            since = (at - (attempt.running_since or attempt.started_at)).total_seconds()
            phase = status.detail or status.state.value
            billing = attempt.running_since is not None
            jobs.append(JobNow(step.name, phase, since, billing=billing, ended=status.state.terminal))
    return RunNow(tuple(jobs), so_far(record, at))
