"""A run's progress on stderr: a live bar on a terminal, plain lines anywhere else. Observers of the engine."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import typer

from gpuplan.core.job_state import JobState
from gpuplan.core.units import learning_rate, significant
from gpuplan.planning.advice.critical_batch import CriticalBatch
from gpuplan.reports.critical_batch_text import critical_batch_blocks, verdict_text
from gpuplan.reports.decision_text import decision_facts
from gpuplan.reports.layout import console, rendered
from gpuplan.reports.run_text import planned_again_lines, replanned_text
from gpuplan.store import events as ev

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from gpuplan_job.contract import Progress

_PLAIN_SECONDS = 5.0
"""A plain line at most this often: logs of CI are read, not watched."""
_ORDER = ("loss", "learning_rate", "samples_per_second", "val_loss", "val_accuracy")


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


def display() -> Display:
    """Return the display that fits stderr."""
    return Live() if sys.stderr.isatty() else Plain()


class Plain:
    """Lines, now and then."""

    def __init__(self) -> None:
        self._last = 0.0
        self._phase = ""

    def event(self, event: ev.Event) -> None:
        """Print the events a person cares about."""
        for line in event_lines(event):
            _say(line)

    def progress(self, progress: Progress) -> None:
        """Print a line if the phase is new or the last line is old."""
        now = time.monotonic()
        ended_epoch = "val_accuracy" in progress.values
        if progress.phase == self._phase and not ended_epoch and now - self._last < _PLAIN_SECONDS:
            return
        self._last, self._phase = now, progress.phase
        line = f"  {progress.step}: {progress.phase}, step {progress.done} of {progress.total}  {values_text(progress)}"
        _say(line.rstrip())

    def close(self) -> None:
        """Nothing to leave."""


def _say(line: str) -> None:
    """Print to stderr; that nobody reads it any more is no reason to leave a run undriven."""
    with suppress(BrokenPipeError):
        typer.echo(line, err=True)


class Live:
    """A bar for the running step, event lines above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None
        self._bar.start()

    def event(self, event: ev.Event) -> None:
        """Print above the bar; a step's end takes its bar away."""
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
            values=values_text(progress),
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


def values_text(progress: Progress) -> str:
    """Return a job's newest figures in a fixed order."""
    names = {
        "learning_rate": "LR",
        "samples_per_second": "samples/s",
        "val_loss": "val loss",
        "val_accuracy": "val acc",
    }
    known = [name for name in _ORDER if name in progress.values]
    return "  ".join(f"{names.get(name, name)} {significant(progress.values[name])}" for name in known)
