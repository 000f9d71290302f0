"""Drive a run and tell its story: the lock, the engine, Ctrl-C, the curve's picture, the final report.

Shared by launch and resume.
"""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from gpuplan.cli.account import backend_of
from gpuplan.cli.options import Output
from gpuplan.cli.own_code import kept_code
from gpuplan.cli.planning import build
from gpuplan.cli.progress import display
from gpuplan.core import payload
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import CredentialsError, ExitCode, UnreachableError
from gpuplan.engine.run import Engine
from gpuplan.reports.layout import Facts, console, show
from gpuplan.reports.run_document import run_document
from gpuplan.reports.run_now import now_document, now_facts
from gpuplan.reports.run_text import run_text
from gpuplan_job import lr_plot
from gpuplan_job.atomic import write_atomic

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from gpuplan.planning.plan import FoundBatch, LaunchPlan
    from gpuplan.reports.run_now import RunNow
    from gpuplan.store.events import Event
    from gpuplan.store.record import RunRecord
    from gpuplan.store.sqlite import RunStore

_PICTURES = {"lr_curve.svg": lr_plot.svg, "lr_curve.png": lr_plot.png}


def drive(
    run_id: str,
    store: RunStore,
    output: Output,
    *,
    detach: bool = False,
    take_over: bool = False,
    first: Event | None = None,
    profile: str | None = None,
) -> None:
    """Take a run to its end and exit with its status; Ctrl-C leaves it running, `detach` does once a job is submitted.

    `first` is recorded before anything else; `take_over` takes the run from a client on another machine; `profile` is
    the AWS profile to use, where not the plan's.

    Raises:
        LockedError: another client drives it.
    """
    clock = SystemClock()
    record = store.record(run_id)
    backend = backend_of(record.plan, profile)
    code: int | None = None
    with store.driving(run_id, take_over=take_over):
        if first is not None:
            store.append(run_id, first)
        shown = display(record, clock)
        _detach_on_hangup()
        _say_if_changed(record)
        try:
            record = Engine(store, backend, clock, shown, at_found_batch).drive(run_id, detach=detach)
            if record.exit_code is None:
                code = ExitCode.INTERRUPTED
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends this client at once
            code = ExitCode.INTERRUPTED
            record = store.record(run_id)
        except (CredentialsError, UnreachableError) as error:
            _lead_back(error, run_id)
            raise
        finally:
            shown.close()
    if code is not None:
        _say_detached(record)
    with suppress(BrokenPipeError):  # whoever read the report has gone; the run's status still stands
        typer.echo("", err=True)
        report(record, store, output, code, anew=True)
    raise typer.Exit(int(code if code is not None else record.exit_code or ExitCode.OK))


def report(
    record: RunRecord,
    store: RunStore,
    output: Output,
    code: int | None = None,
    now: RunNow | None = None,
    *,
    anew: bool = False,
) -> None:
    """Print a record in the wanted form, with the curve's picture if there is one; `now` is what its open jobs do.

    `anew` draws the picture even where there is one already.
    """
    backend = backend_of(record.plan)
    picture = draw(record, store.folder(record.run_id), anew=anew)
    if output is Output.JSON:
        document = run_document(record, backend.locate, code)
        if picture:
            document["lr"]["curve"] = str(picture)
        if now:
            document["now"] = now_document(now)
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    blocks = run_text(record, backend.locate, picture)
    if now:
        blocks.insert(2, Facts(tuple(now_facts(now))))
    show(blocks, console())


def draw(record: RunRecord, folder: Path, *, anew: bool = False) -> Path | None:
    """Write the range test's pictures beside the run's log, and return the first one's path; None without a test.

    Those that are there are kept unless `anew`: drawing takes a second, and a look at a run need not wait for it.
    """
    result = record.measured()
    if result is None or record.decision is None:
        return None
    title = f"{record.plan.workload.model} on {record.plan.workload.data}, run {record.run_id}"
    paths = [folder / name for name in _PICTURES]
    try:
        for path, drawn in zip(paths, _PICTURES.values(), strict=True):
            if anew or not path.exists():
                write_atomic(path, drawn(result, record.decision, title))
    except OSError:  # a full or a read-only disk must not spoil the report
        return paths[0] if paths[0].exists() else None
    except ImportError as error:  # nor must a broken installation
        typer.echo(f"note: the curve is not drawn: {error}", err=True)
        return None
    return paths[0]


def _say_detached(record: RunRecord) -> None:
    running = [step.name for step in record.steps if step.last and not step.last.state.terminal]
    waiting = [step.name for step in record.steps if step.last is None]
    told = f"{running[0]} goes on without this client" if running else "no job is running"
    later = f"; {waiting[0]} starts only after resume" if waiting else ""
    run_id = record.run_id
    lines = [f"\ndetached: {told}{later}", f"  go on:  gpuplan resume {run_id}", f"  stop:   gpuplan cancel {run_id}"]
    typer.echo("\n".join(lines), err=True)


def _lead_back(error: CredentialsError | UnreachableError, run_id: str) -> None:
    """Let an error that ends this client, not the run, say the way back: the same launch would be a second run."""
    error.why = "; ".join(filter(None, (error.why, "a job that runs goes on without this client")))
    resume = f"gpuplan resume {run_id}"
    known = isinstance(error, CredentialsError) and error.fix
    error.fix = f"{error.fix}    then: {resume}" if known else f"{resume}    once AWS answers again"


def _say_if_changed(record: RunRecord) -> None:
    """Warn where gpuplan was changed since the run was planned: its remaining steps run other code."""
    if payload.digest() != record.plan.provenance.payload_sha256:
        typer.echo(
            "note: gpuplan was changed since this run was planned; its remaining steps run the new code", err=True
        )


def _detach_on_hangup() -> None:
    """Treat a closed terminal and a polite kill as Ctrl-C: paid work is never ended silently."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup a hangup means nothing
            signal.signal(number, interrupt)


def at_found_batch(plan: LaunchPlan, found: FoundBatch) -> LaunchPlan:
    """Return what a plan becomes at the batch that its find-batch found; its steps, and the user's code, stay the same.

    Raises:
        UsageError: as `build`, or the user's code is not on this machine.
    """
    held = plan.provenance
    workload = held.settings.workload.model_copy(update={"per_gpu_batch": found.per_gpu})
    settings = held.settings.model_copy(update={"workload": workload})
    return build(settings, held.live_prices, held.lr_source, found, kept_code(plan))
