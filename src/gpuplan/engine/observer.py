"""Who watches a run while the engine drives it: the command line's progress display, or a test's list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpuplan.store.events import Event
    from gpuplan_job.contract import Progress


class Observer(Protocol):
    """What the engine tells, in the order in which it happens."""

    def event(self, event: Event) -> None:
        """Take an event that has just been recorded."""
        ...

    def progress(self, progress: Progress) -> None:
        """Take the newest progress of the running job."""
        ...


class Silent:
    """An observer that says nothing."""

    def event(self, event: Event) -> None:
        """Ignore it."""

    def progress(self, progress: Progress) -> None:
        """Ignore it."""
