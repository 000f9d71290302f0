"""A run's progress on stderr: a live bar on a terminal, plain lines anywhere else. Observers of the engine."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import typer

from gpuplan.core.job_state import JobState
from gpuplan.core.units import learning_rate
from gpuplan.engine.account import spending
from gpuplan.planning.advice.critical_batch import CriticalBatch
from gpuplan.planning.limits import at_most
from gpuplan.reports.critical_batch_text import critical_batch_blocks, verdict_text
from gpuplan.reports.decision_text import decision_facts
from gpuplan.reports.layout import console, rendered
from gpuplan.reports.progress_text import money_text, progress_line, values_text
from gpuplan.reports.run_text import planned_again_lines, replanned_text
from gpuplan.store import events as ev

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from gpuplan.core.clock import Clock
    from gpuplan.store.record import RunRecord
    from gpuplan_job.contract import Progress

_PLAIN_SECONDS = 5.0
"""A plain line at most this often: logs of CI are read, not watched."""


class Display(Protocol):
    """An observer that has to be closed."""

    def event(self, event: ev.Event) -> None:
        """Show an event."""
        ...

    def progress(self, progress: Progress) -> None:
        """Show where the job stands."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def display(record: RunRecord, clock: Clock) -> Display:
    """Return the display of a run that fits stderr, from where its record stands."""
    meter = Meter(record, clock)
    return Live(meter) if sys.stderr.isatty() else Plain(meter)


class Meter:
    """The run's dollars so far, from its record and the events since; nothing where nothing is billed."""

    def __init__(self, record: RunRecord, clock: Clock) -> None:
        self._plan = record.plan
        self._clock = clock
        self._spending = spending(record)

    def event(self, event: ev.Event) -> None:
        """Take an event of the run in; from a run that is planned again on, the new plan's rates and limits count."""
        if isinstance(event, ev.PlannedAgain):
            self._plan = event.plan
        self._spending = self._spending.after(event, self._plan, self._clock.now())

    def __str__(self) -> str:
        return money_text(self._spending.at(self._clock.now()), at_most(self._plan)) if self._plan.billed else ""


class Plain:
    """Lines, now and then."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._last = 0.0
        self._phase = ""

    def event(self, event: ev.Event) -> None:
        """Print the events a person cares about."""
        self._meter.event(event)
        for line in event_lines(event):
            _say(line)

    def progress(self, progress: Progress) -> None:
        """Print a line if the phase is new or the last line is old."""
        now = time.monotonic()
        if progress.phase == self._phase and not progress.ends_epoch and now - self._last < _PLAIN_SECONDS:
            return
        self._last, self._phase = now, progress.phase
        _say(f"  {progress_line(progress, str(self._meter))}")

    def close(self) -> None:
        """Nothing to leave."""


def _say(line: str) -> None:
    """Print to stderr; that nobody reads it any more is no reason to leave a run undriven."""
    with suppress(BrokenPipeError):
        typer.echo(line, err=True)


class Live:
    """A bar for the running step, event lines above it."""

    def __init__(self, meter: Meter) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._meter = meter
        self._bar: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[values]}"),
            console=console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None
        self._bar.start()

    def event(self, event: ev.Event) -> None:
        """Print above the bar; a step's end takes its bar away."""
        self._meter.event(event)
        for line in event_lines(event):
            self._bar.console.print(line)
        if isinstance(event, ev.Observed) and event.state.terminal and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        text = f"{progress.step}: {progress.phase}"
        if self._task is None:
            self._task = self._bar.add_task(text, total=progress.total, values="")
        self._bar.update(
            self._task,
            description=text,
            completed=progress.done,
            total=progress.total,
            values="  ".join(filter(None, (values_text(progress), str(self._meter)))),
        )

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def event_lines(event: ev.Event) -> list[str]:
    """Return what to print for an event; most say nothing."""
    match event:
        case ev.Submitting():
            bound = f" with LR {learning_rate(event.learning_rate)}" if event.learning_rate else ""
            again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
            return [f"{event.step}: starting {event.handle}{bound}{again}"]
        case ev.Observed() if event.state is not JobState.PENDING:
            detail = f" ({event.detail})" if event.detail else ""
            return [f"{event.step}: {event.state.value}{detail}"]
        case ev.Decided():
            return [f"{label + ': ' if label else ''}{text}" for label, text in decision_facts(event.decision)]
        case ev.PlannedAgain():
            return planned_again_lines(event.plan)
        case ev.Replanned():
            return [f"train: {replanned_text(event)}"]
        case ev.Advised() if isinstance(event.critical_batch, CriticalBatch):
            return rendered(critical_batch_blocks(event.critical_batch), console(stderr=True))
        case ev.Advised():
            return [f"more GPUs: {verdict_text(event.critical_batch)}"]
        case _:
            return []
