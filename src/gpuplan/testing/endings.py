"""Why a training job's phase ends before its time. Raised in `job_run`, seen by `cluster` on the way out."""

from __future__ import annotations

from enum import Enum


class Cause(Enum):
    """What came first; the value is the secondary state that shows it."""

    STOPPED = "Stopped"
    MAX_RUNTIME = "MaxRuntimeExceeded"
    MAX_WAIT = "MaxWaitTimeExceeded"
    INTERRUPTED = "Interrupted"
    LOST = "Interrupted without notice"
    ABANDONED = "the emulator closes"

    @property
    def graceful(self) -> bool:
        """Whether the containers are asked to end, and what they wrote until then is kept."""
        return self not in {Cause.LOST, Cause.ABANDONED}


class Ended(Exception):  # noqa: N818 -- not an error: it unwinds the phases of an attempt
    """A phase was cut short."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.value)
        self.cause = cause
